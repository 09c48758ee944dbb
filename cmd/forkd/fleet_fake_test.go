package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// fakeFleet is an app in a Redis that there is not.
type fakeFleet struct {
	hosts       []fleet.Host
	away        atomic.Bool                        // Redis is
	onSend      func(host string, c fleet.Command) // at each Send
	unreachable []string                           // hosts that can't be sent to

	events chan fleet.Entry // that come while somebody follows
	broken chan error       // ends a follower's reading
	sent   []string         // "HOST OP"
	last   fleet.Command

	said  atomic.Int32 // events
	after chan string  // where followers began
}

func newFakeFleet(hosts ...string) *fakeFleet {
	f := &fakeFleet{events: make(chan fleet.Entry, 1000), broken: make(chan error, 1), after: make(chan string, 100)}
	for _, id := range hosts {
		f.hosts = append(f.hosts, fleet.Host{ID: id, Boot: "boot-" + id, State: "ready"})
	}
	return f
}

func (f *fakeFleet) Apps(context.Context) ([]string, error) { return []string{"shop"}, f.reach() }

func (f *fakeFleet) reach() error {
	if f.away.Load() {
		return errors.New("connection refused")
	}
	return nil
}

func (f *fakeFleet) Fleet(_ context.Context, app string, _ bool) (fleet.Fleet, error) {
	if err := f.reach(); err != nil {
		return fleet.Fleet{}, err
	}
	if app != "shop" {
		return fleet.Fleet{App: app}, nil
	}
	return fleet.Fleet{App: app, At: time.Now(), Hosts: slices.Clone(f.hosts), Totals: fleet.Totals{Hosts: len(f.hosts)}}, nil
}

func (f *fakeFleet) Advice(ctx context.Context, app string, p advise.Policy) (fleet.Fleet, advise.Advice, error) {
	fl, err := f.Fleet(ctx, app, true)
	_, a := p.Advise(fl.At, advise.Memory{}, fleet.HostsOf(fl))
	return fl, a, err
}

func (f *fakeFleet) Scale(ctx context.Context, app string, p advise.Policy, _ *advise.Memory) (fleet.Fleet, advise.Advice, error) {
	return f.Advice(ctx, app, p)
}

func (*fakeFleet) Advisor(string, string, advise.Policy) *fleet.Advisor { panic("there is no Redis") }

func (f *fakeFleet) Events(ctx context.Context, _, after string, follow bool, each func(fleet.Entry) error) error {
	f.after <- after
	for {
		select {
		case e := <-f.events:
			if err := each(e); err != nil {
				return err
			}
			continue
		default:
		}
		if !follow {
			return f.reach()
		}
		select {
		case e := <-f.events:
			if err := each(e); err != nil {
				return err
			}
		case err := <-f.broken:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *fakeFleet) Send(_ context.Context, _, host string, c fleet.Command) error {
	if slices.Contains(f.unreachable, host) {
		return errors.New("its list is full")
	}
	f.sent = append(f.sent, host+" "+c.Op)
	f.last = c
	if f.onSend != nil {
		f.onSend(host, c)
	}
	return nil
}

// say is an event of a host, of generation 5.
func (f *fakeFleet) say(host, kind, reason string) { f.answer(host, kind, "", reason) }

// answer is an event that a command has caused.
func (f *fakeFleet) answer(host, kind, command, reason string) {
	id := strconv.Itoa(int(f.said.Add(1))) + "-0"
	f.events <- fleet.Entry{ID: id, Event: control.Event{Host: host, Type: kind, Reason: reason, Command: command, Generation: new(5), Time: time.Now()}}
}

// answers makes hosts answer a command at once, with these events.
func (f *fakeFleet) answers(kinds ...string) {
	f.onSend = func(host string, c fleet.Command) {
		for _, kind := range kinds {
			f.answer(host, kind, c.ID, "as told")
		}
	}
}

// many names hosts web-00 to web-N.
func many(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("web-%02d", i))
	}
	return names
}
