package sockets

import (
	"cmp"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Implied returns listeners made of the passed sockets, one per address, for an app
// without listeners. Its name is the socket unit's without ".socket", else the port or
// the file. Called before the first Open.
func (s *Set) Implied() []Listener {
	var leads []*passed // one for each address, a socket unit's where there is one
	for _, p := range s.passed {
		at := slices.IndexFunc(leads, func(lead *passed) bool { return lead.at == p.at })
		switch {
		case p.unix && p.at.path == "":
		case at < 0:
			leads = append(leads, p)
		case p.unitOwned && !leads[at].unitOwned:
			leads[at] = p
		}
	}
	var ls []Listener
	for _, p := range leads {
		l := p.implies()
		taken := func() bool { return slices.ContainsFunc(ls, func(other Listener) bool { return other.Name == l.Name }) }
		for n := 1; l.Name == "" || taken(); n++ {
			if l.Name = p.plainName(); n > 1 {
				l.Name += "-" + strconv.Itoa(n)
			}
		}
		ls = append(ls, l)
	}
	return ls
}

func (p *passed) implies() Listener {
	l := p.listens()
	l.Name, l.Nonblocking, l.Mode, l.Balance = p.listener, true, ModeReuseport, BalanceHash
	if p.unix {
		l.Mode, l.Balance = ModeShared, ""
	}
	if p.unitOwned {
		if l.Name = strings.TrimSuffix(p.passedAs, ".socket"); slices.Contains([]string{"unknown", "stored", "connection"}, l.Name) {
			l.Name = ""
		}
	}
	if state, err := p.inspect(); err == nil {
		l.Backlog = int(state.backlog)
	}
	l.Backlog = cmp.Or(l.Backlog, DefaultBacklog)
	return l
}

// plainName names a listener by its port or file.
func (p *passed) plainName() string {
	if p.unix {
		return strings.TrimSuffix(filepath.Base(p.at.path), ".sock")
	}
	return strconv.Itoa(p.at.end.port)
}
