package output

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"
)

// A terminal gets colours, which end with their line, and obeys nothing else of a worker's.
func TestForwardToATerminal(t *testing.T) {
	var got bytes.Buffer
	l := new(Log)
	l.ForwardTo(&got, "shop", true)
	for _, line := range []string{
		"plain\tgrün", "\x1b[1;31mred\x1b[0m", "\x1b[2J\x1b[Hcleared", "\x1b]0;title\a", "\x1b[", "\x1b[1\x1b[32mgreen",
		"binary\x00\x7f\x9b\xff\u009b2J", "\u202eback\r",
	} {
		write(l, Source{0, 1, 77, Stdout}, line+"\n")
	}
	l.Close()
	want := []string{
		"plain\tgrün", "\x1b[1;31mred\x1b[0m\x1b[0m", "cleared", "]0;title", "[", "[1\x1b[32mgreen\x1b[0m", "binary2J", "back", "",
	}
	for i, line := range strings.Split(got.String(), "\n") {
		if line = strings.TrimPrefix(line, "shop.0 | "); line != want[i] {
			t.Errorf("%d: got %q, want %q", i, line, want[i])
		}
	}
}

// A line of 10 MiB is cut, and all of it is there.
func TestLongLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // nothing is so slow that lines are dropped
		var got bytes.Buffer
		l, last := new(Log), new(Tail)
		l.ForwardTo(&got, "shop", false)
		text := strings.Repeat("x", 10<<20+5)
		l.Capture(io.NopCloser(strings.NewReader(text+"\nnext\n")), Source{0, 1, 77, Stdout}, last)
		l.Close()
		parts := strings.ReplaceAll(strings.ReplaceAll(got.String(), "shop.0 | ", ""), "\n", "")
		if parts != text+"next" || !strings.HasSuffix(got.String(), "x\nshop.0 | next\n") {
			t.Errorf("%d bytes of %d", len(parts), len(text))
		}
		if n := len(l.Read(Query{N: All}).Lines); n == 0 || n > 2*maxHalf/maxLine+2 {
			t.Errorf("%d lines are kept", n)
		}
	})
}
