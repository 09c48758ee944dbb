package main

import (
	"strings"
	"unicode/utf8"
)

// columnsOf is how wide text is on a screen.
func columnsOf(text string) int { return utf8.RuneCountInString(text) }

// fold breaks text into lines as wide as the screen, indented by two columns, the
// second and later ones by four.
func (s screen) fold(text string) []string { return s.hang("  ", "    ", text) }

// hang breaks text between words into lines as wide as the screen, the first
// after one text and the others after another. A word that is wider than the
// screen is broken anywhere.
func (s screen) hang(first, rest, text string) []string {
	const least = 20 // columns, however narrow the screen
	line := first + text
	if s.width <= 0 {
		return []string{line}
	}
	width := max(s.width, columnsOf(rest)+least)
	var lines []string
	for columnsOf(line) > width {
		runes := []rune(line)
		at, indent := width, columnsOf(first)
		if len(lines) > 0 {
			indent = columnsOf(rest)
		}
		for i := width; i > indent; i-- {
			if runes[i] == ' ' {
				at = i
				break
			}
		}
		lines = append(lines, strings.TrimRight(string(runes[:at]), " "))
		line = rest + strings.TrimLeft(string(runes[at:]), " ")
	}
	return append(lines, line)
}

// pairs is a line for each name and its value, unless that is empty; the values
// stand in a column.
func (s screen) pairs(pairs [][2]string) []string {
	const widest = 28 // a longer name pushes its value to the right
	width := 0
	for _, pair := range pairs {
		if n := columnsOf(clean(pair[0])); pair[1] != "" && n <= widest {
			width = max(width, n)
		}
	}
	var lines []string
	for _, pair := range pairs {
		if pair[1] == "" {
			continue
		}
		first := "  " + pad(clean(pair[0]), width, false) + "  "
		lines = append(lines, s.hang(first, strings.Repeat(" ", width+4), clean(pair[1]))...)
	}
	return lines
}
