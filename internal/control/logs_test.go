package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/output"
)

// say adds a line of a slot's worker to the log.
func (f *fake) say(slot int, text string) {
	f.log.Add(output.Source{Slot: slot, Generation: 1, PID: 77, Stream: output.Stdout}, []byte(text))
}

func TestLogs(t *testing.T) {
	b := &fake{app: sample()}
	for i := range 30 {
		b.say(i%2, fmt.Sprintf("line %d \x1b[31m\xff", i))
	}
	c := connect(t, serving(t, b, patient(), os.Geteuid()))
	dir, lines, err := c.Logs(t.Context(), output.Query{N: 2, Slot: new(1), Grep: regexp.MustCompile("line .[579]")})
	if err != nil || dir != "/var/log/shop" || len(lines) != 2 || lines[1].Line != "line 29 \x1b[31m\ufffd" || *lines[0].Slot != 1 {
		t.Errorf("%q %+v %v", dir, lines, err)
	}
	if _, after, err := c.Logs(t.Context(), output.Query{N: 5000, Since: lines[0].Time}); err != nil || len(after) != 2 {
		t.Errorf("since %v there are %d lines, %v", lines[0].Time, len(after), err)
	}
	refusal, refused := errors.AsType[*Error](second(c.Logs(t.Context(), output.Query{Grep: regexp.MustCompile(strings.Repeat("x", 2000))})))
	if !refused || refusal.Code != 400 {
		t.Errorf("a long pattern: %v", refusal)
	}
}

func second(_ string, _ []output.Line, err error) error { return err }

// Lines as long as they may be, of bytes that JSON writes as six each, fit into an answer.
func TestLogsAreBounded(t *testing.T) {
	b := &fake{app: sample()}
	for slot := range 128 {
		for range 3 {
			b.say(slot, strings.Repeat("\x01", 16<<10))
		}
	}
	_, lines, err := connect(t, serving(t, b, patient(), os.Geteuid())).Logs(t.Context(), output.Query{N: 1000})
	if err != nil || len(lines)*16<<10 < maxLogText/2 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}

var errEnough = errors.New("enough")

func TestLogsAreFollowed(t *testing.T) {
	b := &fake{app: sample()}
	at := serving(t, b, patient(), os.Geteuid())
	b.say(0, "before")
	c := connect(t, at)
	var got []string
	missed := uint64(0)
	err := c.FollowLogs(t.Context(), output.Query{N: 1, Grep: regexp.MustCompile("e")}, func(l output.Line) error {
		switch got = append(got, l.Line); l.Line {
		case "before":
			b.say(1, "not this")
			b.say(1, "then")
		case "then":
			for i := range 3 * maxLines {
				b.say(i%2, "e")
			}
			b.say(1, "end")
		case "end":
			return errEnough
		}
		return nil
	}, func(n uint64) { missed += n })
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"before", "then"}, got[:2]); diff != "" {
		t.Error(diff)
	}
	if n := uint64(len(got)) - 3 + missed; n != 3*maxLines {
		t.Errorf("%d lines of %d have come, or are said to be missed", n, 3*maxLines)
	}
}

// Who asks for no lines at first gets those that come, and none of before.
func TestLogsAreFollowedFromNow(t *testing.T) {
	b := &fake{app: sample()}
	c := connect(t, serving(t, b, patient(), os.Geteuid()))
	b.say(0, "before")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			b.say(0, "after")
			time.Sleep(time.Millisecond)
		}
	}()
	err := c.FollowLogs(ctx, output.Query{}, func(l output.Line) error {
		if l.Line != "after" {
			t.Errorf("got %q", l.Line)
		}
		return errEnough
	}, func(n uint64) { t.Errorf("%d are missed", n) })
	if !errors.Is(err, errEnough) {
		t.Error(err)
	}
}

// The end of the app is the end of the log, and no error.
func TestFollowedLogsEnd(t *testing.T) {
	dir := t.TempDir()
	startMaster(t, dir)
	c := connect(t, Location{Name: "shop", Dir: dir})
	err := c.FollowLogs(t.Context(), output.Query{N: 1}, func(output.Line) error { return c.Stop(t.Context(), false) }, func(uint64) {})
	if err != nil {
		t.Error(err)
	}
}
