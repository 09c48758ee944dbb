package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// tally is who of some hosts has answered an order, and how. Answers are events
// that have the order's id.
type tally struct {
	id    string
	op    string
	hosts []*answering // in the order of their names
}

// answering is a host that was sent an order.
type answering struct {
	host       string
	boot       string // of the master that was there when it was sent
	state      answer
	generation *int   // that its roll leads to
	why        string // it failed
}

type answer int

const (
	waiting answer = iota
	begun          // a roll
	done
	failed
)

func newTally(id, op string, hosts []fleet.Host) *tally {
	t := &tally{id: id, op: op}
	for i := range hosts {
		t.hosts = append(t.hosts, &answering{host: hosts[i].ID, boot: hosts[i].Boot})
	}
	return t
}

// open reports whether a host has not ended what it was told.
func (a *answering) open() bool { return a.state == waiting || a.state == begun }

// fail says why a host has not done it.
func (a *answering) fail(format string, args ...any) string {
	a.state, a.why = failed, fmt.Sprintf(format, args...)
	return a.host + ": " + a.why
}

// count is how many hosts are in a state.
func (t *tally) count(state answer) int { return len(t.names(state)) }

// names lists the hosts in one of some states.
func (t *tally) names(states ...answer) []string {
	var names []string
	for _, a := range t.hosts {
		if slices.Contains(states, a.state) {
			names = append(names, a.host)
		}
	}
	return names
}

// open reports whether any host has yet to end what it was told.
func (t *tally) open() bool { return slices.ContainsFunc(t.hosts, (*answering).open) }

// take notes an event. It returns what there is to tell the user, "" for nothing.
func (t *tally) take(e control.Event) string {
	i := slices.IndexFunc(t.hosts, func(a *answering) bool { return a.host == e.Host })
	if i < 0 || !t.hosts[i].open() {
		return ""
	}
	a := t.hosts[i]
	if e.Command != t.id && (a.state != begun || !a.ends(e)) {
		return ""
	}
	why := e.Reason
	switch e.Type {
	case control.EventRefused, control.EventRollFailed, control.EventRolledBack:
		return a.fail("%s", saying(e.Type, why))
	case control.EventDown:
		return a.fail("its master has ended before the roll")
	case control.EventRollStarted:
		a.state, a.generation = begun, e.Generation
	case answerOf(t.op):
		a.state = done
	}
	if e.Generation != nil && t.op == control.OpRoll {
		return fmt.Sprintf("%s: %s, generation %d", a.host, saying(e.Type, why), *e.Generation)
	}
	return a.host + ": " + saying(e.Type, why)
}

// ends reports whether an event without the order's id is the end of the roll that
// the order has begun.
func (a *answering) ends(e control.Event) bool {
	switch e.Type {
	case control.EventRollDone, control.EventRollFailed, control.EventRolledBack:
		return a.generation != nil && e.Generation != nil && *a.generation == *e.Generation
	case control.EventDown:
		return true
	default:
		return false
	}
}

// look compares hosts whose roll is under way with what they report. One that is
// gone, or that another master serves, does not answer any more.
func (t *tally) look(hosts []fleet.Host) []string {
	var lines []string
	for _, a := range t.hosts {
		if a.state != begun {
			continue
		}
		i := slices.IndexFunc(hosts, func(h fleet.Host) bool { return h.ID == a.host })
		switch {
		case i < 0 || hosts[i].Vanished:
			lines = append(lines, a.fail("it has vanished during the roll"))
		case a.boot != "" && hosts[i].Boot != "" && hosts[i].Boot != a.boot:
			lines = append(lines, a.fail("its master has been started anew during the roll"))
		}
	}
	return lines
}

// answerOf is the type of the event that says that an order has been obeyed.
func answerOf(op string) string {
	switch op {
	case control.OpScale:
		return control.EventScaled
	case control.OpDrain:
		return control.EventDraining
	case control.OpResume:
		return control.EventResumed
	case control.OpShed:
		return control.EventShed
	default:
		return control.EventRollDone
	}
}

// saying is an event's type and reason in words.
func saying(kind, why string) string {
	words := strings.ReplaceAll(kind, "_", " ")
	if why == "" {
		return words
	}
	return words + ": " + why
}

// few names some, and counts the rest.
func few(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
