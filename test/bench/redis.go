package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/test/load"
	"github.com/forkd/forkd/test/ports"
)

const howRedis = "The 32 clients of the rolls on 8 workers that are reported to a real redis-server every 2 s. Redis is stopped (SIGSTOP: hung), killed (refused), " +
	"or killed and started again every 2 s (flapping), for a minute each, in which all workers are rolled every 10 s. " +
	"The status is asked for every 100 ms, before and while it lasts. The master's memory is its private pages (`Private_Clean` and `Private_Dirty` of `/proc/PID/smaps_rollup`) at rest, the least of 10 looks, " +
	"before the fault and at its end, Redis still being gone. Recovery is until a complete report is in Redis again, from the moment that Redis answers."

// A redisServer is a real one, on a port that stays the same when it is killed
// and started again. It keeps nothing on disk.
type redisServer struct {
	*server
	port int
	dir  string
}

func (b *bench) startRedis(ctx context.Context) (*redisServer, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("%w: test/install installs it", err)
	}
	port, release, err := ports.Take(1)
	if err != nil {
		return nil, err
	}
	defer release()
	r := &redisServer{port: port, dir: b.dir}
	return r, r.start(ctx, program)
}

func (r *redisServer) start(ctx context.Context, program string) (err error) {
	if r.server, err = launch(r.port, nil, program, "--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--save", "", "--dir", r.dir); err != nil {
		return err
	}
	return r.answers(ctx)
}

func (r *redisServer) again(ctx context.Context) error { return r.start(ctx, r.cmd.Path) }

// answers waits until the server does.
func (r *redisServer) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for !r.pongs() {
		select {
		case <-r.ended:
			return r.failed("ended before it answered:")
		case <-ctx.Done():
			return r.failed("did not answer in time:")
		default:
			load.Pause(ctx, time.Millisecond)
		}
	}
	return nil
}

// pongs reports whether the server answers a PING.
func (r *redisServer) pongs() bool {
	conn, err := net.DialTCP("tcp4", nil, r.address)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	answer := make([]byte, len("+PONG"))
	_, err = io.WriteString(conn, "PING\r\n")
	if err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	return err == nil && string(answer) == "+PONG"
}

func (r *redisServer) url() string { return "redis://127.0.0.1:" + strconv.Itoa(r.port) }

func (r *redisServer) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + strconv.Itoa(r.port), Protocol: 2, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1})
}

func (r *redisServer) kill() {
	_ = r.cmd.Process.Kill()
	<-r.ended
}

// A fault is one way in which Redis fails its clients.
type fault struct {
	name string
	// spoil lasts until ctx ends, and returns with Redis gone.
	spoil func(ctx context.Context, r *redisServer) error
	// mend brings it back.
	mend func(ctx context.Context, r *redisServer) error
}

func faults() []fault {
	return []fault{
		{
			"hung",
			func(ctx context.Context, r *redisServer) error {
				err := r.cmd.Process.Signal(syscall.SIGSTOP)
				<-ctx.Done()
				return err
			},
			func(ctx context.Context, r *redisServer) error {
				if err := r.cmd.Process.Signal(syscall.SIGCONT); err != nil {
					return err
				}
				return r.answers(ctx)
			},
		},
		{
			"refused",
			func(ctx context.Context, r *redisServer) error {
				r.kill()
				<-ctx.Done()
				return nil
			},
			func(ctx context.Context, r *redisServer) error { return r.again(ctx) },
		},
		{
			"flapping",
			func(ctx context.Context, r *redisServer) error {
				for {
					r.kill()
					load.Pause(ctx, 2*time.Second)
					if ctx.Err() != nil {
						return nil
					}
					if err := r.again(context.WithoutCancel(ctx)); err != nil {
						return err
					}
					load.Pause(ctx, 2*time.Second)
				}
			},
			func(ctx context.Context, r *redisServer) error { return r.again(ctx) },
		},
	}
}

const (
	redisInterval = 2 * time.Second
	rollEvery     = 10 * time.Second
	settle        = 6 * time.Second // until a master at rest has given its memory back
)

