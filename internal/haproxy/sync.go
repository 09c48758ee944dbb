package haproxy

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/fleet"
)

// patience is how long reports must be missing, at least, before a server is taken away
// for it: a Redis that has lost its data has all hosts back within two heartbeats.
const patience = 5 * time.Second

// Sync keeps the servers of a backend that are named Prefix and a number. It leaves all
// others alone.
type Sync struct {
	API
	Backend  string
	Prefix   string
	Port     uint16         // of a host's addresses, the one with this port; 0: the first
	Networks []netip.Prefix // that a host's address must be in; none: any
	Once     bool           // missing reports are believed at once

	last  *fleet.Fleet               // that was read
	quiet map[netip.AddrPort]silence // servers' addresses whose reports are missing
}

type silence struct {
	since  time.Time // zero: it is heard
	expect time.Duration
}

// CheckName checks the name of a backend or the prefix of names of servers (HAProxy's
// configuration manual, 4).
func CheckName(name string) error {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-.:", r))
	}
	if name == "" || len(name) > 200 || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("%q is no name to HAProxy: use letters, digits, and _ - . : between them", name)
	}
	return nil
}

// Look makes the servers what the hosts of f want, and returns what has changed and what
// is wrong, a line each. f is nil when Redis could not be read: then servers that HAProxy
// has forgotten get the hosts of the last time, and none is taken away. An error is of
// HAProxy.
func (s *Sync) Look(ctx context.Context, f *fleet.Fleet) (changes []Change, wrong []string, err error) {
	heard := f != nil
	if heard {
		s.last = f
	} else {
		clear(s.quiet) // what was missed while Redis was away says nothing
		if s.last == nil {
			return nil, nil, nil
		}
	}
	wants, wrong := s.wants(s.last)
	servers, err := s.owned(ctx)
	if err != nil {
		return nil, wrong, err
	}
	changes, homeless := plan(servers, wants, s.listen(servers, wants, heard, time.Now()))
	if len(homeless) > 0 {
		wrong = append(wrong, fmt.Sprintf("all %d servers %s are used, %d hosts have none, %s first: raise the number of server-template", len(servers), s.Prefix, len(homeless), homeless[0]))
	}
	if len(changes) == 0 {
		return nil, wrong, nil
	}
	said := make(map[string]string, len(changes))
	for i := range changes {
		c := &changes[i]
		if said[c.Server], err = s.ask(ctx, c.commands(s.Backend)); err != nil {
			return nil, wrong, err
		}
	}
	// What an answer means is seen by what has become of the server.
	if servers, err = s.owned(ctx); err != nil {
		return nil, wrong, err
	}
	now := make(map[string]server, len(servers))
	for _, v := range servers {
		now[v.name] = v
	}
	var done []Change
	for _, c := range changes {
		if is := now[c.Server]; is.addr == c.Address && is.state == c.State && is.weight == c.Weight {
			done = append(done, c)
		} else {
			wrong = append(wrong, fmt.Sprintf("%s could not be changed: %v", c.Server, says(said[c.Server])))
		}
	}
	return done, wrong, nil
}

// owned returns the backend's servers that are forkd's.
func (s *Sync) owned(ctx context.Context) ([]server, error) {
	reply, err := s.ask(ctx, "show servers state "+s.Backend)
	if err != nil {
		return nil, err
	}
	all, err := parseState(reply)
	if err != nil {
		return nil, err
	}
	var owned []server
	for _, v := range all {
		number, ok := strings.CutPrefix(v.name, s.Prefix)
		if ok && number != "" && strings.Trim(number, "0123456789") == "" && v.addr.IsValid() {
			owned = append(owned, v)
		}
	}
	if len(owned) == 0 {
		return nil, fmt.Errorf("the backend %s has no servers %s1, %[2]s2 and so on: see server-template", s.Backend, s.Prefix)
	}
	return owned, nil
}

// listen notes whose reports are missing, and returns for whom they have been for long
// enough. Where no host is heard, that is nobody: it is Redis that has lost them, or all
// are gone, which HAProxy's checks see by themselves.
func (s *Sync) listen(servers []server, wants map[netip.AddrPort]want, heard bool, now time.Time) func(netip.AddrPort) bool {
	serves := false
	for _, w := range wants {
		serves = serves || w.state == Ready
	}
	if !heard || !serves {
		clear(s.quiet)
		return func(netip.AddrPort) bool { return false }
	}
	quiet := make(map[netip.AddrPort]silence, len(servers))
	for _, v := range servers {
		q, known := s.quiet[v.addr]
		w, wanted := wants[v.addr]
		switch {
		case wanted && !w.silent:
			q = silence{expect: w.expect}
		case !known:
			q = silence{since: now, expect: patience}
			if wanted {
				q.expect = w.expect
			}
		case q.since.IsZero():
			q.since = now
		}
		quiet[v.addr] = q
	}
	s.quiet = quiet
	return func(addr netip.AddrPort) bool {
		q := quiet[addr]
		return s.Once || !q.since.IsZero() && now.Sub(q.since) >= q.expect
	}
}
