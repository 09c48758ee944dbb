package output

import (
	"bytes"
	"io"
	"unicode"
	"unicode/utf8"
)

// A forward writes the workers' lines to one of the master's outputs, each as
// "APP.SLOT | TEXT".
type forward struct {
	to       io.Writer
	prefix   string // "APP."
	terminal bool
	text     []byte
}

// Write takes records.
func (f *forward) Write(records []byte) (int, error) {
	text := f.text[:0]
	for line := range bytes.Lines(records) {
		r, ok := cutRecord(line)
		switch {
		case !ok:
		case r.ofMaster(): // lines were dropped
			text = append(append(text, "forkd: "...), r.text...)
		default:
			text = append(append(append(text, f.prefix...), r.slot...), " | "...)
			if f.terminal {
				text = append(appendHarmless(text, r.text), '\n')
			} else {
				text = append(text, r.text...)
			}
		}
		if len(text) >= maxBatch {
			_, _ = f.to.Write(text)
			text = text[:0]
		}
	}
	if f.text = text; len(text) > 0 {
		_, _ = f.to.Write(text)
	}
	return len(records), nil
}

// appendHarmless appends a text without what a terminal obeys or shows nothing for, but tabs
// and colours, which end with the text.
func appendHarmless(to, text []byte) []byte {
	colored := false
	for len(text) > 0 {
		c, size := utf8.DecodeRune(text)
		sequence := 0
		if c == '\x1b' {
			sequence = csi(text)
		}
		switch {
		case sequence > 0:
			if size = sequence; text[size-1] == 'm' {
				to, colored = append(to, text[:size]...), true
			}
		case c == '\t', !unicode.IsControl(c) && !unicode.Is(unicode.Cf, c) && (c != utf8.RuneError || size > 1):
			to = append(to, text[:size]...)
		}
		text = text[size:]
	}
	if colored {
		to = append(to, "\x1b[0m"...)
	}
	return to
}

// csi is the length of a control sequence of ECMA-48 at the start of a text; 0: there is none.
func csi(text []byte) int {
	if len(text) < 2 || text[1] != '[' {
		return 0
	}
	for i, b := range text[2:] {
		switch {
		case b >= '@' && b <= '~':
			return i + 3
		case b < ' ' || b > '?':
			return 0
		}
	}
	return 0
}