func (b *bench) redis(ctx context.Context) ([]row, error) {
	var rows []row
	for _, f := range faults() {
		more, err := b.fault(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func (b *bench) fault(ctx context.Context, f fault) ([]row, error) {
	r, err := b.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { r.kill() }()
	a, err := b.runApp(ctx, "redis-"+f.name, masterWorkers, b.example(), fmt.Sprintf("%s[redis]\nurl = %q\ninterval = %q\nhost_id = \"bench\"\n", rollSettings, r.url(), redisInterval))
	if err != nil {
		return nil, err
	}
	defer a.stop()

	finish, abandon := b.underLoad(ctx, a.address)
	defer abandon()

	// One roll before anything is compared: the first one makes the heap what it is.
	if err := a.reload(); err != nil {
		return nil, err
	}
	load.Pause(ctx, settle)
	calm, err := a.askedFor(ctx, b.plan.faultSpan/4)
	if err != nil {
		return nil, err
	}
	load.Pause(ctx, settle)
	before, err := atRest(ctx, a.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}

	bad, over := context.WithTimeout(ctx, b.plan.faultSpan)
	defer over()
	spoiled := make(chan error, 1)
	go func() { spoiled <- f.spoil(bad, r) }()
	rolled := make(chan error, 1)
	rolls := 0
	go func() { rolled <- a.rollsEvery(bad, rollEvery, &rolls) }()
	disturbed, err := a.askedFor(bad, b.plan.faultSpan)
	if err := firstOf(err, <-rolled, <-spoiled); err != nil {
		return nil, err
	}
	load.Pause(ctx, settle)
	after, err := atRest(ctx, a.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	if err := f.mend(ctx, r); err != nil {
		return nil, err
	}
	back, err := r.complete(ctx, a.name, masterWorkers)
	if err != nil {
		return nil, err
	}
	o := finish()
	failures := load.Count(o.Failures)
	grown := float64(after-before) / 1e6
	return []row{
		promise(f.name+": failed requests", "0", failures.Total() == 0, "%v of %s, in %d rolls", failures, thousands(float64(o.Requests)), rolls),
		promise(f.name+": status, while / before", "1.5 or less", median(disturbed) <= 1.5*median(calm), "%.2f (%.2f ms, %.2f ms)", median(disturbed)/median(calm), median(disturbed), median(calm)),
		promise(f.name+": growth of the master", "under 1 MB", grown < 1, "%.2f MB (from %.1f MB)", grown, float64(before)/1e6),
		promise(f.name+": complete report after recovery", "interval + 1 s = 3 s", back <= redisInterval+time.Second, "%.2f s", back.Seconds()),
	}, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// askedFor asks for the status ten times a second, and returns how long each
// answer took, in milliseconds.
func (a *app) askedFor(ctx context.Context, span time.Duration) (took []float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	for ctx.Err() == nil {
		start := time.Now()
		if _, err := a.client.Status(context.WithoutCancel(ctx)); err != nil {
			return nil, err
		}
		took = append(took, milliseconds(time.Since(start)))
		load.Pause(ctx, 100*time.Millisecond)
	}
	return took, nil
}

// rollsEvery rolls all workers at intervals until ctx ends, and counts.
func (a *app) rollsEvery(ctx context.Context, every time.Duration, n *int) error {
	for {
		load.Pause(ctx, every/2)
		if ctx.Err() != nil {
			return nil
		}
		if err := a.reload(); err != nil {
			return err
		}
		*n++
		load.Pause(ctx, every/2)
	}
}

// complete waits for a report of now with all its workers, and says how long it
// took.
func (r *redisServer) complete(ctx context.Context, app string, workers int) (time.Duration, error) {
	client := r.client()
	defer client.Close()
	start := time.Now()
	for time.Since(start) < startTime {
		host, err := client.HGetAll(ctx, "forkd:{"+app+"}:host:bench").Result()
		if err != nil {
			return 0, err
		}
		at, _ := strconv.ParseInt(host["updated_at"], 10, 64)
		if at >= start.UnixMilli() && host["ready"] == strconv.Itoa(workers) && host["workers"] != "" {
			return time.Since(start), nil
		}
		load.Pause(ctx, 5*time.Millisecond)
	}
	return 0, fmt.Errorf("no report came within %v", startTime)
}

// atRest is the least that a process has to itself in a few looks: what is alive in
// it, without what the collector has yet to find.
func atRest(ctx context.Context, pid int) (least int64, err error) {
	for look := range 10 {
		now, err := privateOf(pid)
		if err != nil {
			return 0, err
		}
		if look == 0 || now < least {
			least = now
		}
		load.Pause(ctx, 200*time.Millisecond)
	}
	return least, nil
}

// privateOf is what memory a process has to itself, in bytes.
func privateOf(pid int) (bytes int64, err error) {
	for _, field := range []string{"Private_Clean:", "Private_Dirty:"} {
		n, err := rollup(pid, field)
		if err != nil {
			return 0, err
		}
		bytes += n
	}
	return bytes, nil
}
