// Package placeholder replaces {fd}, {port}, {slot} and {generation} in a worker's
// command and environment (docs/contract.md, section 3). It knows no listener, only
// names and numbers.
package placeholder

import (
	"fmt"
	"strconv"
	"strings"
)

// Scope holds the values of one worker's placeholders.
type Scope struct {
	slot       int
	generation int
	fds        map[string]int // by listener name
	ports      map[string]int // without those of unix sockets
	first      string         // name of the first listener, "" without one
	firstTCP   string         // of the first that has a port
}

// NewScope returns a scope without listeners.
func NewScope(slot, generation int) Scope {
	return Scope{fds: map[string]int{}, ports: map[string]int{}, slot: slot, generation: generation}
}

// Add adds the next listener. The port of a unix socket does not count.
func (s *Scope) Add(name, network string, fd, port int) {
	if len(s.fds) == 0 {
		s.first = name
	}
	s.fds[name] = fd
	if network == "unix" {
		return
	}
	if len(s.ports) == 0 {
		s.firstTCP = name
	}
	s.ports[name] = port
}

// Port returns the port of the first listener that has one.
func (s *Scope) Port() (port int, ok bool) {
	port, ok = s.ports[s.firstTCP]
	return port, ok
}

// HasFD reports whether text passes a socket to the program by number. Such a
// program gets no LISTEN_FDS unless protocols asks for it: some die of both.
func HasFD(text string) bool {
	text = strings.ReplaceAll(text, "{{", "")
	return strings.Contains(text, "{fd}") || strings.Contains(text, "{fd:")
}

// Expand replaces {fd}, {fd:NAME}, {port}, {port:NAME}, {slot} and {generation};
// "{{" is a brace.
func (s Scope) Expand(text string) (string, error) {
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

func (s Scope) value(placeholder string) (int, error) {
	kind, name, named := strings.Cut(placeholder, ":")
	var of map[string]int
	first := s.first
	switch {
	case kind == "fd":
		of = s.fds
	case kind == "port":
		of = s.ports
		if s.firstTCP != "" {
			first = s.firstTCP
		}
	case placeholder == "slot":
		return s.slot, nil
	case placeholder == "generation":
		return s.generation, nil
	default:
		return 0, fmt.Errorf("unknown placeholder {%s}: there are {fd}, {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; write {{ for a brace", placeholder)
	}
	if !named {
		name = first
	}
	if value, ok := of[name]; ok {
		return value, nil
	}
	_, portless := s.fds[name]
	switch {
	case portless:
		return 0, fmt.Errorf("{%s}: listener %q is a unix socket, and has no port", placeholder, name)
	case named:
		return 0, fmt.Errorf("{%s} names no listener", placeholder)
	default:
		return 0, fmt.Errorf("{%s} needs a listener, and there is none", placeholder)
	}
}
