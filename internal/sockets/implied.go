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
	var leads []*socket // one for each address, a socket unit's where there is one
	for _, p := range s.passed {
		at := slices.IndexFunc(leads, func(lead *socket) bool { return lead.at == p.at })
		switch {
		case p.isUnix() && p.at.path == "":
		case at < 0:
			leads = append(leads, p)
		case p.unitOwned && !leads[at].unitOwned:
			leads[at] = p
		}
	}
	var ls []Listener
	for _, p := range leads {
		l := p.listens()
		l.Name, l.Nonblocking, l.Mode, l.Balance = p.listener, true, ModeReuseport, BalanceHash
		plain := strconv.Itoa(l.Port)
		if p.isUnix() {
			l.Mode, l.Balance = ModeShared, ""
			plain = strings.TrimSuffix(filepath.Base(l.Path), ".sock")
		}
		if p.unitOwned {
			l.Name = strings.TrimSuffix(p.passedAs, ".socket")
		}
		l.Name = freeName(l.Name, plain, ls)
		if state, err := p.inspect(); err == nil {
			l.Backlog = int(state.backlog)
		}
		l.Backlog = cmp.Or(l.Backlog, DefaultBacklog)
		ls = append(ls, l)
	}
	return ls
}

// freeName is the name, or the plain one where that is taken or says nothing
// (sd_listen_fds_with_names(3)).
func freeName(name, plain string, ls []Listener) string {
	unusable := func() bool {
		return slices.Contains([]string{"", "unknown", "stored", "connection"}, name) ||
			slices.ContainsFunc(ls, func(l Listener) bool { return l.Name == name })
	}
	for n := 1; unusable(); n++ {
		if name = plain; n > 1 {
			name = plain + "-" + strconv.Itoa(n)
		}
	}
	return name
}
