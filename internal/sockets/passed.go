package sockets

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

func (m *socket) String() string {
	return fmt.Sprintf("socket %q that systemd passed (%s)", m.passedAs, m.address())
}

func (m *socket) address() string {
	if m.isUnix() && m.at.path == "" {
		return "a unix socket without a path"
	}
	return m.listens().Address()
}

func (m *socket) listens() Listener {
	if m.isUnix() {
		return Listener{Network: "unix", Path: m.at.path}
	}
	return m.at.end.listener()
}

func (e endpoint) listener() Listener {
	l := Listener{Network: "tcp6", Host: e.host(), Port: e.port}
	switch {
	case e.dual:
		l.Network, l.Host = "tcp", ""
	case e.addr.Is4():
		l.Network = "tcp4"
	}
	return l
}

// MisfitError says that what systemd passed does not fit: a retry does not help.
type MisfitError struct{ text string }

func (e *MisfitError) Error() string { return e.text }

func (s *Set) take(given []Passed) error {
	given = slices.DeleteFunc(slices.Clone(given), s.record.take)
	var dead []*socket
	for _, g := range given {
		p := newSocket(g.FD)
		p.passedAs = g.Name
		if listener, slot, ok := storedName(g.Name); ok && p.cookie != 0 && slices.Contains(s.record.read.Stored, p.cookie) {
			p.stored, p.listener, p.slot = g.Name, listener, slot
		} else {
			p.unitOwned, p.options = true, readOptions(g.FD)
		}
		what, listens := p.examine(&s.closer)
		if what == "" && !listens && p.stored == "" {
			what = "a socket that does not listen"
		}
		if what != "" {
			return fmt.Errorf("cannot use descriptor %d that was passed as %q: it is %s: forkd takes listening stream sockets (ListenStream= of a socket unit, Accept=no)", g.FD, g.Name, what)
		}
		if listens {
			s.passed = append(s.passed, p)
		} else {
			dead = append(dead, p)
		}
	}
	for _, g := range given {
		unix.CloseOnExec(g.FD)
	}
	for _, p := range dead {
		s.notice("listener %s: the stored socket of slot %d does not listen any more: dropped", p.listener, p.slot)
		s.forget(p)
		p.close()
	}
	return nil
}

// examine finds out where the socket listens. what says what it is if it never could.
func (m *socket) examine(closer *closing.Closer) (what string, listens bool) {
	option := func(name int) int {
		value, _ := unix.GetsockoptInt(m.fd, unix.SOL_SOCKET, name) // 0 matches nothing below
		return value
	}
	domain, kind := option(unix.SO_DOMAIN), option(unix.SO_TYPE)
	inet := domain == unix.AF_INET || domain == unix.AF_INET6
	var stat unix.Stat_t
	switch err := unix.Fstat(m.fd, &stat); {
	case err != nil:
		return "no open descriptor", false
	case stat.Mode&unix.S_IFMT != unix.S_IFSOCK:
		return kindOf(stat.Mode & unix.S_IFMT), false
	case kind != unix.SOCK_STREAM, !inet && domain != unix.AF_UNIX, inet && option(unix.SO_PROTOCOL) != unix.IPPROTO_TCP:
		return "a socket of another kind (ListenDatagram=, ListenSequentialPacket= and SocketProtocol= make such)", false
	}
	if listens = option(unix.SO_ACCEPTCONN) == 1; !listens {
		if _, err := unix.Getpeername(m.fd); err == nil {
			return "a connection, as with Accept=yes", false
		}
	}
	if domain == unix.AF_UNIX {
		m.closer = closer
	}
	var err error
	if m.at, err = localAddr(m.fd); err != nil {
		return "a socket without an address", false
	}
	return "", listens
}

func (m *socket) unfit(l Listener, want bindAddr) bool {
	switch {
	case m.isUnix() || l.Network == "unix":
		return m.isUnix() != (l.Network == "unix")
	case l.Network == "tcp4":
		return !m.at.end.addr.Is4()
	case l.Network == "tcp6":
		return m.at.end.addr.Is4() || m.at.end.dual
	default:
		return !want.end.addr.IsUnspecified() && want.end.addr.Is4() != m.at.end.addr.Is4()
	}
}

// in reports whether the socket is at the exact address, on any of its ports.
func (m *socket) in(at bindAddr) bool {
	if m.isUnix() || at.path != "" {
		return m.isUnix() && m.at.path != "" && m.at.path == at.path
	}
	port := m.at.end.port
	return at.end.withPort(port) == m.at.end && port >= at.end.port && port < at.end.port+at.ports
}

// found are passed sockets at one address.
type found struct {
	at      bindAddr
	sockets []*socket
}

