package supervisor

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
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
	o := newOutput(s)
	line := []byte(strings.Repeat("x", 1023) + "\n")
	const lines = 4 * maxPending / 1024
	began := time.Now()
	for range lines {
		if _, err := o.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d lines took %s", lines, took)
	}
	close(s.free)
	o.close()
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
	o := newOutput(write)
	for range 3 {
		if _, err := io.WriteString(o, "to nobody\n"); err != nil {
			t.Fatal(err)
		}
	}
	o.close()
}

func TestCaptureCutsAndPrefixesLines(t *testing.T) {
	read, write, err := newPipe(nil)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	o := newOutput(&got)
	last := new(tail)
	captured := make(chan struct{})
	go func() {
		defer close(captured)
		capture(read, o, "shop.1 | ", last)
	}()
	long := strings.Repeat("y", maxLine+10)
	if _, err := unix.Write(write, []byte("one\n"+long+"\nlast without a newline")); err != nil {
		t.Fatal(err)
	}
	unix.Close(write)
	<-captured
	o.close()
	want := "shop.1 | one\nshop.1 | " + long[:maxLine] + "\nshop.1 | " + long[maxLine:] + "\nshop.1 | last without a newline\n"
	if got.String() != want {
		t.Errorf("got %.200q..., want %.200q...", got.String(), want)
	}
	if kept := last.lines(); len(kept) != 4 || kept[0] != "one" || kept[2] != long[maxLine:] || kept[3] != "last without a newline" {
		t.Errorf("kept %.200q", kept)
	}
}

// A worker whose master is gone must survive its next line.
func TestPipeSurvivesItsReader(t *testing.T) {
	read, write, err := newPipe(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(write)
	read.Close()
	if _, err := unix.Write(write, []byte("still here\n")); err != nil {
		t.Errorf("a write after the reader is gone: %v", err)
	}
}
