package output

import (
	"bytes"
	"io"
	"regexp"
	"unicode"
	"unicode/utf8"
)

// A forward writes the workers' lines to one of the master's outputs, each as
// "APP.SLOT | TEXT".
type forward struct {
	to        io.Writer
	prefix    string         // "APP."
	sequences *regexp.Regexp // nil: it is no terminal
	text      []byte
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
			if f.sequences != nil {
				text = append(f.appendHarmless(text, r.text), '\n')
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
func (f *forward) appendHarmless(to, text []byte) []byte {
	from, colored := 0, false
	plain := func(end int) []byte {
		return bytes.Map(func(c rune) rune {
			if c == '\t' || !unicode.IsControl(c) && !unicode.Is(unicode.Cf, c) && c != utf8.RuneError {
				return c
			}
			return -1
		}, text[from:end])
	}
	for _, at := range f.sequences.FindAllIndex(text, -1) {
		to = append(to, plain(at[0])...)
		if from = at[1]; text[from-1] == 'm' {
			to, colored = append(to, text[at[0]:from]...), true
		}
	}
	if to = append(to, plain(len(text))...); colored {
		to = append(to, "\x1b[0m"...)
	}
	return to
}

// ControlSequences matches control sequences of ECMA-48 (CSI), such as colours.
func ControlSequences() *regexp.Regexp { return regexp.MustCompile(`\x1b\[[0-?]*[ -/]*[@-~]`) }
