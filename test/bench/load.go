package main

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// habit is how a client uses its connections.
type habit int

const (
	keeping habit = iota // one request after the other on one connection
	closing              // a connection for each request
	idling               // on one connection, with seconds of silence between
)

func (h habit) String() string {
	return [...]string{"keep-alive", "one connection per request", "idle for seconds"}[h]
}

// The silence of an idling client: long enough to span a roll, short enough
// that a draining worker still sees its next request.
const (
	idleMin = time.Second
	idleMax = 3 * time.Second
)

// mix returns the habits of n clients: three in eight of the first two kinds,
// and a quarter that idles.
func mix(n int) []habit {
	habits := make([]habit, n)
	for i := range habits {
		habits[i] = [...]habit{keeping, closing, idling, keeping, closing, keeping, closing, idling}[i%8]
	}
	return habits
}

func all(h habit, n int) []habit {
	habits := make([]habit, n)
	for i := range habits {
		habits[i] = h
	}
	return habits
}

// outcome is what the clients of one load have seen.
type outcome struct {
	requests int           // answered
	over     time.Duration // the time that they took
	latency  histogram
	failures []failure
}

func (o *outcome) rate() float64 { return float64(o.requests) / o.over.Seconds() }

func (o *outcome) add(other *outcome) {
	o.requests += other.requests
	o.failures = append(o.failures, other.failures...)
	o.latency.add(&other.latency)
}

// closedLoop runs one client per habit, each sending its next request when the
// last is answered, for warm and then until ctx ends. Requests answered while
// warming up do not count; failures always do.
func closedLoop(ctx context.Context, server *net.TCPAddr, habits []habit, warm time.Duration) outcome {
	from := time.Now().Add(warm)
	parts := make([]outcome, len(habits))
	var clients sync.WaitGroup
	for i, h := range habits {
		clients.Go(func() { parts[i] = h.loop(ctx, newClient(server), from) })
	}
	clients.Wait()
	total := outcome{over: time.Since(from)}
	for i := range parts {
		total.add(&parts[i])
	}
	return total
}

// underLoad has the clients of everything that is disturbed ask a server. finish lets
// them go on until nothing is left of what disturbed them, and returns what they have
// seen; abandon ends them whatever comes.
func (b *bench) underLoad(ctx context.Context, server *net.TCPAddr) (finish func() outcome, abandon func()) {
	load, end := context.WithCancel(ctx)
	seen := make(chan outcome, 1)
	go func() { seen <- closedLoop(load, server, mix(rollClients), b.plan.warm) }()
	return func() outcome {
		pause(ctx, idleMax)
		end()
		return <-seen
	}, end
}

func (h habit) loop(ctx context.Context, c *client, from time.Time) (seen outcome) {
	defer c.close()
	for ctx.Err() == nil {
		start := time.Now()
		if _, failed := c.ask(h == closing); failed != nil {
			seen.failures = append(seen.failures, *failed)
			// A server that is down must not be asked a million times a second.
			pause(ctx, time.Millisecond)
		} else if end := time.Now(); !start.Before(from) {
			seen.requests++
			seen.latency.record(end.Sub(start))
		}
		if h == idling {
			pause(ctx, idleMin+rand.N(idleMax-idleMin))
		}
	}
	return seen
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// fixedRate sends rate requests a second, evenly, for d, over n connections.
// A request's time begins when it was due, not when a connection was free for
// it: a server that stalls is charged for all who would have come meanwhile
// ("coordinated omission").
func fixedRate(ctx context.Context, server *net.TCPAddr, h habit, n int, rate float64, d time.Duration) outcome {
	count := int(rate * d.Seconds())
	due := make(chan time.Time, count) // never blocks the pacer
	parts := make([]outcome, n)
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			c := newClient(server)
			defer c.close()
			for at := range due {
				if _, failed := c.ask(h == closing); failed != nil {
					parts[i].failures = append(parts[i].failures, *failed)
					continue
				}
				parts[i].requests++
				parts[i].latency.record(time.Since(at))
			}
		})
	}
	start := time.Now()
	pace(ctx, start, rate, count, due)
	close(due)
	clients.Wait()
	total := outcome{over: time.Since(start)}
	for i := range parts {
		total.add(&parts[i])
	}
	return total
}
