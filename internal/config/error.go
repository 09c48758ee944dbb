package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is a bad setting and its position. The command line prints it and exits with
// code 2.
type Error struct {
	File         string // as the user would name it; "" for a flag
	Line, Column int    // from 1, columns in characters; 0: no line is at fault
	Text         string
	Source       string   // the line at fault, values that may be secrets masked; "" without one
	Others       []*Error // what else is wrong, in the order of the file
}

// Error is OneLine, and how many others there are.
func (e *Error) Error() string {
	switch n := len(e.Others); n {
	case 0:
		return e.OneLine()
	case 1:
		return e.OneLine() + " (and 1 more error: forkd check shows it)"
	default:
		return fmt.Sprintf("%s (and %d more errors: forkd check shows them)", e.OneLine(), n)
	}
}

// OneLine is this error alone: "forkd.toml:12:1: ...", or "--workers: ..." for a flag.
func (e *Error) OneLine() string {
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
	return &Error{File: o.file, Line: line, Column: column, Text: text, Source: o.source()}
}

// source is the line, without what may be a secret: only the value of one key of a known,
// open kind is shown. The text of the others keeps its width.
func (o origin) source() string {
	if o.text == nil {
		return ""
	}
	start := bytes.LastIndexByte(o.text[:o.offset], '\n') + 1
	line, _, _ := strings.Cut(string(o.text[start:]), "\n")
	line = strings.TrimSuffix(line, "\r")
	if len(line) > maxSource {
		return ""
	}
	before := strings.ToValidUTF8(line[:o.offset-start], "?")
	value := regexp.MustCompile(`^\s*([A-Za-z0-9_.-]+\s*=\s*)?$`)
	secret := o.label == "" || strings.HasPrefix(o.label, "env") || strings.HasPrefix(o.label, "redis.") || o.label == "command"
	if !secret && o.label != "listen" && value.MatchString(before) {
		literal := regexp.MustCompile(`^("[^"]*"|'[^']*'|[^\s#"']*)`).FindString(line[o.offset-start:])
		return printable(before + literal)
	}
	header := regexp.MustCompile(`^\s*\[\[?[A-Za-z0-9_.-]+\]?\]?`)
	key := regexp.MustCompile(`^\s*[A-Za-z0-9_.-]+\s*=`)
	open := cmp.Or(header.FindString(line), key.FindString(line))
	return printable(open + strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return '*'
		}
		return r
	}, line[len(open):]))
}

const maxSource = 400 // bytes

// printable has one column for each character.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(line, "?"))
}

// wrap gives err the position o, unless it has one.
func (o origin) wrap(err error) *Error {
	if placed, ok := errors.AsType[*Error](err); ok {
		return placed
	}
	return o.errorf("%s", err)
}

// maxFailures bounds the errors that are told of a file.
const maxFailures = 20

// together is all errors as one: those of the file in its order, then those of flags.
func together(failures []*Error) *Error {
	failures = slices.Clone(failures)
	slices.SortStableFunc(failures, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(uint(a.Line-1), uint(b.Line-1)), // none is last
			cmp.Compare(b.File, a.File),
			cmp.Compare(a.Column, b.Column),
		)
	})
	all := *failures[0]
	all.Others = failures[1:min(len(failures), maxFailures)]
	return &all
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
