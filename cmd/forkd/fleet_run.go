package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

const (
	resultGrace   = 2 * time.Second // results are waited for, after a command has expired
	comparePeriod = 2 * time.Second // between looks at the reports of hosts that roll
)

// commandRun sends a command to hosts of an app, and waits for the results.
type commandRun struct {
	from     fleetReader
	out      io.Writer // of the progress
	app      string
	where    string        // Redis
	command  fleet.Command // without ExpiresAt
	within   time.Duration // until the command expires
	longest  time.Duration // that hosts take to find a command
	batch    int           // hosts at a time
	at, seen time.Time     // Redis's clock, and this host's at the same moment
	*commandTracker
}

// run sends the command to one batch of hosts after the other. It stops after a batch
// with a failure.
func (r *commandRun) run(ctx context.Context) error {
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := follow(ctx, r.from, r.app, r.at)
	for batch := range slices.Chunk(r.hosts, r.batch) {
		r.send(ctx, batch)
		if err := r.await(ctx, events); err != nil || len(r.names(failed)) > 0 {
			return r.failure(err)
		}
	}
	_, past := eventOf(r.op)
	fmt.Fprintf(r.out, "%s: %s %s, after %.1fs\n", r.app, plural(len(r.hosts), "host"), past, time.Since(began).Seconds())
	return nil
}

func (r *commandRun) send(ctx context.Context, batch []*hostResult) {
	for _, h := range batch {
		h.state = waiting
		r.command.ExpiresAt = r.at.Add(time.Since(r.seen) + r.within)
		if err := r.from.Send(ctx, r.app, h.host, r.command); err != nil && ctx.Err() == nil {
			r.print(h.fail("cannot send it the command: %v", err))
		}
	}
}

// await waits until each host that was sent the command has a result, or the
// timeout. An error says that the results are not known.
func (r *commandRun) await(ctx context.Context, events *eventStream) error {
	timeout := r.within + resultGrace
	if r.op == control.OpShed {
		timeout += time.Duration(r.command.Args.Seconds) * time.Second
	}
	late := time.NewTimer(timeout)
	defer late.Stop()
	tick := time.NewTicker(comparePeriod)
	defer tick.Stop()
	for r.open() {
		select {
		case e := <-events.entries:
			r.print(r.note(e.Event))
		case err := <-events.ended:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return redisError(r.where, err)
		case <-late.C:
			hint := "is redis.control = true there?"
			if r.within < r.longest {
				hint = "hosts look for commands when they report: use --within " + r.longest.String()
			}
			for _, h := range r.hosts {
				if h.state == waiting {
					r.print(h.fail("it has not answered within %s: %s", age(timeout), hint))
				}
			}
		case <-tick.C:
			if len(r.names(rolling)) == 0 {
				continue
			}
			if f, err := r.from.Fleet(ctx, r.app, false); err == nil { // events say if Redis is away
				for _, line := range r.compare(f.Hosts) {
					r.print(line)
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (r *commandRun) print(line string) {
	if line != "" {
		fmt.Fprintln(r.out, sanitize(line))
	}
}

// failure is the end of a command in a line: what went wrong, and the hosts by their
// results.
func (r *commandRun) failure(err error) error {
	bad := few(r.names(failed))
	count := len(r.names(failed))
	if count == 1 {
		i := slices.IndexFunc(r.hosts, func(h *hostResult) bool { return h.state == failed })
		bad += ": " + r.hosts[i].reason
	}
	var parts []string
	switch {
	case errors.Is(err, context.Canceled):
		parts = append(parts, "interrupted")
	case err != nil:
		parts = append(parts, err.Error())
	case len(r.names(notSent)) > 0:
		parts = append(parts, "stopped at "+bad)
	default:
		parts = append(parts, fmt.Sprintf("%d of %s failed: %s", count, plural(len(r.hosts), "host"), bad))
	}
	if err != nil && count > 0 {
		parts = append(parts, "failed: "+bad)
	}
	_, past := eventOf(r.op)
	for _, of := range []struct {
		what  string
		state resultState
	}{{past, done}, {"not answered, and may yet", waiting}, {"begun, and go on", rolling}, {"not asked", notSent}} {
		if names := r.names(of.state); len(names) > 0 {
			parts = append(parts, of.what+": "+few(names))
		}
	}
	return &exit{exitFailed, r.app + ": " + strings.Join(parts, "; ")}
}

// eventStream is the events of an app, read by a goroutine of its own.
type eventStream struct {
	entries chan fleet.Entry
	ended   chan error // Redis has been away for too long
}

// follow reads the events from shortly before a time by Redis's clock, until ctx
// ends: the results of commands that are sent later are among them.
func follow(ctx context.Context, from fleetReader, app string, at time.Time) *eventStream {
	const slack = 10 * time.Second // another server's clock, after a failover
	s := &eventStream{entries: make(chan fleet.Entry), ended: make(chan error, 1)}
	after := strconv.FormatInt(max(0, at.Add(-slack).UnixMilli()), 10) + "-0"
	go func() {
		s.ended <- from.Events(ctx, app, after, true, func(e fleet.Entry) error {
			select {
			case s.entries <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return s
}
