package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// execute runs a command in a bubble of its own and returns what was printed.
func execute(ctx context.Context, f *fakeFleet, op string, batch int) (out string, err error) {
	var said strings.Builder
	now, _ := f.Fleet(ctx, "shop", false)
	hosts, err := choose(now.Hosts, "shop", nil)
	if err != nil {
		return "", err
	}
	r := commandRun{
		from: f, out: &said, app: "shop", where: "redis://x", command: fleet.Command{Command: control.Command{ID: "1f", Op: op}}, hosts: hosts,
		within: 30 * time.Second, batch: batch, at: now.At, seen: time.Now(),
	}
	err = r.run(ctx)
	return said.String(), err
}

func TestCommandIsAnsweredByAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFleet("web-1", "web-2")
		f.answer("web-1", "scaled", "1e", "of another command")
		f.answer("web-3", "scaled", "1f", "of no host that was asked")
		f.say("web-1", "scaled", "by hand")
		f.answers("scaled")
		at := time.Now()
		out, err := execute(t.Context(), f, control.OpScale, 100)
		want := "web-1: scaled: as told\nweb-2: scaled: as told\nshop: 2 hosts scaled, after 0.0s\n"
		if err != nil || out != want {
			t.Errorf("%v\n%s", err, cmp.Diff(want, out))
		}
		if want := at.Add(30 * time.Second); !f.last.ExpiresAt.Equal(want) {
			t.Errorf("expires at %v, not %v", f.last.ExpiresAt, want)
		}
		// From before it was sent, by the clock of Redis.
		if want := "946684790000-0"; want != <-f.after {
			t.Errorf("does not follow after %s", want)
		}
	})
}

func TestCommandThatFailsOnSome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFleet("web-1", "web-2", "web-3", "web-4")
		f.unreachable = []string{"web-3"}
		f.onSend = func(host string, c fleet.Command) {
			switch host {
			case "web-1":
				f.answer(host, "draining", c.ID, "")
			case "web-2":
				f.answer(host, "refused", c.ID, "\x1b[2Jnot now")
			}
		}
		began := time.Now()
		out, err := execute(t.Context(), f, control.OpDrain, 100)
		want := `web-3: cannot send it the command: its list is full
web-1: draining
web-2: refused: [2Jnot now
web-4: it has not answered within 32s: is redis.control = true there?
`
		if diff := cmp.Diff(want, out); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(began); took != 32*time.Second {
			t.Errorf("waited %v", took)
		}
		wantErr(t, err, "shop: 3 of 4 hosts failed: web-2, web-3, web-4; draining: web-1")
	})
}

func wantErr(t *testing.T, err error, text string) {
	t.Helper()
	if code, said := exitCode(err); code != exitFailed || said != text {
		t.Errorf("exit %d\n%s", code, cmp.Diff(text, said))
	}
}

func TestRollGoesBatchByBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFleet(many(21)...)
		var underway atomic.Int32
		f.onSend = func(host string, c fleet.Command) {
			if n := underway.Add(1); n > 3 {
				t.Errorf("%d roll at the same time", n)
			}
			f.answer(host, "roll_started", c.ID, "")
			go func() {
				time.Sleep(time.Hour) // a roll waits for its connections
				underway.Add(-1)
				f.answer(host, "roll_done", c.ID, "")
			}()
		}
		size, err := parseBatch("10%")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		out, err := execute(t.Context(), f, control.OpRoll, size(21))
		if took := time.Since(began); err != nil || took != 7*time.Hour {
			t.Errorf("%v after %v", err, took)
		}
		if n := strings.Count(out, ": roll done, generation 5\n"); n != 21 || !strings.HasSuffix(out, "\nshop: 21 hosts rolled, after 25200.0s\n") {
			t.Errorf("%d are done:\n%s", n, out)
		}
	})
}

func TestRollStopsAtTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFleet(many(7)...)
		f.onSend = func(host string, c fleet.Command) {
			f.answer(host, "roll_started", c.ID, "")
			if host == "web-02" {
				f.answer(host, "rolled_back", c.ID, "slot 0: exit status 3")
				return
			}
			f.answer(host, "roll_done", c.ID, "")
		}
		out, err := execute(t.Context(), f, control.OpRoll, 2)
		wantErr(t, err, "shop: stopped at web-02: rolled back: slot 0: exit status 3; rolled: web-00, web-01, web-03; not asked: web-04, web-05, web-06")
		if len(f.sent) != 4 || !strings.Contains(out, "web-02: rolled back: slot 0: exit status 3\n") {
			t.Errorf("%v\n%s", f.sent, out)
		}
	})
}

// A host that is gone while it rolls, or has been started anew, answers no more.
func TestRollOfAHostThatDies(t *testing.T) {
	for name, c := range map[string]struct {
		dies func(h *fleet.Host)
		why  string
	}{
		"vanished": {func(h *fleet.Host) { h.Vanished = true }, "it has vanished during the roll"},
		"gone":     {func(h *fleet.Host) { h.ID = "other" }, "it has vanished during the roll"},
		"anew":     {func(h *fleet.Host) { h.Boot = "b2" }, "its master has been started anew during the roll"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeFleet("web-1", "web-2")
				f.onSend = func(host string, o fleet.Command) {
					f.answer(host, "roll_started", o.ID, "as told")
					c.dies(&f.hosts[0])
				}
				_, err := execute(t.Context(), f, control.OpRoll, 1)
				wantErr(t, err, "shop: stopped at web-1: "+c.why+"; not asked: web-2")
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFleet("web-1")
		f.onSend = func(host string, o fleet.Command) {
			f.answer(host, "roll_started", o.ID, "as told")
			f.say(host, "down", "")
		}
		_, err := execute(t.Context(), f, control.OpRoll, 1)
		wantErr(t, err, "shop: 1 of 1 host failed: web-1: its master has ended before the roll")
	})
}

func TestInterruptedCommandSaysWhoHasAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := newFakeFleet(many(4)...)
		f.onSend = func(host string, c fleet.Command) {
			f.answer(host, "roll_started", c.ID, "")
			switch host {
			case "web-00":
				f.answer(host, "roll_done", c.ID, "")
			case "web-01":
				time.AfterFunc(time.Minute, cancel)
			}
		}
		_, err := execute(ctx, f, control.OpRoll, 1)
		wantErr(t, err, "shop: interrupted; rolled: web-00; begun, and go on: web-01; not asked: web-02, web-03")
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		f := newFakeFleet("web-1", "web-2")
		f.onSend = func(string, fleet.Command) { cancel() }
		_, err := execute(ctx, f, control.OpDrain, 100)
		wantErr(t, err, "shop: interrupted; not answered, and may yet: web-1, web-2")
	})
}

func TestCommandWhileRedisGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeFleet("web-1")
		f.broken <- errors.New("connection refused")
		_, err := execute(t.Context(), f, control.OpRoll, 1)
		wantErr(t, err, "shop: redis://x: connection refused: is Redis running there?; not answered, and may yet: web-1")
	})
}
