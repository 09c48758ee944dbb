package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/test/load"
)

const howFleet = "One app with 64 workers under a real redis-server: bytes and round trips by Redis's own counts (`INFO`), " +
	"processor time of the master (`schedstat`) with five beats a second, less what it takes without Redis; so the looks between beats count too. " +
	"Then 10,000 hosts of 64 workers, which do not exist and are reported by forkd's own script: the memory of Redis (`used_memory`, less what an empty one uses), " +
	"how many beats a second it takes (both share the machine's processors) against the 5,000 that so many hosts send, and the whole command `forkd fleet status`, from fork to exit."

const (
	beatWorkers = 64
	beatEvery   = 200 * time.Millisecond
	fleetPace   = 5000.0 // beats a second of 10,000 hosts, every 2 s
	fleetReads  = 10
)

func (b *bench) fleet(ctx context.Context) ([]row, error) {
	beats, err := b.beats(ctx)
	if err != nil {
		return nil, err
	}
	fleet, err := b.simulated(ctx)
	return append(beats, fleet...), err
}

// beats measures a master's own.
func (b *bench) beats(ctx context.Context) ([]row, error) {
	r, err := b.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer r.kill()
	idle, _, err := b.masterWith(ctx, r, "beats-without", "")
	if err != nil {
		return nil, err
	}
	busy, sent, err := b.masterWith(ctx, r, "beats", fmt.Sprintf("[redis]\nurl = %q\ninterval = %q\nconnection_limit_per_host = 100000\n", r.url(), beatEvery))
	if err != nil {
		return nil, err
	}
	n := float64(sent.scripts)
	if n == 0 {
		return nil, fmt.Errorf("no beat came in %v", b.plan.fleetSpan)
	}
	bytes, cost := float64(sent.bytes)/n, milliseconds(busy-idle)/n
	return []row{
		promise("a beat of 64 workers", "under 5 KB", bytes < 5000, "%s bytes", thousands(bytes)),
		promise("round trips of a beat", "1, and one more in 4 beats", float64(sent.reads) <= 1.25*n+1, "%.2f", float64(sent.reads)/n),
		promise("processor time of the master, per beat", "under 1 ms", cost < 1, "%.2f ms, of %d beats", cost, sent.scripts),
	}, nil
}

// traffic is what Redis has seen.
type traffic struct {
	bytes   int64
	scripts int64 // EVALSHA
	reads   int64 // of sockets that had something for it
}

// masterWith is what the master of 64 workers takes while nobody asks for
// anything, and what it sends.
func (b *bench) masterWith(ctx context.Context, r *redisServer, name, settings string) (used time.Duration, sent traffic, err error) {
	a, err := b.runApp(ctx, name, beatWorkers, b.example(), settings)
	if err != nil {
		return 0, sent, err
	}
	defer a.stop()
	load.Pause(ctx, settle)
	from, err := processorTime(a.cmd.Process.Pid)
	if err != nil {
		return 0, sent, err
	}
	c := r.client() // one, so that its own questions are one read each
	defer c.Close()
	if _, err := seen(ctx, c); err != nil {
		return 0, sent, err
	}
	before, err := seen(ctx, c)
	if err != nil {
		return 0, sent, err
	}
	load.Pause(ctx, b.plan.fleetSpan)
	after, err := seen(ctx, c)
	if err != nil {
		return 0, sent, err
	}
	to, err := processorTime(a.cmd.Process.Pid)
	return to - from, traffic{after.bytes - before.bytes, after.scripts - before.scripts, after.reads - before.reads - 1}, err
}

func seen(ctx context.Context, c *redis.Client) (t traffic, err error) {
	info, err := c.Info(ctx, "everything").Result()
	if err != nil {
		return t, err
	}
	t.bytes = infoField(info, "total_net_input_bytes:")
	t.reads = infoField(info, "total_reads_processed:")
	t.scripts = infoField(info, "cmdstat_evalsha:calls=")
	return t, nil
}

// memory is what Redis uses, in bytes.
func (r *redisServer) memory(ctx context.Context) (int64, error) {
	c := r.client()
	defer c.Close()
	info, err := c.Info(ctx, "memory").Result()
	return infoField(info, "used_memory:"), err
}

// infoField is the number after a word in what INFO says; 0 where there is none.
func infoField(info, word string) int64 {
	_, rest, _ := strings.Cut(info, word)
	end := strings.IndexFunc(rest, func(c rune) bool { return c < '0' || c > '9' })
	if end < 0 {
		return 0
	}
	n, _ := strconv.ParseInt(rest[:end], 10, 64)
	return n
}

// simulated measures a fleet that does not exist.
func (b *bench) simulated(ctx context.Context) ([]row, error) {
	r, err := b.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer r.kill()
	empty, err := r.memory(ctx)
	if err != nil {
		return nil, err
	}
	if err := newFakeFleet(b.plan.hosts, beatWorkers, 10*time.Minute).once(ctx, r); err != nil {
		return nil, err
	}
	full, err := r.memory(ctx)
	if err != nil {
		return nil, err
	}
	grown := float64(full-empty) / 1e6
	var plain, whole []float64
	for range fleetReads {
		for _, c := range []struct {
			args  []string
			times *[]float64
		}{{nil, &plain}, {[]string{"--workers"}, &whole}} {
			cmd := exec.CommandContext(ctx, b.program("forkd"), append([]string{"fleet", "status", "--redis", r.url(), "fleet"}, c.args...)...)
			start := time.Now()
			if said, err := cmd.Output(); err != nil {
				return nil, fmt.Errorf("forkd fleet status: %w: %s", err, said)
			}
			*c.times = append(*c.times, time.Since(start).Seconds())
		}
	}

	fast, cancel := context.WithTimeout(ctx, b.plan.fleetSpan)
	defer cancel()
	best, err := newFakeFleet(b.plan.hosts, beatWorkers, 2*time.Second).fullSpeed(fast, r)
	if err != nil {
		return nil, err
	}
	hosts := thousands(float64(b.plan.hosts))
	low, mid, high := quartiles(plain)
	wlow, wmid, whigh := quartiles(whole)
	return []row{
		promise("memory of "+hosts+" hosts x 64 workers", "60 MB or less", grown <= 60, "%.1f MB", grown),
		note("headroom: beats a second at most / 5,000", "%.1f (%s beats a second)", best/fleetPace, thousands(best)),
		promise("fleet status of "+hosts+" hosts", "under 1 s", mid < 1, "%.2f s [%.2f .. %.2f]", mid, low, high),
		note("fleet status --workers of "+hosts+" hosts", "%.2f s [%.2f .. %.2f]", wmid, wlow, whigh),
	}, nil
}
