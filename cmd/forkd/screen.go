package main

import (
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

type screen struct {
	width  int // columns; 0: no limit
	height int // rows; 0: not a terminal
	color  bool
}

// screenOf describes a file. A terminal has a size, and colours unless NO_COLOR is
// set (no-color.org).
func screenOf(f *os.File) screen {
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return screen{}
	}
	return screen{width: width, height: height, color: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// style is an SGR parameter of ECMA-48.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"

	inverse style = "7"
)

func (s screen) paint(p style, text string) string {
	if !s.color || p == plain {
		return text
	}
	return "\x1b[" + string(p) + "m" + text + "\x1b[0m"
}

// warning paints lines that ask for attention.
func (s screen) warning(lines []string) []string {
	for i, line := range lines {
		lines[i] = s.paint(yellow, line)
	}
	return lines
}

// columnsOf is the width of text in columns of the screen.
func columnsOf(text string) int { return utf8.RuneCountInString(text) }

func (s screen) cut(text string) string {
	if s.width <= 0 || columnsOf(text) <= s.width {
		return text
	}
	return string([]rune(text)[:s.width-1]) + "…"
}

// wrap is wrapIndent with two columns before the first line and four before the rest.
func (s screen) wrap(text string) []string { return s.wrapIndent("  ", "    ", text) }

// wrapIndent breaks text between words into lines as wide as the screen. The first
// line begins with first, the others with rest. A word that is wider than a line is
// broken anywhere.
func (s screen) wrapIndent(first, rest, text string) []string {
	const least = 16 // columns of text in a line, on any screen
	line := first + text
	if s.width <= 0 {
		return []string{line}
	}
	if s.width < columnsOf(rest)+least {
		rest = "    "
	}
	width := max(s.width, columnsOf(rest)+least)
	var lines []string
	for indent := columnsOf(first); columnsOf(line) > width; indent = columnsOf(rest) {
		runes := []rune(line)
		end := width
		for end > indent && runes[end] != ' ' {
			end--
		}
		if end <= indent {
			end = width
		}
		lines = append(lines, strings.TrimRight(string(runes[:end]), " "))
		line = rest + strings.TrimLeft(string(runes[end:]), " ")
	}
	return append(lines, line)
}

// list joins parts with commas and wraps between the parts.
func (s screen) list(parts []string) []string {
	const comma, space = "\x01", "\x00" // sanitized text has neither
	joined := strings.NewReplacer(" ", space, comma, ", ").Replace(strings.Join(parts, comma))
	lines := s.wrapIndent("", "  ", joined)
	for i, line := range lines {
		lines[i] = strings.ReplaceAll(line, space, " ")
	}
	return lines
}

// keyValues is a line for each key and value, with the values in a column. Empty
// values are left out.
func (s screen) keyValues(pairs [][2]string) []string {
	const widest = 28 // a longer key pushes its value to the right
	width := 0
	for _, pair := range pairs {
		if n := columnsOf(sanitize(pair[0])); pair[1] != "" && n <= widest {
			width = max(width, n)
		}
	}
	var lines []string
	for _, pair := range pairs {
		if pair[1] != "" {
			key := "  " + pad(sanitize(pair[0]), width, left) + "  "
			lines = append(lines, s.wrapIndent(key, strings.Repeat(" ", width+4), sanitize(pair[1]))...)
		}
	}
	return lines
}
