package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/state"
)

// keptOf reads what was kept of an app. There is nothing of what runs in another directory
// than the usual, and not every name is a good one. Notes go to stderr.
func keptOf(std stdio, app string) (state.History, error) {
	if !control.ValidName(app) {
		return state.History{}, os.ErrNotExist
	}
	h, err := state.Read(app)
	for _, note := range h.Notes {
		fmt.Fprintln(std.err, "forkd: "+sanitize(h.Path+": "+note))
	}
	return h, err
}

// withoutMaster is the error of an app that does not run: with what was kept of it, or why
// there is nothing.
func withoutMaster(std stdio, gone error, show func(state.History) error) error {
	noApp, ok := errors.AsType[*control.NoAppError](gone)
	if !ok {
		return gone
	}
	h, err := keptOf(std, noApp.Name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return gone
	case err != nil:
		return fmt.Errorf("%s does not run, and its history can't be read: %w", noApp.Name, err)
	}
	return show(h)
}

// earlier returns the kept events of other lives of the master than boot, the newest most of
// them.
func earlier(h state.History, boot string, most uint) (events []control.Event) {
	for _, r := range h.Records {
		if r.Event != nil && r.Boot != boot {
			events = append(events, *r.Event)
		}
	}
	return events[max(0, len(events)-int(min(most, 1<<30))):]
}

// addEarlier puts the kept exits and rolls that a description does not have in front of its
// own. Times tell nothing: a clock may have been set meanwhile.
func addEarlier(d *control.Description, h state.History) {
	var exits []control.Exit
	var rolls []control.RollRecord
	for _, r := range h.Records {
		if e := r.Exit; e != nil && !slices.ContainsFunc(d.History, func(has control.Exit) bool { return has.PID == e.PID && has.At.Equal(e.At) }) {
			exits = append(exits, *e)
		}
		if roll := r.Roll; roll != nil && !slices.ContainsFunc(d.Rolls, func(has control.RollRecord) bool {
			return has.Generation == roll.Generation && has.EndedAt.Equal(roll.EndedAt)
		}) {
			rolls = append(rolls, *roll)
		}
	}
	d.History, d.Rolls = append(exits, d.History...), append(rolls, d.Rolls...)
}

const stoppedState = "stopped"

// lastWords says how an app that does not run ended, as far as is known.
func lastWords(h state.History, now time.Time) string {
	for _, r := range slices.Backward(h.Records) {
		switch e := r.Event; {
		case e == nil:
		case e.Type == control.EventDown:
			reason := e.Reason
			if reason == stoppedState {
				reason = ""
			}
			return withReason("stopped "+clock(e.Time, now), reason)
		default:
			return "its master has ended without a word after " + clock(e.Time, now) + ": killed, or the machine stopped"
		}
	}
	return stoppedState
}
