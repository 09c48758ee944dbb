package main

import (
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// screen is what a table is drawn for.
type screen struct {
	width  int // columns; 0: no limit
	height int // rows; 0: no limit
	color  bool
}

// screenOf looks at a file: a terminal has a size, and colours unless NO_COLOR
// is set (no-color.org).
func screenOf(f *os.File) screen {
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return screen{}
	}
	return screen{width: width, height: height, color: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// paint is a way to set off text: an SGR parameter of ECMA-48.
type paint string

const (
	plain  paint = ""
	bold   paint = "1"
	dim    paint = "2"
	red    paint = "31"
	green  paint = "32"
	yellow paint = "33"
)

func (s screen) paint(p paint, text string) string {
	if !s.color || p == plain {
		return text
	}
	return "\x1b[" + string(p) + "m" + text + "\x1b[0m"
}

// cut shortens text to the screen's width.
func (s screen) cut(text string) string {
	if s.width <= 0 || utf8.RuneCountInString(text) <= s.width {
		return text
	}
	return string([]rune(text)[:s.width-1]) + "…"
}

// wrap joins parts with commas, in lines as wide as the screen; the second and
// later ones are indented.
func (s screen) wrap(parts []string) []string {
	const indent = "  "
	var lines []string
	line := ""
	for i, part := range parts {
		if i < len(parts)-1 {
			part += ","
		}
		switch {
		case line == "":
			line = part
		case s.width > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(part) > s.width:
			lines, line = append(lines, line), indent+part
		default:
			line += " " + part
		}
	}
	lines = append(lines, line)
	for i := range lines {
		lines[i] = s.cut(lines[i])
	}
	return lines
}

// crop leaves out the lines that the screen has no room for: a picture that is
// drawn over and over must not scroll.
func (s screen) crop(lines []string) []string {
	if s.height < 2 || len(lines) < s.height {
		return lines
	}
	left := len(lines) - (s.height - 2)
	return append(lines[:s.height-2:s.height-2], s.paint(dim, plural(left, "more line")))
}

// pad fills text up to width, on the left for figures.
func pad(text string, width int, figure bool) string {
	space := strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
	if figure {
		return space + text
	}
	return text + space
}
