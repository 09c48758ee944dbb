package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// sanitize makes text of others, a name or a reason, safe for a terminal: one line,
// without control sequences and invalid UTF-8.
func sanitize(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case isControl(r) || r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, text)
}

// isControl reports whether a terminal obeys a character, or shows nothing for it:
// C0 and C1 controls, and format characters such as those of bidirectional text.
func isControl(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }

// output prints results as JSON, or as lines for a screen.
type output struct {
	to      *os.File
	what    string // for errors: "status"
	json    bool
	compact bool // JSON on one line
}

func (o output) print(v any, draw func(s screen) []string) error {
	var text []byte
	var err error
	switch {
	case !o.json:
		text = []byte(strings.Join(draw(screenOf(o.to)), "\n"))
	case o.compact:
		text, err = json.Marshal(v)
	default:
		text, err = json.MarshalIndent(v, "", "  ")
	}
	if o.json {
		text = sanitizeJSON(text)
	}
	if err == nil {
		_, err = o.to.Write(append(text, '\n'))
	}
	if err != nil {
		return &exit{exitFailed, fmt.Sprintf("cannot print the %s: %v", o.what, err)}
	}
	return nil
}

// sanitizeJSON escapes the control characters in JSON. encoding/json escapes only
// those below U+0020; the others can only be inside strings.
func sanitizeJSON(data []byte) []byte {
	safe := make([]byte, 0, len(data))
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && size == 1:
			safe = append(safe, `\ufffd`...)
		case size > 1 && isControl(r) || r == 0x7f:
			for _, unit := range utf16.AppendRune(nil, r) {
				safe = fmt.Appendf(safe, `\u%04x`, unit)
			}
		default:
			safe = append(safe, data[:size]...)
		}
		data = data[size:]
	}
	return safe
}
