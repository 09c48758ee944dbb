package main

import (
	"encoding/json"
	"fmt"
	"io"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printJSON writes v as JSON and a line end, indented or on one line. Nothing in
// it moves a terminal's cursor or turns text around: encoding/json escapes only
// what is below U+0020.
func printJSON(w io.Writer, v any, indent string) error {
	data, err := json.Marshal(v)
	if indent != "" {
		data, err = json.MarshalIndent(v, "", indent)
	}
	if err != nil {
		return err
	}
	_, err = w.Write(append(harmless(data), '\n'))
	return err
}

// harmless escapes what commands a screen in JSON text. Beyond ASCII that is in
// strings only; so is DEL.
func harmless(data []byte) []byte {
	safe := make([]byte, 0, len(data))
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && size == 1:
			safe = append(safe, `\ufffd`...)
		case size > 1 && commands(r) || r == 0x7f:
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

// commands reports whether a screen takes a character for an order, or shows
// nothing for it: C0 and C1 controls, and those that format text, as bidi's do.
func commands(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }
