package fleet

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tempo counts what a simulation does.
type tempo struct {
	sent, received atomic.Int64

	mu        sync.Mutex
	beats     int64
	failed    int64
	error     string
	late      time.Duration
	trips     []time.Duration // since the last progress
	lastBeats int64           // then
	lastAt    time.Duration
}

// mostTrips bounds what is kept for the percentiles.
const mostTrips = 1 << 16

func (t *tempo) add(beats int, trip, late time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beats += int64(beats)
	t.late = max(t.late, late)
	if len(t.trips) < mostTrips {
		t.trips = append(t.trips, trip)
	}
}

func (t *tempo) fail(err error, beats int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beats += int64(beats)
	t.failed += int64(beats)
	t.error = line(err.Error())
}

// take is the progress up to now, for which it starts anew.
func (t *tempo) take(s *simulation, elapsed time.Duration) Simulated {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := Simulated{
		Elapsed: elapsed,
		Hosts:   int(min(t.beats-t.failed, int64(s.Hosts))),
		Beats:   t.beats,
		Failed:  t.failed,
		Wanted:  float64(s.Hosts) / s.settings.interval().Seconds(),
		Late:    t.late,
		Error:   t.error,
		Sent:    t.sent.Load(), Received: t.received.Load(),
	}
	if since := elapsed - t.lastAt; since > 0 {
		p.PerSecond = float64(t.beats-t.lastBeats) / since.Seconds()
	}
	if n := len(t.trips); n > 0 {
		slices.Sort(t.trips)
		p.Median, p.P99, p.Worst = t.trips[n/2], t.trips[n*99/100], t.trips[n-1]
	}
	if t.beats > 0 {
		p.BeatBytes = p.Sent / t.beats
	}
	t.trips, t.late, t.lastBeats, t.lastAt = t.trips[:0], 0, t.beats, elapsed
	return p
}

// count makes connections of which the bytes are counted.
func (t *tempo) count(through dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := through(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &countedConn{conn, t}, nil
	}
}

type countedConn struct {
	net.Conn

	tempo *tempo
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.tempo.received.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.tempo.sent.Add(int64(n))
	return n, err
}
