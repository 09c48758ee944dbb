package load

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Habit is how a client uses its connections.
type Habit int

// What clients do.
const (
	Keeping Habit = iota // one request after the other on one connection
	Closing              // a connection for each request
	Idling               // on one connection, with seconds of silence between
)

func (h Habit) String() string {
	return [...]string{"keep-alive", "one connection per request", "idle for seconds"}[h]
}

// The silence of an idling client: long enough to span a roll, short enough
// that a draining worker still sees its next request.
const (
	idleMin = time.Second
	// IdleMax is the longest: a load that ends so long after what it watches has missed nothing.
	IdleMax = 3 * time.Second
)

// Mix returns the habits of n clients: three in eight of the first two kinds,
// and a quarter that idles.
func Mix(n int) []Habit {
	habits := make([]Habit, n)
	for i := range habits {
		habits[i] = [...]Habit{Keeping, Closing, Idling, Keeping, Closing, Keeping, Closing, Idling}[i%8]
	}
	return habits
}

// All returns n times the same habit.
func All(h Habit, n int) []Habit {
	habits := make([]Habit, n)
	for i := range habits {
		habits[i] = h
	}
	return habits
}

// Outcome is what the clients of one load have seen.
type Outcome struct {
	Requests int           // answered
	Opened   int           // connections
	Over     time.Duration // the time that they took
	Latency  Histogram
	Failures []Failure
}

// Rate is how many requests were answered in a second.
func (o *Outcome) Rate() float64 { return float64(o.Requests) / o.Over.Seconds() }

func (o *Outcome) add(other *Outcome) {
	o.Requests += other.Requests
	o.Opened += other.Opened
	o.Failures = append(o.Failures, other.Failures...)
	o.Latency.add(&other.Latency)
}

// ClosedLoop runs one client per habit, each sending its next request when the
// last is answered, for warm and then until ctx ends. Requests answered while
// warming up do not count; failures always do.
func ClosedLoop(ctx context.Context, server *net.TCPAddr, habits []Habit, warm time.Duration) Outcome {
	from := time.Now().Add(warm)
	parts := make([]Outcome, len(habits))
	var clients sync.WaitGroup
	for i, h := range habits {
		clients.Go(func() { parts[i] = h.loop(ctx, NewClient(server), from) })
	}
	clients.Wait()
	total := Outcome{Over: time.Since(from)}
	for i := range parts {
		total.add(&parts[i])
	}
	return total
}

func (h Habit) loop(ctx context.Context, c *Client, from time.Time) (seen Outcome) {
	defer func() {
		c.Close()
		seen.Opened = c.Opened
	}()
	for ctx.Err() == nil {
		start := time.Now()
		if _, failed := c.Ask(h == Closing); failed != nil {
			seen.Failures = append(seen.Failures, *failed)
			// A server that is down must not be asked a million times a second.
			Pause(ctx, time.Millisecond)
		} else if end := time.Now(); !start.Before(from) {
			seen.Requests++
			seen.Latency.Record(end.Sub(start))
		}
		if h == Idling {
			Pause(ctx, idleMin+rand.N(IdleMax-idleMin))
		}
	}
	return seen
}

// Pause waits for d, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// FixedRate sends rate requests a second, evenly, for d, over n connections.
// A request's time begins when it was due, not when a connection was free for
// it: a server that stalls is charged for all who would have come meanwhile
// ("coordinated omission").
func FixedRate(ctx context.Context, server *net.TCPAddr, h Habit, n int, rate float64, d time.Duration) Outcome {
	count := int(rate * d.Seconds())
	due := make(chan time.Time, count) // never blocks the pacer
	parts := make([]Outcome, n)
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			c := NewClient(server)
			defer c.Close()
			for at := range due {
				if _, failed := c.Ask(h == Closing); failed != nil {
					parts[i].Failures = append(parts[i].Failures, *failed)
					continue
				}
				parts[i].Requests++
				parts[i].Latency.Record(time.Since(at))
			}
		})
	}
	start := time.Now()
	pace(ctx, start, rate, count, due)
	close(due)
	clients.Wait()
	total := Outcome{Over: time.Since(start)}
	for i := range parts {
		total.add(&parts[i])
	}
	return total
}
