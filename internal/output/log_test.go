package output

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// write captures text as a worker's output.
func write(l *Log, of Source, text string) {
	l.Capture(io.NopCloser(strings.NewReader(text)), of, nil)
}

// texts are the lines' own.
func texts(lines []Line) (texts []string) {
	for _, l := range lines {
		texts = append(texts, l.Line)
	}
	return texts
}

func TestLogIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		l := new(Log)
		write(l, Source{0, 1, 70, Stdout}, "zero\nshared 0\n")
		time.Sleep(time.Second)
		write(l, Source{1, 3, 71, Stderr}, "one\r\n\nshared \x1b[31m1\xff")
		l.Add(Source{1, 3, 71, LevelWarning}, []byte("gone slot 1: exit status 1"))
		l.Add(Source{-1, -1, -1, LevelInfo}, []byte("up"))
		left := make(chan struct{})
		close(left)
		for _, c := range []struct {
			of   Query
			want []string
		}{
			{Query{N: All}, []string{"zero", "shared 0", "one\r", "", "shared \x1b[31m1\xff", "gone slot 1: exit status 1", "up"}},
			{Query{N: 2}, []string{"gone slot 1: exit status 1", "up"}},
			{Query{N: 0}, nil},
			{Query{N: All, Left: left}, nil},
			{Query{N: All, Slot: new(0)}, []string{"zero", "shared 0"}},
			{Query{N: 1, Slot: new(0)}, []string{"shared 0"}},
			{Query{N: All, Slot: new(7)}, nil},
			{Query{N: 2, Grep: regexp.MustCompile("^shared")}, []string{"shared 0", "shared \x1b[31m1\xff"}},
			{Query{N: 1, Grep: regexp.MustCompile("^shared")}, []string{"shared \x1b[31m1\xff"}},
			{Query{N: All, Since: began.Add(time.Second / 2), Slot: new(1)}, []string{"one\r", "", "shared \x1b[31m1\xff", "gone slot 1: exit status 1"}},
			{Query{N: All, Since: began.Add(time.Second)}, []string{"", "shared \x1b[31m1\xff", "gone slot 1: exit status 1", "up"}},
		} {
			if diff := cmp.Diff(c.want, texts(l.Read(c.of).Lines)); diff != "" {
				t.Errorf("%+v: %s", c.of, diff)
			}
		}
		all := l.Read(Query{N: All}).Lines
		want := Line{Time: began.Add(time.Second + 3*time.Microsecond), Slot: new(1), Generation: new(3), PID: new(71), Stream: Forkd, Level: LevelWarning, Line: "gone slot 1: exit status 1"}
		if diff := cmp.Diff(want, all[5]); diff != "" {
			t.Error(diff)
		}
		if got := all[6]; got.Slot != nil || got.Generation != nil || got.PID != nil {
			t.Errorf("of no slot: %+v", got)
		}
	})
}

// A reader that comes back gets what has come since, each line once, and is told how many
// are gone.
func TestLogIsFollowed(t *testing.T) {
	l := new(Log)
	first := l.Read(Query{N: All})
	select {
	case <-first.More:
		t.Fatal("there is nothing more")
	default:
	}
	const lines = 100_000
	go func() {
		for i := range lines {
			l.Add(Source{i % 3, 1, 77, LevelInfo}, fmt.Append(nil, i))
		}
	}()
	next, missed := 0, 0
	for q, page := (Query{N: 100}), first; next < lines; page = l.Read(q) {
		missed += int(page.Missed)
		next += int(page.Missed)
		last := -1
		for _, line := range page.Lines {
			var n int
			if _, err := fmt.Sscan(line.Line, &n); err != nil || n <= last {
				t.Fatalf("%q after %d: %v", line.Line, last, err)
			}
			last = n
		}
		next += len(page.Lines)
		q.Since, q.Seen = page.Last, page.Count
		if next < lines {
			<-page.More
		}
	}
	if next != lines {
		t.Errorf("%d lines seen or missed, want %d", next, lines)
	}
	t.Logf("%d missed", missed)
}

