package output

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// stuck is an output that takes nothing until it is let go.
type stuck struct {
	free chan struct{}
	mu   sync.Mutex
	got  bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.free
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(p)
}

func TestStuckOutputHoldsNobodyUpAndStaysBounded(t *testing.T) {
	s := &stuck{free: make(chan struct{})}
	o := New(s)
	line := []byte(strings.Repeat("x", 1023) + "\n")
	const lines = 4 * maxPending / 1024
	for range lines { // held up, it would be for good
		if _, err := o.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	close(s.free)
	o.Close()
	got := s.got.String()
	if len(got) > 2*maxPending+1024 {
		t.Errorf("%d bytes were kept, want at most %d", len(got), 2*maxPending)
	}
	kept := strings.Count(got, string(line))
	var dropped int
	at := strings.Index(got, "forkd: ")
	if at < 0 {
		t.Fatal("nothing says that lines were dropped")
	}
	if _, err := fmt.Sscanf(got[at:], "forkd: %d lines dropped", &dropped); err != nil || kept+dropped != lines {
		t.Errorf("%d kept and %d dropped (%v), want %d together", kept, dropped, err, lines)
	}
}

func TestOutputThatHasGoneIsNoReasonToEnd(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	defer write.Close()
	o := New(write)
	for range 3 {
		if _, err := io.WriteString(o, "to nobody\n"); err != nil {
			t.Fatal(err)
		}
	}
	o.Close()
}

func TestCaptureCutsAndPrefixesLines(t *testing.T) {
	read, write, err := NewPipe(-1, -1)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	l, last := new(Log), new(Tail)
	l.ForwardTo(&got, "shop", false)
	captured := make(chan struct{})
	go func() {
		defer close(captured)
		l.Capture(read, Source{1, 2, 77, Stdout}, last)
	}()
	long := strings.Repeat("y", maxLine+10)
	if _, err := unix.Write(write, []byte("one\n\n"+long+"\nlast without a newline")); err != nil {
		t.Fatal(err)
	}
	unix.Close(write)
	<-captured
	l.Add(Source{-1, -1, -1, LevelError}, []byte("not the workers' own"))
	l.Close()
	want := "shop.1 | one\nshop.1 | \nshop.1 | " + long[:maxLine] + "\nshop.1 | " + long[maxLine:] + "\nshop.1 | last without a newline\n"
	if got.String() != want {
		t.Errorf("got %.200q..., want %.200q...", got.String(), want)
	}
	if kept := last.Lines(); len(kept) != 4 || kept[0] != "one" || kept[2] != long[maxLine:] || kept[3] != "last without a newline" {
		t.Errorf("kept %.200q", kept)
	}
}

// endless is a worker's output, as much as is taken, up to most bytes.
type endless struct {
	text  string
	most  atomic.Int64
	taken atomic.Int64
}

func (f *endless) Read(p []byte) (n int, err error) {
	if f.taken.Load() > f.most.Load() {
		return 0, io.EOF
	}
	for n+len(f.text) <= len(p) {
		n += copy(p[n:], f.text)
	}
	f.taken.Add(int64(n))
	return n, nil
}

func (*endless) Close() error { return nil }

// What a worker writes in a burst is taken at once. A flood is not, be it of bytes
// or of short lines.
func TestCaptureIsPaced(t *testing.T) {
	for _, test := range []struct {
		text string
		most int // bytes a second
	}{
		{strings.Repeat("x", 1<<10), outputPerSecond},
		{"y\n", 2 * linesPerSecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := new(Log)
			l.ForwardTo(io.Discard, "shop", false)
			defer l.Close()
			f := &endless{text: test.text}
			f.most.Store(10 * int64(test.most))
			captured := make(chan struct{})
			go func() {
				defer close(captured)
				l.Capture(f, Source{1, 1, 77, Stdout}, nil)
			}()
			synctest.Wait() // no time has passed
			if n := int(f.taken.Load()); n < test.most {
				t.Errorf("%d bytes were taken at once, want %d", n, test.most)
			}
			const seconds = 2
			time.Sleep(seconds * time.Second)
			if n := int(f.taken.Load()); n < seconds*test.most || n > (seconds+1)*test.most+maxLine {
				t.Errorf("%d bytes in %d s, want %d a second beyond the first", n, seconds, test.most)
			}
			f.most.Store(0)
			<-captured
		})
	}
}

// A burst's memory is given back when it is over, also where no line follows.
func TestOutputKeepsNoBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stuck{free: make(chan struct{})}
		o := New(s)
		defer o.Close()
		for range maxPending / 1024 {
			_, _ = o.Write(bytes.Repeat([]byte("x"), 1024))
			synctest.Wait()
		}
		close(s.free)
		synctest.Wait()
		_, _ = o.Write([]byte("x")) // whose buffer is not the one of the burst
		synctest.Wait()
		o.mu.Lock()
		defer o.mu.Unlock()
		if cap(o.pending) > maxSpare {
			t.Errorf("%d bytes are kept", cap(o.pending))
		}
	})
}

// A worker whose master is gone must survive its next line.
func TestPipeSurvivesItsReader(t *testing.T) {
	read, write, err := NewPipe(-1, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(write)
	read.Close()
	if _, err := unix.Write(write, []byte("still here\n")); err != nil {
		t.Errorf("a write after the reader is gone: %v", err)
	}
}

// The next master reads what a killed one has left, and no other program's pipe.
func TestAdoptPipe(t *testing.T) {
	read, write, err := NewPipe(-1, -1)
	if err != nil {
		t.Fatal(err)
	}
	shells, ends, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer shells.Close()
	holder := exec.Command("sleep", "1000")
	holder.Stdout, holder.Stderr = os.NewFile(uintptr(write), "write"), ends
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	}()
	ends.Close()
	read.Close()
	if _, err := holder.Stdout.(*os.File).WriteString("still here\n"); err != nil {
		t.Fatal(err)
	}
	again, inode, err := AdoptPipe(holder.Process.Pid, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if line, err := bufio.NewReader(again).ReadString('\n'); line != "still here\n" || err != nil || inode == 0 {
		t.Errorf("%q, %v, inode %d", line, err, inode)
	}
	for fd, what := range []string{"/dev/null", 2: "a shell's pipe", 5: "nothing"} {
		if what == "" {
			continue
		}
		if pipe, _, err := AdoptPipe(holder.Process.Pid, fd); err == nil {
			t.Errorf("%s is taken", what)
			pipe.Close()
		}
	}
}
