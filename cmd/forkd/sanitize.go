package main

import (
	"encoding/json"
	"fmt"
	"io"
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

// printJSON writes v as JSON and a newline, indented unless indent is empty.
func printJSON(w io.Writer, v any, indent string) error {
	data, err := json.Marshal(v)
	if indent != "" {
		data, err = json.MarshalIndent(v, "", indent)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(append(sanitizeJSON(data), '\n'))
	return err
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
