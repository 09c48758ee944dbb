package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// printing is where a command prints to, and what it has printed.
func printing(t *testing.T) (std stdio, printed func() string) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return stdio{out: f, err: f}, func() string {
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
}

func TestFleetStatusIsWatchedThroughOutages(t *testing.T) {
	std, printed := printing(t)
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFleet("web-1")
		v := fleetView{app: "shop", where: "redis://x", watch: true}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- v.show(ctx, std, f) }()
		synctest.Wait()
		f.away.Store(true)
		time.Sleep(time.Second)
		synctest.Wait()
		f.away.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	pictures := strings.Split(printed(), "\n\n")
	if len(pictures) != 3 || !strings.Contains(pictures[0], "\nweb-1 ") || !strings.Contains(pictures[2], "\nweb-1 ") ||
		pictures[1] != "redis://x: connection refused: is Redis running there?" {
		t.Errorf("%q", pictures)
	}
}

func TestFleetStatusOfWhatIsNotThere(t *testing.T) {
	std, printed := printing(t)
	f := newFakeFleet()
	v := fleetView{app: "shop", where: "redis://x"}
	watched := v
	watched.watch = true
	for name, see := range map[string]func() error{
		"once":   func() error { return v.show(t.Context(), std, f) },
		"watch":  func() error { return watched.show(t.Context(), std, f) },
		"events": func() error { return fleetEvents(t.Context(), std, f, "shop", "redis://x", true, false) },
	} {
		if code, text := exitCode(see()); code != exitNoApp || text != `no host reports an app "shop" to redis://x: forkd fleet status shows those that are reported` {
			t.Errorf("%s: exit %d, %s", name, code, text)
		}
	}
	v.app = ""
	v.json = true
	if err := v.show(t.Context(), std, f); err != nil {
		t.Error(err)
	}
	if printed() != "[]\n" {
		t.Errorf("%q", printed())
	}
}

// What hosts and events say commands no screen, and is the same for who reads JSON.
func TestFleetOutputCommandsNoTerminal(t *testing.T) {
	std, printed := printing(t)
	f := newFakeFleet("web-1")
	f.hosts[0].State, f.hosts[0].Problem, f.hosts[0].Twin = hostile, hostile, hostile
	f.hosts[0].Workers = []fleet.Worker{{State: hostile}}
	said := control.Event{Host: hostile, Type: hostile, Reason: hostile}
	f.events <- fleet.Entry{ID: "1-0", Event: said}
	f.events <- fleet.Entry{ID: "2-0", Event: said}
	f.hosts = append(f.hosts, fleet.Host{ID: hostile})
	v := fleetView{app: "shop", where: "redis://x", workers: true}
	if err := errors.Join(v.show(t.Context(), std, f), fleetEvents(t.Context(), std, f, "shop", "redis://x", false, false)); err != nil {
		t.Error(err)
	}
	v.json = true
	before := len(printed())
	f.events <- fleet.Entry{ID: "3-0", Event: said}
	if err := errors.Join(v.show(t.Context(), std, f), fleetEvents(t.Context(), std, f, "shop", "redis://x", false, true)); err != nil {
		t.Error(err)
	}
	if strings.ContainsAny(printed(), "\u009b\u007f\x1b\a\u202e\u2066\U000e0041") {
		t.Errorf("%q", printed())
	}
	text, err := json.Marshal(values(t, printed()[before:]))
	want, err2 := json.Marshal(hostile)
	if errors.Join(err, err2) != nil || strings.Count(string(text), strings.Trim(string(want), `"`)) != 8 {
		t.Errorf("%v: the text has changed: %s", errors.Join(err, err2), text)
	}
}

func TestMissingEventsAreCounted(t *testing.T) {
	g := gaps{}
	for i, c := range []struct {
		host, boot string
		seq, want  uint64
	}{
		{"a", "x", 5, 0}, // what is before is not kept
		{"a", "x", 6, 0},
		{"b", "y", 9, 0},
		{"a", "x", 9, 2},
		{"a", "z", 3, 0}, // another life
		{"a", "z", 3, 0},
		{"", "", 0, 0}, // no event that can be read
		{"b", "y", 11, 1},
	} {
		e := fleet.Entry{Boot: c.boot, Event: control.Event{Host: c.host, Seq: c.seq}}
		if got := g.before(e); got != c.want {
			t.Errorf("%d: %d are missing, want %d", i, got, c.want)
		}
	}
}
