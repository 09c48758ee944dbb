package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/test/load"
)

const howCounts = "Clients that each ask once and then hold their connection, and see it when that is closed. What they hold is compared with `connections` of the host's hash, " +
	"while 2 s pass between reports, after a worker was killed (its clients come back once the counts have been compared), " +
	"after a roll whose old workers have drained (each client comes back at once), and after `forkd fleet shed` of a tenth (nobody comes back). " +
	"The time is from the last change that a client saw until Redis has the same number."

const countsSettings = "[drain]\ntimeout = \"3s\"\n[update]\nmonitor = \"1s\"\n[redis]\nurl = %q\ninterval = %q\nhost_id = \"bench\"\ncontrol = true\n"

func (b *bench) counts(ctx context.Context) ([]row, error) {
	r, err := b.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer r.kill()
	a, err := b.runApp(ctx, "counts", b.cores, b.example(), fmt.Sprintf(countsSettings, r.url(), redisInterval))
	if err != nil {
		return nil, err
	}
	defer a.stop()
	c := r.client()
	defer c.Close()

	crowd := newCrowd(a, b.plan.held)
	defer crowd.leave()
	if err := crowd.fill(); err != nil {
		return nil, err
	}
	var rows []row
	compare := func(after string) error {
		took, err := crowd.agree(ctx, c)
		if err != nil {
			return fmt.Errorf("after %s: %w", after, err)
		}
		rows = append(rows, promise("exact after "+after, "one beat, 2 s", took <= redisInterval, "%d held, %.2f s", crowd.held(), took.Seconds()))
		return nil
	}
	if err := compare("connecting"); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		name  string
		stays bool // who is cut off does not come back at once
		do    func() error
	}{
		{"a crash", true, func() error { return crowd.crash(ctx) }},
		{"a roll", false, func() error { return crowd.roll(ctx) }},
		{"a shed", true, func() error { return crowd.shed(ctx, r.url()) }},
	} {
		crowd.stays.Store(step.stays)
		if err := step.do(); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
		if err := compare(step.name); err != nil {
			return nil, err
		}
		if step.name == "a crash" {
			if err := crowd.fill(); err != nil {
				return nil, err
			}
		}
	}
	return rows, nil
}

// A crowd is clients that hold one connection each.
type crowd struct {
	app  *app
	size int

	stays   atomic.Bool // who is cut off stays away
	open    atomic.Int64
	changed atomic.Int64 // when open did last, Unix nanoseconds
	failed  atomic.Pointer[load.Failure]

	end     chan struct{}
	clients sync.WaitGroup
}

func newCrowd(a *app, size int) *crowd { return &crowd{app: a, size: size, end: make(chan struct{})} }

func (c *crowd) held() int64 { return c.open.Load() }

func (c *crowd) count(n int64) {
	c.open.Add(n)
	c.changed.Store(time.Now().UnixNano())
}

// fill lets clients come until there are as many as there should be, a hundred at
// a time: no more than a queue holds.
func (c *crowd) fill() error {
	for c.held() < int64(c.size) {
		var batch sync.WaitGroup
		for range min(100, int64(c.size)-c.held()) {
			batch.Add(1)
			c.clients.Go(func() { c.client(batch.Done) })
		}
		batch.Wait()
		if f := c.failed.Load(); f != nil {
			return f.Err
		}
	}
	return nil
}

// client holds a connection until it is closed, and comes back if it should.
func (c *crowd) client(came func()) {
	one := load.NewClient(c.app.address)
	defer one.Close()
	come := sync.OnceFunc(came)
	defer come()
	for {
		if _, failed := one.Ask(false); failed != nil {
			c.failed.Store(failed)
			return
		}
		if one.Conn == nil {
			continue // told that it was the last: this worker drains
		}
		c.count(1)
		come()
		c.watch(one)
		c.count(-1)
		one.Close()
		select {
		case <-c.end:
			return
		default:
			if c.stays.Load() {
				return
			}
		}
	}
}

// watch returns when the connection is closed.
func (c *crowd) watch(one *load.Client) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = one.Conn.SetReadDeadline(time.Time{})
		var b [1]byte
		_, _ = one.Conn.Read(b[:])
	}()
	select {
	case <-gone:
	case <-c.end:
		_ = one.Conn.SetReadDeadline(time.Unix(1, 0))
		<-gone
	}
}

func (c *crowd) leave() {
	close(c.end)
	c.clients.Wait()
}

// agree waits until nothing has changed for clients for longer than two beats
// take, Redis having the same number all the while but for the first time, which
// is returned.
func (c *crowd) agree(ctx context.Context, r *redis.Client) (took time.Duration, err error) {
	agreed := false
	for start := time.Now(); time.Since(start) < 2*startTime; load.Pause(ctx, 5*time.Millisecond) {
		last := c.changed.Load()
		held := c.held()
		text, err := r.HGet(ctx, "forkd:{"+c.app.name+"}:host:bench", "connections").Result()
		if err != nil {
			return 0, err
		}
		n, _ := strconv.ParseInt(text, 10, 64)
		now := time.Now()
		switch {
		case last != c.changed.Load() || n != held:
			agreed = false
		case !agreed:
			agreed, took = true, now.Sub(time.Unix(0, last))
		case now.Sub(time.Unix(0, last)) > 2*redisInterval+took:
			return took, nil
		}
	}
	return 0, fmt.Errorf("clients hold %d connections, and Redis does not say so", c.held())
}

// crash kills one worker.
func (c *crowd) crash(ctx context.Context) error {
	status, err := c.app.client.Status(ctx)
	if err != nil {
		return err
	}
	before := c.held()
	pid := readyPID(status.Slots[0])
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	if _, err := c.app.successor(ctx, 0, pid); err != nil {
		return err
	}
	return c.until(ctx, func() bool { return c.held() < before })
}

// roll replaces all workers, and waits until the old ones have drained.
func (c *crowd) roll(ctx context.Context) error {
	if err := c.app.reload(); err != nil {
		return err
	}
	return c.until(ctx, func() bool {
		status, err := c.app.client.Status(ctx)
		if err != nil || c.held() != int64(c.size) {
			return false
		}
		for _, s := range status.Slots {
			if len(s.Workers) != 1 {
				return false
			}
		}
		return true
	})
}

func (c *crowd) shed(ctx context.Context, url string) error {
	before := c.held()
	n := int64(c.size) / 10
	said, err := c.app.command(ctx, "fleet", "shed", "--redis", url, "--seconds", "5", c.app.name, strconv.FormatInt(n, 10), "bench").CombinedOutput()
	if err != nil {
		return fmt.Errorf("forkd fleet shed: %w: %s", err, said)
	}
	return c.until(ctx, func() bool { return c.held() <= before-n })
}

func (c *crowd) until(ctx context.Context, holds func() bool) error {
	for start := time.Now(); time.Since(start) < startTime; load.Pause(ctx, 20*time.Millisecond) {
		if holds() {
			return nil
		}
	}
	return errors.New("it did not come about in time")
}
