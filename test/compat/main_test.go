package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/load"
)

func TestMain(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func TestChoose(t *testing.T) {
	known := []program{{name: "gunicorn sync"}, {name: "gunicorn gthread"}, {name: "puma"}}
	for only, want := range map[string]int{"": 3, "gunicorn": 2, "puma,gunicorn sync": 2} {
		if got, err := choose(known, only); err != nil || len(got) != want {
			t.Errorf("%q chooses %d, %v, want %d", only, len(got), err, want)
		}
	}
	if _, err := choose(known, "puma,pumba"); err == nil || !strings.Contains(err.Error(), "gunicorn gthread") {
		t.Errorf("an unknown name is said to be %v", err)
	}
}

// Every file that a program names is there, and none is there that nobody names.
func TestFilesOfPrograms(t *testing.T) {
	used := map[string]bool{"npm-start": true}
	known := programs()
	for _, c := range contenders() {
		known = append(known, c.program)
	}
	for _, p := range known {
		for _, file := range p.files {
			used[file] = true
		}
		words := slices.Concat(p.command, p.front)
		if p.slow != nil {
			words = slices.Concat(words, p.slow.command, p.slow.env)
		}
		if p.own != nil {
			words = slices.Concat(words, p.own.command)
		}
		for _, word := range words {
			if _, file, ok := strings.Cut(word, "$PROGRAMS/"); ok {
				used[file] = true
			}
			if strings.Contains(word, "slow:app") {
				used["slow.py"] = true
			}
		}
	}
	there := map[string]bool{}
	files, err := filepath.Glob("programs/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		there[filepath.Base(file)] = true
	}
	for file := range used {
		if !there[file] {
			t.Errorf("programs/%s is missing", file)
		}
	}
	for file := range there {
		if !used[file] {
			t.Errorf("programs/%s is nobody's", file)
		}
	}
}

func TestSweepFindsOrphans(t *testing.T) {
	kept := exec.Command("sleep", "100")
	if err := kept.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = kept.Process.Kill()
		_ = kept.Wait()
	})
	if out, err := exec.Command("sh", "-c", "setsid sleep 100 >/dev/null 2>&1 &").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Until setsid has exec'd it has its own name: either is an orphan that was found.
	left := sweep(kept.Process.Pid)
	if len(left) != 1 {
		t.Errorf("left are %q, want one sleep", left)
	}
	if left := sweep(kept.Process.Pid); len(left) > 0 {
		t.Errorf("after a sweep there are %q", left)
	}
	if err := kept.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the one to keep is gone: %v", err)
	}
}

func TestSocketFiles(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "run/x.sock")}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if left := socketFiles(dir); !slices.Equal(left, []string{"x.sock"}) {
		t.Errorf("left are %q", left)
	}
}

// A stage runs a program in its directory and a session of its own, with its words
// replaced, and ends it.
func TestStage(t *testing.T) {
	t.Chdir("../..")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := newStage(ctx, program{
		files: []string{"lighttpd.conf"}, env: []string{"WHERE=$DIR:$PORT"},
		prepare: []string{"sh", "-c", "echo $WHERE >prepared"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.clear()
	prepared, err := os.ReadFile(filepath.Join(s.dir, "prepared"))
	if want := s.words.Replace("$DIR:$PORT\n"); err != nil || string(prepared) != want {
		t.Errorf("prepared is %q, %v, want %q", prepared, err, want)
	}
	conf, err := os.ReadFile(filepath.Join(s.dir, "lighttpd.conf"))
	if err != nil || bytes.ContainsRune(conf, '$') || !bytes.Contains(conf, []byte(s.dir)) {
		t.Errorf("the file is %q, %v", conf, err)
	}
	p, err := s.start([]string{"sh", "-c", "echo begun; exec sleep 100"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if session, err := unix.Getsid(p.cmd.Process.Pid); err != nil || session != p.cmd.Process.Pid {
		t.Errorf("it is in session %d, %v", session, err)
	}
	for s.lastLine() != "begun" && ctx.Err() == nil {
		load.Pause(ctx, time.Millisecond)
	}
	p.end()
	if ctx.Err() != nil || p.cmd.ProcessState.Success() {
		t.Errorf("it ended with %v, said %q", p.cmd.ProcessState, s.lastLine())
	}
}

func TestRowsThatFallShort(t *testing.T) {
	good := func() row {
		r := row{
			program: program{name: "x", drains: true, own: &own{}}, version: "1.2", seen: "listening", gaps: [2]gap{{known: true, late: 12 * time.Millisecond}},
			counted: "sampled", connections: 8, stopped: "nothing, 0.1 s", kill: cost{measured: true, asked: 10, longest: time.Second},
		}
		for i := range r.rolls {
			r.rolls[i] = cost{measured: true, asked: 1000}
		}
		return r
	}
	failed := cost{measured: true, asked: 1000, failed: load.Tally{load.Reset: 3}}
	for name, c := range map[string]struct {
		change func(*row)
		missed string // "": nothing
		cell   string
	}{
		"good":            {func(*row) {}, "", "listening, +12 ms / -"},
		"not installed":   {func(r *row) { r.missing = "no such file" }, "", "not run: no such file"},
		"does not work":   {func(r *row) { r.natural = errors.New("EADDRINUSE") }, "does not work", "no: EADDRINUSE / yes"},
		"early":           {func(r *row) { r.gaps[1] = gap{known: true, late: -time.Second} }, "before the first answer", "-1000 ms"},
		"within a poll":   {func(r *row) { r.gaps[1] = gap{known: true, late: -20 * time.Millisecond} }, "", "-20 ms"},
		"close":           {func(r *row) { r.rolls[0] = failed }, "one connection per request", "3 (reset 3) of 1000 / 0 of 1000"},
		"it cuts":         {func(r *row) { r.rolls[0], r.program.drains = failed, false }, "", "3 (reset 3) of 1000"},
		"keep":            {func(r *row) { r.rolls[1] = failed }, "", "0 of 1000 / 3 (reset 3)"},
		"keep, promised":  {func(r *row) { r.rolls[1], r.program.keeps = failed, true }, "keep-alive", "3 (reset 3)"},
		"roll failed":     {func(r *row) { r.rolls[0].err = errors.New("rolled back") }, "rolled back", "rolled back"},
		"something stays": {func(r *row) { r.stopped = "left: sleep" }, "left: sleep", "left: sleep"},
		"a bar":           {func(r *row) { r.note = "a|b" }, "", `a\|b`},
	} {
		r := good()
		c.change(&r)
		missed := shortfalls([]row{r})
		if c.missed == "" && len(missed) > 0 || c.missed != "" && (len(missed) != 1 || !strings.Contains(missed[0], c.missed)) {
			t.Errorf("%s: missed %q, want %q", name, missed, c.missed)
		}
		if !strings.Contains(r.line(), c.cell) {
			t.Errorf("%s: the line is %q, want %q in it", name, r.line(), c.cell)
		}
		file := filepath.Join(t.TempDir(), "doc.md")
		if err := writeDocument(file, []row{r}); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), c.cell) || strings.Contains(string(text), "fell short") != (c.missed != "") {
			t.Errorf("%s: the document is %s, %v", name, text, err)
		}
		for line := range strings.SplitSeq(string(text), "\n") {
			if bars := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"); strings.HasPrefix(line, "|") && bars != 9 {
				t.Errorf("%s: %d bars in %q", name, bars, line)
			}
		}
	}
}
