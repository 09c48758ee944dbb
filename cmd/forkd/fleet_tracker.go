package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// commandTracker tracks the results of a command by the events that carry its id.
type commandTracker struct {
	id, op string
	hosts  []*hostResult // by name
}

// hostResult is the result of a command on one host.
type hostResult struct {
	host   string
	boot   string // of the host's master when the command was sent
	state  resultState
	reason string // of a failure
}

type resultState int

const (
	notSent resultState = iota
	waiting
	rolling
	done
	failed
)

func newTracker(id, op string, hosts []fleet.Host) *commandTracker {
	t := &commandTracker{id: id, op: op}
	for i := range hosts {
		t.hosts = append(t.hosts, &hostResult{host: hosts[i].ID, boot: hosts[i].Boot})
	}
	return t
}

// fail sets a failure and returns the line that says so.
func (r *hostResult) fail(format string, args ...any) string {
	r.state, r.reason = failed, fmt.Sprintf(format, args...)
	return r.host + ": " + r.reason
}

// names are the hosts in a state.
func (t *commandTracker) names(state resultState) []string {
	var names []string
	for _, r := range t.hosts {
		if r.state == state {
			names = append(names, r.host)
		}
	}
	return names
}

// open reports whether a host that was sent the command has no result yet.
func (t *commandTracker) open() bool { return len(t.names(waiting))+len(t.names(rolling)) > 0 }

// note notes an event. It returns the line for the user, or "".
func (t *commandTracker) note(e control.Event) string {
	i := slices.IndexFunc(t.hosts, func(r *hostResult) bool {
		return r.host == e.Host && (r.state == waiting || r.state == rolling)
	})
	if i < 0 {
		return ""
	}
	r := t.hosts[i]
	text := withReason(strings.ReplaceAll(e.Type, "_", " "), e.Reason)
	ended, _ := eventOf(t.op)
	switch {
	case e.Type == control.EventDown && r.state == rolling:
		return r.fail("its master has ended before the roll")
	case e.Command != t.id:
		return ""
	}
	switch e.Type {
	case control.EventRefused, control.EventRollFailed, control.EventRolledBack:
		return r.fail("%s", text)
	case control.EventRollStarted:
		r.state = rolling
	case ended:
		r.state = done
	}
	if e.Generation != nil && t.op == control.OpRoll {
		text += fmt.Sprintf(", generation %d", *e.Generation)
	}
	return r.host + ": " + text
}

// compare compares the hosts that roll with what they report. A host that has
// vanished, or has another master, sends no result any more.
func (t *commandTracker) compare(hosts []fleet.Host) []string {
	var lines []string
	for _, r := range t.hosts {
		if r.state != rolling {
			continue
		}
		i := slices.IndexFunc(hosts, func(h fleet.Host) bool { return h.ID == r.host })
		switch {
		case i < 0 || hosts[i].Vanished:
			lines = append(lines, r.fail("it has vanished during the roll"))
		case r.boot != "" && hosts[i].Boot != "" && hosts[i].Boot != r.boot:
			lines = append(lines, r.fail("its master has been started anew during the roll"))
		}
	}
	return lines
}

// eventOf is the type of the event of a command that is done, and the word for its
// hosts.
func eventOf(op string) (event, past string) {
	switch op {
	case control.OpScale:
		return control.EventScaled, "scaled"
	case control.OpDrain:
		return control.EventDraining, "draining"
	case control.OpResume:
		return control.EventResumed, "resumed"
	case control.OpShed:
		return control.EventShed, "shedding"
	default:
		return control.EventRollDone, "rolled"
	}
}
