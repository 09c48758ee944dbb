// Package placeholder replaces {fd}, {port}, {slot} and {generation} in a worker's
// command and environment (docs/contract.md, What a worker is given). It knows no listener, only
// names and numbers.
package placeholder

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Scope holds the values of one worker's placeholders.
type Scope struct {
	slot, generation int
	listeners        []listener
}

type listener struct {
	name     string
	fd, port int
	unix     bool // without a port
}

// NewScope returns a scope without listeners.
func NewScope(slot, generation int) Scope { return Scope{slot: slot, generation: generation} }

// Add adds the next listener. The port of a unix socket does not count.
func (s *Scope) Add(name, network string, fd, port int) {
	s.listeners = append(s.listeners, listener{name, fd, port, network == "unix"})
}

// Port returns the port of the first listener that has one.
func (s Scope) Port() (port int, ok bool) {
	port, err := s.value("port")
	return port, err == nil
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
	switch {
	case placeholder == "slot":
		return s.slot, nil
	case placeholder == "generation":
		return s.generation, nil
	case kind != "fd" && kind != "port":
		return 0, fmt.Errorf("unknown placeholder {%s}: there are {fd}, {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; write {{ for a brace", placeholder)
	}
	i := slices.IndexFunc(s.listeners, func(l listener) bool { return named && l.name == name || !named && (kind == "fd" || !l.unix) })
	switch {
	case i < 0 && named:
		return 0, fmt.Errorf("{%s} names no listener", placeholder)
	case len(s.listeners) == 0:
		return 0, fmt.Errorf("{%s} needs a listener, and there is none", placeholder)
	}
	l := s.listeners[max(0, i)]
	switch {
	case kind == "fd":
		return l.fd, nil
	case l.unix:
		return 0, fmt.Errorf("{%s}: listener %q is a unix socket, and has no port", placeholder, l.name)
	}
	return l.port, nil
}
