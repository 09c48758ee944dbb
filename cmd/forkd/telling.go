package main

import (
	"fmt"
	"regexp"
	"strings"

	applog "github.com/forkd/forkd/internal/output"
)

// tellingLines picks the lines of a worker's last output that say why it ended, at most so many:
// stack traces are cut, as node and Go print the error above theirs, and Python below.
func tellingLines(lines []string, most int) []string {
	colours := applog.ControlSequences()
	var text []string
	for _, line := range lines {
		if line = strings.TrimRight(colours.ReplaceAllString(line, ""), " \t\r"); line != "" {
			text = append(text, line)
		}
	}
	var out []string
	for i := 0; i < len(text); {
		end := i
		for end < len(text) && frame(text, end) {
			end++
		}
		stack := text[i:end]
		switch n := len(stack); {
		case n == 0:
			out = append(out, text[i])
			i++
			continue
		case n <= 3:
			out = append(out, stack...)
		case strings.Contains(stack[0], `File "`): // the last call is last
			out = append(append(out, cutLines(n-2)), stack[n-2:]...)
		case strings.HasPrefix(stack[0], "goroutine "): // a call has two lines
			out = append(append(out, stack[:3]...), cutLines(n-3))
		default:
			out = append(append(out, stack[0]), cutLines(n-1))
		}
		i = end
	}
	if len(out) <= most {
		return out
	}
	last := out[len(out)-most:]
	begins := regexp.MustCompile(`^(\S*(Error|Exception)\b|panic:|fatal error:|Traceback )`)
	for i := len(out) - most; i >= 0; i-- {
		if begins.MatchString(out[i]) {
			return append([]string{out[i], cutLines(len(out) - most - i + 1)}, last[2:]...)
		}
	}
	return last
}

func cutLines(n int) string { return fmt.Sprintf("    … %d more lines", n) }

// frame reports whether a line is of a stack trace of Go, Java, node, Python or Ruby.
func frame(text []string, i int) bool {
	line := text[i]
	bare := strings.TrimLeft(line, " \t")
	indented := bare != line
	switch {
	case indented && (strings.HasPrefix(bare, "at ") || strings.HasPrefix(bare, "from ") || strings.HasPrefix(bare, `File "`) || strings.HasPrefix(bare, "... ")):
		return true
	case strings.HasPrefix(line, "goroutine "), line[0] == '\t' && strings.Contains(line, ".go:"):
		return true
	case i+1 < len(text) && text[i+1][0] == '\t' && strings.Contains(text[i+1], ".go:"): // the call above the file
		return true
	}
	return indented && strings.Contains(strings.Join(text[max(0, i-2):i], "\n"), `  File "`) // Python's source, and where in it
}
