package main

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
)

func TestScaleProgress(t *testing.T) {
	ready := func(k int) control.Slot { return slot(k, busy(1, 1, control.StateReady, time.Hour)) }
	starting := func(k int) control.Slot { return slot(k, fresh(1, 1, control.StateStarting)) }
	leaves := func(s control.Slot) control.Slot { s.Leaving = true; return s }
	fell := func(s control.Slot, at time.Time) control.Slot {
		s.LastExit = &control.LastExit{At: at, Reason: "exit status 3"}
		return s
	}
	for name, test := range map[string]struct {
		slots    []control.Slot
		from, to int
		state    string
		want     string // or an error's beginning
		done     bool
	}{
		"growing":                {slots: []control.Slot{ready(0), ready(1), starting(2)}, from: 1, to: 3, want: "1 of 2 ready"},
		"grown":                  {slots: []control.Slot{ready(0), ready(1), ready(2)}, from: 1, to: 3, want: "2 of 2 ready", done: true},
		"an old one ails":        {slots: []control.Slot{{Slot: 0, State: "backoff"}, ready(1)}, from: 1, to: 2, want: "1 of 1 ready", done: true},
		"shrinking":              {slots: []control.Slot{ready(0), leaves(ready(1)), leaves(ready(2))}, from: 3, to: 1, want: "2 workers to go"},
		"shrunk":                 {slots: []control.Slot{ready(0)}, from: 3, to: 1, want: "0 workers to go", done: true},
		"a new one backs off":    {slots: []control.Slot{ready(0), {Slot: 1, State: "backoff", Reason: "exit status 3"}}, from: 1, to: 2, want: "slot 1 has not come up: exit status 3; forkd goes on trying"},
		"a new one gave up":      {slots: []control.Slot{ready(0), {Slot: 1, State: "failed", Reason: "gave up"}}, from: 1, to: 2, want: "slot 1 has not come up: gave up"},
		"it starts again":        {slots: []control.Slot{ready(0), fell(starting(1), noon)}, from: 1, to: 2, want: "slot 1 has not come up: exit status 3; forkd goes on trying"},
		"that was long ago":      {slots: []control.Slot{ready(0), fell(starting(1), ago(2*time.Hour))}, from: 1, to: 2, want: "0 of 1 ready"},
		"scaled again meanwhile": {slots: []control.Slot{ready(0)}, from: 1, to: 2, want: "it has been scaled to 1 worker meanwhile"},
		"stopped meanwhile":      {slots: []control.Slot{ready(0)}, from: 2, to: 1, state: control.StateStopping, want: "the app stops"},
	} {
		app := shop(test.slots...)
		if test.state != "" {
			app.State = test.state
		}
		text, done, err := scaleProgress(&app, control.Scaled{From: test.from, To: test.to}, ago(time.Hour))
		if err != nil {
			text = err.Error()
		}
		if text != test.want || done != test.done {
			t.Errorf("%s: %q, done %v; want %q", name, text, done, test.want)
		}
	}
}

// willing is an app that does what it is asked to, and notes it.
type willing struct {
	made

	mu   sync.Mutex
	said []string
}

