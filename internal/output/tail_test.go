package output

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTail(t *testing.T) {
	var none *Tail
	none.add([]byte("to nobody"))
	if got := none.Lines(); got != nil {
		t.Errorf("none has %q", got)
	}

	last := new(Tail)
	for _, line := range []string{"", "one", "", "two\r", "\x1b[31m\xff"} {
		last.add([]byte(line))
	}
	if diff := cmp.Diff([]string{"one", "two", "\x1b[31m\xff"}, last.Lines()); diff != "" {
		t.Error(diff)
	}
	var want []string
	for i := range 300 {
		line := fmt.Sprint("line ", i)
		last.add([]byte(line))
		if i >= 300-tailLines {
			want = append(want, line)
		}
	}
	if diff := cmp.Diff(want, last.Lines()); diff != "" {
		t.Error(diff)
	}
	for range 100 {
		last.add([]byte(strings.Repeat("z", maxLine)))
	}
	got := last.Lines()
	if all := strings.Join(got, ""); len(all) > tailBytes || len(all) < tailBytes-2*tailLine {
		t.Errorf("%d lines with %d bytes", len(got), len(all))
	}
	if got[0] != strings.Repeat("z", tailLine)+"..." {
		t.Errorf("a long line is kept as %q", got[0])
	}
}

func TestTailIsReadWhileItIsWritten(t *testing.T) {
	last := new(Tail)
	var all sync.WaitGroup
	all.Go(func() {
		for i := range 10_000 {
			last.add(fmt.Appendf(nil, "%d %d", i, i))
		}
	})
	for range 1000 {
		for _, line := range last.Lines() {
			if a, b, _ := strings.Cut(line, " "); a != b {
				t.Fatalf("torn: %q", line)
			}
		}
	}
	all.Wait()
}

// Of a trace the top is kept.
func TestTrace(t *testing.T) {
	kept := new(Tail)
	kept.add([]byte("before"))
	kept.Trace()
	if diff := cmp.Diff([]string{"before"}, kept.Lines()); diff != "" {
		t.Error(diff)
	}
	for i := range 10_000 {
		kept.add(fmt.Appendf(nil, "frame %d", i))
	}
	got := kept.Lines()
	if len(got) < 100 || got[0] != "frame 0" || got[99] != "frame 99" || len(strings.Join(got, "")) > tailBytes {
		t.Errorf("kept %d lines from %q", len(got), got[0])
	}
}
