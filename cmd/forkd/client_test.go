package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
)

// made is a Backend with answers made up beforehand.
type made struct {
	control.Backend // nil: what is not below is not asked

	app    control.App
	reload func(context.Context) (control.Rolled, error)
}

func (m made) Status(context.Context) (control.App, error) { return m.app, nil }

func (m made) Summary(context.Context) (control.Summary, error) {
	return control.Summary{State: m.app.State, Generation: m.app.Generation, Wanted: m.app.Totals.Wanted, Ready: m.app.Totals.Ready, Roll: m.app.Roll}, nil
}

func (m made) Reload(ctx context.Context, _ control.Reload) (control.Rolled, error) {
	return m.reload(ctx)
}

func (m made) Stop(context.Context, bool) error { return nil }

// pretend serves an app that there is not, in a directory, until the test ends.
func pretend(t testing.TB, dir, name string, b control.Backend) {
	t.Helper()
	t.Setenv("FORKD_RUNTIME_DIR", dir)
	place, err := control.Create(name, -1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- control.Serve(ctx, place, b, -1) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		place.Remove()
	})
}

// forkd runs a command in this process.
func forkd(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.Create(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	text := func(f *os.File) string {
		data, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	stdin := dir + "/in"
	if err := os.WriteFile(stdin, []byte(`[ "from", "stdin" ]`), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(stdin)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	std := stdio{in: in, out: open("out"), err: open("err")}
	code = run(t.Context(), args, std)
	return code, text(std.out), text(std.err)
}

func TestQuietStatusIsOnlyAnExitCode(t *testing.T) {
	whole := shop(slot(0, busy(812, 1, control.StateReady, time.Minute)))
	short := shop(slot(0, busy(812, 1, control.StateReady, time.Minute)), control.Slot{Slot: 1, State: "backoff"})
	dir := t.TempDir()
	pretend(t, dir, "whole", made{app: whole})
	pretend(t, dir, "short", made{app: short})
	for name, want := range map[string]int{"whole": exitDone, "short": exitFailed, "nosuch": exitNoApp} {
		if code, out, err := forkd(t, "status", "-q", name); code != want || out+err != "" {
			t.Errorf("%s: exit %d, %q, %q; want %d and silence", name, code, out, err, want)
		}
	}
}

// However many apps hang: one that answers is not behind them.
func TestManyAppsHang(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 * parallelRead {
		app := fmt.Sprintf("%s/%c%02d", dir, "az"[i%2], i) // it is between them
		if err := os.Mkdir(app, 0o700); err != nil {
			t.Fatal(err)
		}
		hung, err := net.Listen("unix", app+"/control.sock")
		if err != nil {
			t.Fatal(err)
		}
		defer hung.Close()
	}
	pretend(t, dir, "well", made{app: shop(slot(0, busy(812, 1, control.StateReady, time.Minute)))})
	s, err := ask(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.end()
	well := slices.IndexFunc(s.apps, func(a appStatus) bool { return a.at.Name == "well" })
	for s.apps[well].late {
		s.wait(10 * time.Millisecond)
	}
	if err := s.apps[well].err; err != nil {
		t.Error(err)
	}
}

func TestTwoAppsOfOneName(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	app := shop(slot(0, busy(812, 1, control.StateReady, time.Minute)))
	pretend(t, second+"/forkd", "twin", made{app: app})
	pretend(t, first, "twin", made{app: app})
	t.Setenv("XDG_RUNTIME_DIR", second)
	code, _, err := forkd(t, "status", "twin")
	if want := "forkd: 2 apps are named twin: say which, " + first + "/twin or " + second + "/forkd/twin\n"; code != exitFailed || err != want {
		t.Errorf("exit %d, %q; want %q", code, err, want)
	}
	if code, out, err := forkd(t, "status", second+"/forkd/twin"); code != exitDone || !strings.HasPrefix(out, "twin: ready 1/1") {
		t.Errorf("by its path: exit %d, %q, %q", code, out, err)
	}
	_, out, _ := forkd(t, "status")
	for _, dir := range []string{first, second + "/forkd"} {
		if !strings.Contains("\n"+out, "\n"+dir+"/twin: ready 1/1") {
			t.Errorf("%s/twin is not told apart:\n%s", dir, out)
		}
	}
	code, out, _ = forkd(t, "status", "--json", first+"/twin")
	var list []control.App
	if err := json.Unmarshal([]byte(out), &list); code != exitDone || err != nil || len(list) != 1 {
		t.Errorf("exit %d, %v, %s", code, err, out)
	}
}

func TestNothingRuns(t *testing.T) {
	if lines := render(screen{}, nil, noon); len(lines) != 1 || lines[0] != nothingRuns {
		t.Errorf("%q", lines)
	}
	t.Setenv("FORKD_RUNTIME_DIR", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	if code, out, err := forkd(t, "status", "--json"); code != exitDone || out != "[]\n" || err != "" {
		t.Errorf("exit %d, %q, %q", code, out, err)
	}
}

// `forkd status` of a whole host, but for the start of its process: 20 apps of 8 workers.
func BenchmarkStatus(b *testing.B) {
	dir := b.TempDir()
	var slots []control.Slot
	for i := range 8 {
		slots = append(slots, slot(i, busy(812+i, 1, control.StateReady, time.Minute)))
	}
	for i := range 20 {
		pretend(b, dir, fmt.Sprint("shop-", i), made{app: shop(slots...)})
	}
	for b.Loop() {
		if code, out, err := forkd(b, "status"); code != exitDone || strings.Count(out, "\n") != 20*(8+3)-1 {
			b.Fatalf("exit %d, %s\n%s", code, err, out)
		}
	}
}