func (w *willing) note(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

func (w *willing) Scale(_ context.Context, s control.Scale) (control.Scaled, error) {
	w.note("scale " + string(s))
	n, err := s.Workers(1, 4)
	return control.Scaled{From: 1, To: n}, err
}

func (w *willing) DrainHost(_ context.Context, draining bool) error {
	w.note(map[bool]string{true: "drain", false: "resume"}[draining])
	return nil
}

func (w *willing) Send(_ context.Context, m control.Message) (control.Sent, error) {
	if m.Slot != nil && *m.Slot > 0 {
		return control.Sent{}, &control.Error{Code: 404, Text: "there is no slot 1"}
	}
	w.note("send " + string(m.Message))
	return control.Sent{Workers: 1}, nil
}

func (w *willing) Describe(context.Context) (control.Description, error) {
	return control.Description{App: w.app}, nil
}

func (w *willing) Events(_ context.Context, after uint64) (control.EventPage, error) {
	page := control.EventPage{Boot: "b"}
	for _, e := range []control.Event{{Seq: 1, Type: "up"}, {Seq: 5, Type: "down", Reason: "stopped"}} {
		if e.Seq > after {
			page.Events = append(page.Events, e)
		}
	}
	return page, nil
}

func TestCommandsAskAndSay(t *testing.T) {
	app := &willing{made: made{app: shop(slot(0, busy(812, 1, control.StateReady, time.Minute))), reload: func(context.Context) (control.Rolled, error) {
		return control.Rolled{}, &control.Error{Code: 409, Text: "/etc/forkd/shop.toml:3:1: unknown key \"workes\""}
	}}}
	pretend(t, t.TempDir(), "shop", app)
	for _, test := range []struct {
		line     string
		code     int
		out, err string // beginnings
		said     string
	}{
		{line: "scale shop 1", out: "shop: 1 worker already\n", said: "scale 1"},
		{line: "scale shop -- 1", out: "shop: 1 worker already\n", said: "scale 1"},
		{line: "scale shop +1", code: exitFailed, err: "forkd: shop: it has been scaled to 1 worker meanwhile\n", said: "scale +1"},
		{line: "scale shop cpus-3", out: "shop: 1 worker already\n", said: "scale cpus-3"},
		{line: "scale shop -1", code: exitUsage, err: "forkd: shop: -1 would be 0 workers: an app has 1 to 1024\n", said: "scale -1"},
		{line: "scale shop 0", code: exitUsage, err: "forkd: \"0\" is no number of workers: use 1 to 1024, +N"},
		{line: "scale shop 100000", code: exitUsage, err: "forkd: \"100000\" is no number of workers: use 1 to 1024"},
		{line: "scale shop", code: exitUsage, err: "forkd: wrong number of arguments: write forkd scale APP N|+N|-N|cpus\n"},
		{line: "scale shop 1 2", code: exitUsage, err: "forkd: wrong number of arguments"},
		{line: "scale shop 1 --now", code: exitUsage, err: "forkd: unknown flag: --now: forkd kill APP ends it at once\n"},
		{line: "scale --help", out: "scale changes how many workers"},
		{line: "scale nosuch 1", code: exitNoApp, err: "forkd: no app \"nosuch\""},
		{line: "drain shop", out: "shop: this host drains", said: "drain"},
		{line: "resume shop", out: "shop: this host takes part again\n", said: "resume"},
		{line: "drain", code: exitUsage, err: "forkd: wrong number of arguments"},
		{line: `send shop {"a":1}`, out: "shop: handed to 1 worker\n", said: `send {"a":1}`},
		{line: `send shop --slot 0 -`, out: "shop: handed to 1 worker\n", said: `send ["from","stdin"]`},
		{line: `send shop --slot 1 2`, code: exitFailed, err: "forkd: shop: there is no slot 1\n"},
		{line: `send shop --slot -1 2`, code: exitUsage, err: "forkd: cannot send the message: slot -1: slots are 0 to 1023\n"},
		{line: `send shop hello`, code: exitUsage, err: "forkd: cannot send the message: it is not JSON: invalid character 'h' looking for beginning of value; a string has quotes of its own: '\"text\"'\n"},
		{line: `send shop {"cmd":"FORKD_DRAIN"}`, code: exitUsage, err: "forkd: cannot send the message: its cmd is forkd's own: cmd must not begin with FORKD_ or NODE_\n"},
		{line: `send nosuch 1`, code: exitNoApp, err: "forkd: no app"},
		{line: "describe shop", out: "shop: ready 1/1, generation 3"},
		{line: "show shop 0 --json", out: "{\n  \"schema\": 1,\n  \"app\": \"shop\","},
		{line: "info shop 1", code: exitFailed, err: "forkd: shop: there is no slot 1: it has 1 slot, from 0\n"},
		{line: "describe shop x", code: exitUsage, err: "forkd: \"x\" is no slot: use its number in forkd status shop\n"},
		{line: "describe shop 0 1", code: exitUsage, err: "forkd: name one app"},
		{line: "events shop --json", out: `{"seq":1,"time":"0001-01-01T00:00:00Z","host":"","type":"up","slot":null,"generation":null,"pid":null,"reason":""}` + "\n", err: "forkd: 3 events were missed"},
		{line: "events shop", out: "0001-01-01 ", err: "forkd: 3 events were missed"},
		{line: "events nosuch", code: exitNoApp, err: "forkd: no app"},
		{line: "reload shop", code: exitFailed, err: "forkd: shop: /etc/forkd/shop.toml:3:1: unknown key \"workes\"\n"},
		{line: "reload shop --no-wait", code: exitFailed, err: "forkd: shop: /etc/forkd/shop.toml:3:1: unknown key"},
	} {
		app.said = nil
		code, out, err := forkd(t, strings.Fields(test.line)...)
		if code != test.code || !strings.HasPrefix(out, test.out) || !strings.HasPrefix(err, test.err) || test.err == "" && err != "" || strings.Join(app.said, "; ") != test.said {
			t.Errorf("%s: exit %d, %.200q, %q, asked for %q", test.line, code, out, err, app.said)
		}
	}
}
