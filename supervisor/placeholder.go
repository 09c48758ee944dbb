package supervisor

import (
	"fmt"
	"strconv"
	"strings"
)

// scope is what the placeholders of one worker stand for.
type scope struct {
	fds        map[string]int // by listener name
	ports      map[string]int
	first      string // name of the first listener, "" without one
	slot       int
	generation int
}

// CheckPlaceholders says what is wrong with the placeholders of a command or of
// an environment value. internal/config calls it while it still knows the line.
func CheckPlaceholders(text string, listeners []Listener) error {
	s := scope{fds: map[string]int{}, ports: map[string]int{}}
	for i, l := range listeners {
		if i == 0 {
			s.first = l.Name
		}
		s.fds[l.Name], s.ports[l.Name] = 0, 0
	}
	_, err := s.expand(text)
	return err
}

// HasFD reports whether text hands a socket to the program by number. Such a
// program gets no LISTEN_FDS unless protocols asks for it: some die of both.
func HasFD(text string) bool {
	text = strings.ReplaceAll(text, "{{", "")
	return strings.Contains(text, "{fd}") || strings.Contains(text, "{fd:")
}

// expand replaces the placeholders of docs/contract.md, section 3: {fd},
// {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; "{{" is a brace.
func (s scope) expand(text string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "{")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		if after, doubled := strings.CutPrefix(rest, "{"); doubled {
			out.WriteByte('{')
			text = after
			continue
		}
		inside, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", fmt.Errorf(`"{%s" has no closing brace: write {{ for a brace`, rest)
		}
		value, err := s.value(inside)
		if err != nil {
			return "", err
		}
		out.WriteString(strconv.Itoa(value))
		text = after
	}
}

func (s scope) value(placeholder string) (int, error) {
	kind, name, named := strings.Cut(placeholder, ":")
	if !named {
		name = s.first
	}
	var of map[string]int
	switch {
	case kind == "fd":
		of = s.fds
	case kind == "port":
		of = s.ports
	case placeholder == "slot":
		return s.slot, nil
	case placeholder == "generation":
		return s.generation, nil
	default:
		return 0, fmt.Errorf("unknown placeholder {%s}: there are {fd}, {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; write {{ for a brace", placeholder)
	}
	value, ok := of[name]
	switch {
	case ok:
		return value, nil
	case named:
		return 0, fmt.Errorf("{%s} names no listener", placeholder)
	default:
		return 0, fmt.Errorf("{%s} needs a listener, and there is none", placeholder)
	}
}
