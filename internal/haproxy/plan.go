package haproxy

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Change is what one server becomes.
type Change struct {
	Server  string         `json:"server"`
	Host    string         `json:"host"` // as it calls itself; "" one that reports no more
	Address netip.AddrPort `json:"address"`
	State   string         `json:"state"`
	Weight  int            `json:"weight"` // absolute, 0 to 256

	from server
}

// step is the least difference of weights that is worth a change, in percent of the
// server's weight: connections come and go all the time.
const step = 5

// plan returns the changes that make servers what hosts want, and the hosts for which no
// server is left. gone reports whether an address has been without reports for long enough.
func plan(servers []server, wants map[netip.AddrPort]want, gone func(netip.AddrPort) bool) (changes []Change, homeless []string) {
	order := slices.Clone(servers)
	slices.SortStableFunc(order, func(a, b server) int { return cmp.Compare(rankOf(a.state), rankOf(b.state)) })
	var free []server
	has := make(map[netip.AddrPort]bool, len(wants))
	for _, s := range order {
		c := Change{Server: s.name, Address: s.addr, State: s.state, Weight: s.weight, from: s}
		w, wanted := wants[s.addr]
		doubled := has[s.addr]
		switch {
		case wanted && !doubled:
			has[s.addr] = true
			c.Host = w.host
			if w.state == "" || w.silent && !gone(s.addr) || w.state == Drain && s.state == Maint {
				break
			}
			c.State = w.state
			if target := s.target(w.weight); w.state == Ready && s.differs(target) {
				c.Weight = target
			}
		case s.state == Maint:
			free = append(free, s)
		case doubled || s.addr.Addr().IsUnspecified() || gone(s.addr):
			c.State = Maint
		}
		if c.State != s.state || c.Weight != s.weight {
			changes = append(changes, c)
		}
	}
	// First those that never had an address, then those that have been free for longest.
	slices.SortStableFunc(free, func(a, b server) int { return cmp.Compare(b.idle(), a.idle()) })
	for _, addr := range slices.SortedFunc(maps.Keys(wants), netip.AddrPort.Compare) {
		w := wants[addr]
		switch {
		case has[addr] || w.state != Ready || w.silent:
		case len(free) == 0:
			homeless = append(homeless, w.host)
		default:
			s := free[0]
			free = free[1:]
			changes = append(changes, Change{Server: s.name, Host: w.host, Address: addr, State: Ready, Weight: s.target(w.weight), from: s})
		}
	}
	return changes, homeless
}

// idle is how long a server without a host has been free.
func (s server) idle() time.Duration {
	if s.addr.Addr().IsUnspecified() {
		return math.MaxInt64
	}
	return s.since
}

// rankOf sorts servers that are used before others of the same address.
func rankOf(state string) int { return slices.Index([]string{Ready, Drain, Maint}, state) }

// target is the weight at a share of the configured one, at least 1: 0 gets nobody new.
func (s server) target(percent int) int {
	return min(s.initial, 256, max(1, (s.initial*percent+50)/100))
}

func (s server) differs(target int) bool {
	return s.weight == 0 && target > 0 || max(target-s.weight, s.weight-target)*100 >= max(100, step*s.initial)
}

// commands are of the runtime API, in one line: a server gets its address before anybody
// is sent there.
func (c *Change) commands(backend string) string {
	name := backend + "/" + c.Server
	line := ""
	if c.Address != c.from.addr {
		line += fmt.Sprintf("set server %s addr %s port %d;", name, c.Address.Addr(), c.Address.Port())
	}
	if c.Weight != c.from.weight {
		line += fmt.Sprintf("set server %s weight %d;", name, c.Weight)
	}
	if c.State != c.from.state {
		line += fmt.Sprintf("set server %s state %s;", name, c.State)
	}
	return line
}

// String is the change in words.
func (c Change) String() string {
	host := cmp.Or(c.Host, "a host that reports no more")
	switch {
	case c.State == Drain:
		return fmt.Sprintf("%s drains: %s, %s", c.Server, host, c.Address)
	case c.State == Maint:
		return fmt.Sprintf("%s is free: %s, %s", c.Server, host, c.Address)
	case c.State == c.from.state && c.Address == c.from.addr:
		return fmt.Sprintf("%s has weight %d: %s, %s", c.Server, c.Weight, host, c.Address)
	default:
		return fmt.Sprintf("%s is ready, weight %d: %s, %s", c.Server, c.Weight, host, c.Address)
	}
}
