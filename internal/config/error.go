package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is a bad setting and its position. The command line prints it and exits with
// code 2.
type Error struct {
	File         string // as the user would name it; "" for a flag
	Line, Column int    // from 1, columns in characters; 0: no line is at fault
	Text         string
}

// Error is "forkd.toml:12:1: ...", or "--workers: ..." for a flag.
func (e *Error) Error() string {
	switch {
	case e.File == "":
		return e.Text
	case e.Line == 0:
		return e.File + ": " + e.Text
	default:
		return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
	}
}

// origin is where a setting was written: a position in the file, or a flag.
type origin struct {
	file   string // "" for a flag
	text   []byte // of the file; nil: no line is at fault
	offset int    // in text
	label  string // the key or the flag, as the user knows it; "" for none
}

// position returns the line and the column, in characters, both from 1; 0 without
// text.
func (o origin) position() (line, column int) {
	if o.text == nil {
		return 0, 0
	}
	before := o.text[:o.offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[start:]) + 1
}

func (o origin) flagged() bool { return o.file == "" }

func (o origin) errorf(format string, args ...any) *Error {
	text := fmt.Sprintf(format, args...)
	if o.label != "" {
		text = o.label + ": " + text
	}
	line, column := o.position()
	return &Error{File: o.file, Line: line, Column: column, Text: text}
}

// wrap gives err the position o, unless it has one.
func (o origin) wrap(err error) *Error {
	if placed, ok := errors.AsType[*Error](err); ok {
		return placed
	}
	return o.errorf("%s", err)
}

// first picks the error to report: the first of the file, then those of flags.
func first(failures []*Error) *Error {
	return slices.MinFunc(failures, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(uint(a.Line-1), uint(b.Line-1)), // none is last
			cmp.Compare(b.File, a.File),
			cmp.Compare(a.Column, b.Column),
		)
	})
}

// either lists what is valid: `"a", "b" or "c"`.
func either(words []string) string {
	text := quoted(words)
	if last := strings.LastIndex(text, `", "`); last >= 0 {
		text = text[:last] + `" or "` + text[last+len(`", "`):]
	}
	return text
}

// quoted joins words without spaces: `"a", "b"`.
func quoted(words []string) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprintf("%q", words), "[]"), `" "`, `", "`)
}
