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

// commandRun sends a command to hosts of an app, and tracks the results by the events
// that carry its id.
type commandRun struct {
	from     fleetReader
	out      io.Writer // of the progress
	app      string
	where    string        // Redis
	command  fleet.Command // without ExpiresAt
	hosts    []*hostResult
	within   time.Duration // until the command expires
	longest  time.Duration // that hosts take to find a command
	batch    int           // hosts at a time
	at, seen time.Time     // Redis's clock, and this host's at the same moment

	reason string // of the last failure
}

type hostResult struct {
	fleet.Host // when the command was sent

	result resultState
}

type resultState int

const (
	notSent resultState = iota
	waiting
	rolling
	done
	failed
)

// open reports whether a host that was sent the command has no result yet.
func (h *hostResult) open() bool { return h.result == waiting || h.result == rolling }

// run sends the command to one batch of hosts after the other. It stops after a batch
// with a failure.
func (r *commandRun) run(ctx context.Context) error {
	const slack = 10 * time.Second // another server's clock, after a failover
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, ended := make(chan fleet.Entry), make(chan error, 1)
	after := strconv.FormatInt(max(0, r.at.Add(-slack).UnixMilli()), 10) + "-0"
	go func() {
		ended <- r.from.Events(ctx, r.app, after, true, func(e fleet.Entry) error {
			select {
			case events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	for batch := range slices.Chunk(r.hosts, r.batch) {
		for _, h := range batch {
			h.result = waiting
			r.command.ExpiresAt = r.at.Add(time.Since(r.seen) + r.within)
			if err := r.from.Send(ctx, r.app, h.ID, r.command); err != nil && ctx.Err() == nil {
				r.fail(h, "cannot send it the command: %v", err)
			}
		}
		if err := r.await(ctx, events, ended); err != nil || len(r.names(failed)) > 0 {
			return r.failure(err)
		}
	}
	_, past := eventOf(r.command.Op)
	fmt.Fprintf(r.out, "%s: %s %s, after %.1fs\n", r.app, plural(len(r.hosts), "host"), past, time.Since(began).Seconds())
	return nil
}

// await waits until each host that was sent the command has a result, or the
// timeout. An error says that the results are not known.
func (r *commandRun) await(ctx context.Context, events <-chan fleet.Entry, ended <-chan error) error {
	const (
		grace         = 2 * time.Second // for results, after the command has expired
		comparePeriod = 2 * time.Second
	)
	timeout := r.within + grace
	if r.command.Op == control.OpShed {
		timeout += time.Duration(r.command.Args.Seconds) * time.Second
	}
	late := time.After(timeout)
	tick := time.NewTicker(comparePeriod)
	defer tick.Stop()
	for slices.ContainsFunc(r.hosts, (*hostResult).open) {
		select {
		case e := <-events:
			r.note(e.Event)
		case err := <-ended: // Redis has been away for too long
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return redisError(r.where, err)
		case <-late:
			for _, h := range r.hosts {
				if h.result != waiting {
					continue
				}
				hint := ""
				switch {
				case r.within < r.longest:
					hint = ": hosts look for commands when they report: use --within " + r.longest.String()
				case h.Control == nil:
					hint = ": is redis.control = true there?"
				}
				r.fail(h, "it has not answered within %s%s", age(timeout), hint)
			}
		case <-tick.C:
			r.compare(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (r *commandRun) note(e control.Event) {
	i := slices.IndexFunc(r.hosts, func(h *hostResult) bool { return h.ID == e.Host && h.open() })
	if i < 0 {
		return
	}
	h := r.hosts[i]
	switch {
	case e.Type == control.EventDown && h.result == rolling:
		r.fail(h, "its master has ended before the roll")
		return
	case e.Command != r.command.ID:
		return
	}
	text := withReason(strings.ReplaceAll(e.Type, "_", " "), e.Reason)
	ended, _ := eventOf(r.command.Op)
	switch e.Type {
	case control.EventRefused, control.EventRollFailed, control.EventRolledBack:
		r.fail(h, "%s", text)
		return
	case control.EventRollStarted:
		h.result = rolling
	case ended:
		h.result = done
	}
	if e.Generation != nil && ended == control.EventRollDone {
		text += fmt.Sprintf(", generation %d", *e.Generation)
	}
	r.print(h, text)
}

// compare compares the hosts that roll with what they report. A host that has
// vanished, or has another master, sends no result any more.
func (r *commandRun) compare(ctx context.Context) {
	if len(r.names(rolling)) == 0 {
		return
	}
	f, err := r.from.Fleet(ctx, r.app, false)
	if err != nil {
		return // the events say if Redis is away
	}
	for _, h := range r.hosts {
		if h.result != rolling {
			continue
		}
		i := slices.IndexFunc(f.Hosts, func(now fleet.Host) bool { return now.ID == h.ID })
		switch {
		case i < 0 || f.Hosts[i].Vanished:
			r.fail(h, "it has vanished during the roll")
		case h.Boot != "" && f.Hosts[i].Boot != "" && f.Hosts[i].Boot != h.Boot:
			r.fail(h, "its master has been started anew during the roll")
		}
	}
}

func (r *commandRun) fail(h *hostResult, format string, args ...any) {
	h.result, r.reason = failed, fmt.Sprintf(format, args...)
	r.print(h, r.reason)
}

func (r *commandRun) print(h *hostResult, text string) {
	fmt.Fprintln(r.out, sanitize(h.ID+": "+text))
}

func (r *commandRun) names(result resultState) []string {
	var names []string
	for _, h := range r.hosts {
		if h.result == result {
			names = append(names, h.ID)
		}
	}
	return names
}

// failure is the end of a command in a line: what went wrong, and the hosts by their
// results.
func (r *commandRun) failure(err error) error {
	count := len(r.names(failed))
	bad := few(r.names(failed))
	if count == 1 {
		bad += ": " + r.reason
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
	_, past := eventOf(r.command.Op)
	for _, of := range []struct {
		what   string
		result resultState
	}{{past, done}, {"not answered, and may yet", waiting}, {"begun, and go on", rolling}, {"not asked", notSent}} {
		if names := r.names(of.result); len(names) > 0 {
			parts = append(parts, of.what+": "+few(names))
		}
	}
	return &exit{exitFailed, r.app + ": " + strings.Join(parts, "; ")}
}