// What is kept is bounded, and a slot that floods takes nothing from the others.
func TestLogIsBounded(t *testing.T) {
	l := new(Log)
	l.Add(Source{1, 1, 77, LevelInfo}, []byte("first"))
	line := bytes.Repeat([]byte("x"), 100)
	for range 1 << 16 {
		l.Add(Source{0, 1, 77, LevelInfo}, line)
	}
	if got := l.Read(Query{N: 1, Slot: new(1)}); len(got.Lines) != 1 {
		t.Error("the line of another slot is lost")
	}
	page := l.Read(Query{N: All, Slot: new(0)})
	if n := len(page.Lines); n*len(line) < maxHalf/2 || n*len(line) > 2*maxHalf || page.Count != 1<<16 {
		t.Errorf("%d of %d lines are kept", n, page.Count)
	}
	for slot := range 1024 {
		for range 200 {
			l.Add(Source{slot, 1, 77, LevelInfo}, line)
		}
	}
	size := 0
	for _, r := range l.rings {
		size += cap(r.older) + cap(r.newer)
	}
	if most := 2*1024*2*minHalf + 4*maxHalf; size > most { // append takes up to twice what is needed
		t.Errorf("%d bytes are kept for 1024 slots, want at most %d", size, most)
	}
}

// A clock that is set back, or is read once for many lines, has no two times alike.
func TestTimesGrow(t *testing.T) {
	var c clock
	at := time.Date(2026, 11, 28, 23, 59, 59, 999_998_500, time.FixedZone("", 3600))
	var got []string
	for _, now := range []time.Time{at, at, at, at.Add(-time.Hour), at.Add(time.Second)} {
		got = append(got, string(c.append(nil, now)))
	}
	want := []string{
		"2026-11-28T23:59:59.999998+01:00", "2026-11-28T23:59:59.999999+01:00", "2026-11-29T00:00:00.000000+01:00",
		"2026-11-29T00:00:00.000001+01:00", "2026-11-29T00:00:00.999998+01:00",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A worker that floods an output that is slow leaves room for the others: their lines are
// neither dropped nor late.
func TestFloodTakesNoRoomOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &stuck{free: make(chan struct{})}
		l := new(Log)
		l.ForwardTo(slow, "shop", false)
		flood := &endless{text: strings.Repeat("x", 99) + "\n"}
		flood.most.Store(1 << 40)
		var all sync.WaitGroup
		all.Go(func() { l.Capture(flood, Source{0, 1, 70, Stdout}, nil) })
		synctest.Wait() // it waits for room
		began := time.Now()
		write(l, Source{1, 1, 71, Stdout}, strings.Repeat("quiet\n", 1000))
		if waited := time.Since(began); waited > 0 {
			t.Errorf("the other has waited for %v", waited)
		}
		flood.most.Store(0)
		close(slow.free)
		all.Wait()
		l.Close()
		if n := strings.Count(slow.got.String(), "shop.1 | quiet\n"); n != 1000 {
			t.Errorf("%d of its 1000 lines are written", n)
		}
	})
}

// At the end what the last workers have written is still taken, whoever holds their pipes,
// also by a capture that comes late.
func TestLogEndsWithTheLastLines(t *testing.T) {
	for _, late := range []bool{false, true} {
		read, write, err := NewPipe(-1, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(write)
		var got bytes.Buffer
		l := new(Log)
		l.ForwardTo(&got, "shop", false)
		if _, err := unix.Write(write, []byte("last words\n")); err != nil {
			t.Fatal(err)
		}
		done := l.begin(read) // as Capture does
		capture := func() {
			defer done()
			l.Capture(read, Source{0, 1, 77, Stdout}, nil)
		}
		if late {
			if err := read.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
				t.Fatal(err)
			}
			capture()
		} else {
			go capture()
		}
		l.Close()
		if got.String() != "shop.0 | last words\n" {
			t.Errorf("late %v: got %q", late, got.String())
		}
	}
}

// Every line of four workers that write faster than it is written is in the files, in its
// worker's order.
func TestEveryLineIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // no disk is so slow that lines are dropped
		const workers, lines = 4, 10_000
		dir := t.TempDir()
		l := new(Log)
		l.KeepIn(NewFiles(dir, "shop", 1<<20, MaxFiles, slog.New(slog.DiscardHandler)))
		var all sync.WaitGroup
		for slot := range workers {
			var text bytes.Buffer
			for i := range lines {
				fmt.Fprintf(&text, "%d of %d %s\n", i, slot, strings.Repeat("x", 80))
			}
			all.Go(func() { write(l, Source{slot, 1, 70 + slot, Stdout}, text.String()) })
		}
		all.Wait()
		l.Close()
		for slot := range workers {
			kept, err := ReadFiles(dir, "shop", Query{N: All, Slot: &slot})
			if err != nil || len(kept) != lines {
				t.Errorf("%d lines of slot %d, %v", len(kept), slot, err)
			}
			for i, line := range kept {
				if want := fmt.Sprintf("%d of %d x", i, slot); !strings.HasPrefix(line.Line, want) {
					t.Fatalf("%q, want %q", line.Line, want)
				}
			}
		}
	})
}
