package main

import (
	"testing"

	"github.com/forkd/forkd/internal/control"
)

// Every event that stands out is one that there is.
func TestEventColors(t *testing.T) {
	for kind, want := range map[string]style{
		control.EventCrashed: red, control.EventFailed: red, control.EventRollFailed: red, control.EventRolledBack: red,
		control.EventBackoff: yellow, control.EventDraining: yellow, control.EventLeftover: yellow, control.EventListeningAgain: yellow, control.EventTerminalClosed: yellow,
		control.EventOverloaded: red, control.EventStalled: yellow, control.EventReplaceFailed: yellow, control.EventRecovered: green,
		control.EventReady: green, control.EventRollDone: green, control.EventUp: green, control.EventResumed: green,
		control.EventExited: plain, control.EventReplaced: plain, control.EventScaled: plain, control.EventDown: plain, control.EventRollStarted: plain,
		"shed": plain, "": plain,
	} {
		if got := eventStyle(kind); got != want {
			t.Errorf("%s is painted %q, want %q", kind, got, want)
		}
	}
}
