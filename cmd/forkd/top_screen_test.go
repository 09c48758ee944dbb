package main

import (
	"os"
	"slices"
	"testing"
)

func TestReadKeys(t *testing.T) {
	for _, c := range []struct {
		writes []string
		want   []key
	}{
		{[]string{"sq"}, []key{"s", "q"}},
		{[]string{"\x1b[A\x1bOB\x1b[6~é\r"}, []key{keyUp, keyDown, keyPageDown, "é", keyEnter}},
		{[]string{"\x1b"}, []key{keyEscape}},
		{[]string{"\x1b\x1b[A"}, []key{keyEscape, keyUp}},
		{[]string{"\xff\x7f"}, []key{"\xff", keyBackspace}},
		{[]string{"\xc3"}, []key{"\xc3"}}, // nothing follows
	} {
		in, to, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range c.writes {
			if _, err := to.WriteString(text); err != nil {
				t.Fatal(err)
			}
		}
		to.Close()
		var got []key
		readKeys(in, func(k key) { got = append(got, k) })
		if !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.writes, got, c.want)
		}
		in.Close()
	}
}

// A sequence may come in parts.
func TestFirstKey(t *testing.T) {
	for text, want := range map[string]int{
		"\x1b": 0, "\x1b[": 0, "\x1b[6": 0, "\x1b[6~x": 4, "\x1bO": 0, "\x1bOAx": 3, "\x1bx": 1, "\x1b[" + string(make([]byte, 40)): 1, "ä": 2, "\xc3": 0,
	} {
		if got := firstKey([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestChanges(t *testing.T) {
	for _, c := range []struct {
		before, lines []string
		want          string
	}{
		{nil, []string{"a"}, "\x1b[2J\x1b[1;1H\x1b[2Ka"},
		{[]string{"a", "b", "c"}, []string{"a", "B"}, "\x1b[2;1H\x1b[2KB\x1b[3;1H\x1b[2K"},
		{[]string{"a"}, []string{"a"}, ""},
	} {
		if got := changes(c.before, c.lines); got != c.want {
			t.Errorf("%q to %q: %q, want %q", c.before, c.lines, got, c.want)
		}
	}
}