// pick chooses the passed sockets of a listener: those of LISTENER.SLOT, of any family that
// it can have, those of its name, those at its address. It sets where the listener is.
func (l *ListenerSet) pick(e *served) (all []found, err error) {
	asked, from, names := e.asked, l.set.passed, make([]string, len(l.served))
	for i, other := range l.served {
		names[i] = other.asked.Name
	}
	at, units, err := pickUnits(asked, e.want, names, from)
	if err != nil {
		return nil, err
	}
	mine := func(p *socket) bool {
		return p.stored != "" && p.isUnix() == (asked.Network == "unix") && (p.listener == asked.Name || !slices.Contains(names, p.listener))
	}
	if at.end.port == 0 && at.path == "" { // the kernel may have picked a port for an earlier master
		for _, p := range from {
			there := slices.ContainsFunc(at.families(), func(f bindAddr) bool { return f.end == p.at.end.withPort(0) })
			if mine(p) && p.listener == asked.Name && there {
				at.end.port = p.at.end.port
				break
			}
		}
	}
	if at.mode == ModeShared && len(units) > 1 {
		return nil, fmt.Errorf("cannot listen on %s: systemd passed %d sockets for it, and mode %q takes one: use mode %q or let the socket unit have one", asked, len(units), ModeShared, ModeReuseport)
	}
	e.at = at
	for i, f := range at.families() {
		chosen := filter(from, func(p *socket) bool { return mine(p) && p.in(f) && (at.mode != ModeShared || len(units) == 0) })
		if i == 0 {
			chosen = append(chosen, units...)
		}
		if chosen = seat(f, chosen); len(chosen) > 0 {
			all = append(all, found{f, chosen})
		}
	}
	if len(all) == 0 {
		all = []found{{at: at}}
	}
	return all, nil
}

// seat gives each passed socket at an address its slot, and leaves out what has none.
func seat(at bindAddr, given []*socket) (chosen []*socket) {
	shared, taken := at.mode == ModeShared, map[int]bool{}
	for _, p := range given {
		slot := 0
		switch {
		case at.mode == ModeEach:
			slot = p.at.end.port - at.end.port
		case p.stored != "":
			slot = p.slot
		}
		for p.unitOwned && at.mode == ModeReuseport && taken[slot] {
			slot++
		}
		if !taken[slot] && slot < maxSlots && (slot == 0 || !shared) {
			taken[slot] = true
			p.slot = slot
			chosen = append(chosen, p)
		}
	}
	return chosen
}

// pickUnits chooses unit-owned sockets, all at one address: of the listener's name and
// address, of its name, at its address, on its port.
func pickUnits(l Listener, want bindAddr, names []string, from []*socket) (at bindAddr, best []*socket, err error) {
	named := func(p *socket) bool { return p.passedAs == l.Name }
	there := func(p *socket) bool { return p.in(want) }
	for _, fits := range []func(p *socket) bool{
		func(p *socket) bool { return named(p) && there(p) }, named, there,
		func(p *socket) bool {
			return !p.isUnix() && want.path == "" && p.at.end.port == want.end.port && p.at.end.meets(want.end)
		},
	} {
		best = filter(from, func(p *socket) bool {
			return p.stored == "" && (named(p) || !slices.Contains(names, p.passedAs)) && fits(p)
		})
		if len(best) > 0 {
			break
		}
	}
	if len(best) == 0 {
		return want, nil, nil
	}
	lead := best[0]
	if lead.unfit(l, want) {
		return want, nil, &MisfitError{fmt.Sprintf("cannot listen on %s, which is %s://: %s is of another family: change the listener's address or the socket unit's ListenStream=", l, l.Network, lead)}
	}
	at = want
	if !there(lead) {
		at.end, at.path = lead.at.end, lead.at.path
	}
	return at, filter(best, func(p *socket) bool { return p == lead || p.in(at) }), nil
}

func filter[T any](list []T, keep func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(list), func(one T) bool { return !keep(one) })
}

// Implied returns listeners made of the passed sockets, one per address. Its name is the
// socket unit's without ".socket", else the port or the file; those of the fd store alone
// are Learned. Called before the first Open.
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
		l.Name, l.Nonblocking, l.Mode, l.Balance, l.Learned = p.listener, true, ModeReuseport, BalanceHash, !p.unitOwned
		plain := strconv.Itoa(l.Port)
		if p.isUnix() {
			l.Mode, l.Balance = ModeShared, ""
			plain = strings.TrimSuffix(filepath.Base(l.Path), ".sock")
		}
		if l.Learned && !p.isUnix() {
			l.Owner = socketOwner(p.fd)
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
