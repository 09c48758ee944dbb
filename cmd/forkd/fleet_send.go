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
	// grace is how much longer than an order is good its answer is waited for.
	grace = 2 * time.Second
	// lookAgain is how often hosts whose roll is under way are looked at.
	lookAgain = 2 * time.Second
)

// order is one command for hosts of an app, from its sending to the last answer.
type order struct {
	from   fleetReader
	out    io.Writer // how it goes
	app    string
	where  string        // Redis
	c      fleet.Command // without ExpiresAt
	within time.Duration // an order that is not obeyed by then is void
	batch  int           // hosts at a time
	hosts  []fleet.Host
	at     time.Time // Redis's clock when this one showed seen
	seen   time.Time
}

// run sends the order to one batch of hosts after the other, and stops at the
// first that has a failure.
func (o *order) run(ctx context.Context) error {
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	follower := follow(ctx, o.from, o.app, o.at)
	all := newTally(o.c.ID, o.c.Op, nil)
	for next := 0; next < len(o.hosts); next += o.batch {
		t := newTally(o.c.ID, o.c.Op, o.hosts[next:min(next+o.batch, len(o.hosts))])
		all.hosts = append(all.hosts, t.hosts...)
		o.send(ctx, t)
		err := o.await(ctx, t, follower)
		if err != nil || t.count(failed) > 0 {
			var left []string
			for i := range o.hosts[min(next+o.batch, len(o.hosts)):] {
				left = append(left, o.hosts[next+o.batch+i].ID)
			}
			return o.failure(all, left, err)
		}
	}
	fmt.Fprintf(o.out, "%s: %s %s, after %.1fs\n", o.app, plural(len(o.hosts), "host"), past(o.c.Op), time.Since(began).Seconds())
	return nil
}

// send puts the order into the list of each host.
func (o *order) send(ctx context.Context, t *tally) {
	c := o.c
	for _, a := range t.hosts {
		c.ExpiresAt = o.at.Add(time.Since(o.seen) + o.within)
		if ctx.Err() != nil {
			return
		}
		if err := o.from.Send(ctx, o.app, a.host, c); err != nil && ctx.Err() == nil {
			o.tell(a.fail("cannot send it the order: %v", err))
		}
	}
}

// await waits until each host of a batch has ended what it was told, or has not
// answered in time. An error says that nobody knows.
func (o *order) await(ctx context.Context, t *tally, f *follower) error {
	patience := o.within + grace
	if o.c.Op == control.OpShed {
		patience += time.Duration(o.c.Args.Seconds) * time.Second
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for t.open() {
		select {
		case e := <-f.entries:
			o.tell(t.take(e.Event))
		case err := <-f.lost:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return redisFailed(o.where, err)
		case <-late.C:
			for _, a := range t.hosts {
				if a.state == waiting {
					hint := "is redis.control = true there?"
					if least := needed(o.hosts); o.within < least {
						hint = "hosts look for orders when they report: use --within " + least.String()
					}
					o.tell(a.fail("it has not answered within %s: %s", age(patience), hint))
				}
			}
		case <-look.C:
			if t.count(begun) == 0 {
				continue
			}
			if now, err := o.from.Fleet(ctx, o.app, false); err == nil { // else the events tell
				for _, line := range t.look(now.Hosts) {
					o.tell(line)
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (o *order) tell(line string) {
	if line != "" {
		fmt.Fprintln(o.out, sanitize(line))
	}
}

// failure is an order's end in a line: what went wrong, who has done it, and who
// has not. left have not been sent it.
func (o *order) failure(t *tally, left []string, err error) error {
	bad := t.names(failed)
	why := ""
	if len(bad) == 1 {
		i := slices.IndexFunc(t.hosts, func(a *answering) bool { return a.state == failed })
		why = ": " + t.hosts[i].why
	}
	var parts []string
	switch {
	case err != nil:
		first := err.Error()
		if errors.Is(err, context.Canceled) {
			first = "interrupted"
		}
		parts = append(parts, first)
		if len(bad) > 0 {
			parts = append(parts, "failed: "+few(bad)+why)
		}
	case len(left) > 0:
		parts = append(parts, "stopped at "+few(bad)+why)
	default:
		parts = append(parts, fmt.Sprintf("%d of %s failed: %s%s", len(bad), plural(len(o.hosts), "host"), few(bad), why))
	}
	for _, part := range []struct {
		what  string
		names []string
	}{{past(o.c.Op), t.names(done)}, {"not answered, and may yet", t.names(waiting)}, {"begun, and go on", t.names(begun)}, {"not asked", left}} {
		if len(part.names) > 0 {
			parts = append(parts, part.what+": "+few(part.names))
		}
	}
	return &exit{exitFailed, o.app + ": " + strings.Join(parts, "; ")}
}

// past is what hosts are when they have obeyed.
func past(op string) string {
	switch op {
	case control.OpScale:
		return "scaled"
	case control.OpDrain:
		return "draining"
	case control.OpResume:
		return "resumed"
	case control.OpShed:
		return "shedding"
	default:
		return "rolled"
	}
}

// follower reads events in a goroutine of its own, until its context ends.
type follower struct {
	entries chan fleet.Entry
	lost    chan error // Redis has been away for too long
}

// follow reads the events of an app from shortly before a time by Redis's clock,
// so that none of the answers to what is sent after it is missed.
func follow(ctx context.Context, from fleetReader, app string, at time.Time) *follower {
	const slack = 10 * time.Second // another server's clock, after a failover
	f := &follower{entries: make(chan fleet.Entry), lost: make(chan error, 1)}
	after := strconv.FormatInt(max(0, at.Add(-slack).UnixMilli()), 10) + "-0"
	go func() {
		f.lost <- from.Events(ctx, app, after, true, func(e fleet.Entry) error {
			select {
			case f.entries <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return f
}
