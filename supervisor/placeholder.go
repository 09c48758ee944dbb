package supervisor

import (
	"fmt"
	"strconv"
	"strings"
)

// scope is what the placeholders of one worker stand for.
type scope struct {
	fds        map[string]int // by listener name
	ports      map[string]int // without those of unix sockets
	first      string         // name of the first listener, "" without one
	firstTCP   string         // of the first that has a port, which PORT is too
	slot       int
	generation int
}

// newScope is a scope without listeners yet.
func newScope(slot, generation int) scope {
	return scope{fds: map[string]int{}, ports: map[string]int{}, slot: slot, generation: generation}
}

// add is for each listener, in their order.
func (s *scope) add(name, network string, fd, port int) {
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

// CheckPlaceholders says what is wrong with the placeholders of a command or of
// an environment value. internal/config calls it while it still knows the line.
func CheckPlaceholders(text string, listeners []Listener) error {
	s := newScope(0, 0)
	for _, l := range listeners {
		s.add(l.Name, l.Network, 0, 0)
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
