package fleetserve

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// The bounds of wrong tokens.
const (
	wrongTokens   = 5                // from one address, until it has to wait
	wrongInterval = 12 * time.Second // after which it may try once more
	mostAddresses = 4096             // that are remembered; all others count as one
)

// guard knows the token of commands, and bounds the attempts at it.
type guard struct {
	token [sha256.Size]byte
	open  bool // there is one

	mu    sync.Mutex
	wrong map[netip.Addr]time.Time // when an address has paid for all its wrong tokens
}

func newGuard(token string) *guard {
	return &guard{token: sha256.Sum256([]byte(token)), open: token != "", wrong: map[netip.Addr]time.Time{}}
}

// check compares a token in constant time. wait is how long an address that has sent
// too many wrong ones has to wait: its token is not looked at.
func (g *guard) check(token string, from netip.Addr, now time.Time) (right bool, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if from = g.place(from); g.wrong[from].Sub(now) > (wrongTokens-1)*wrongInterval {
		return false, g.wrong[from].Sub(now) - (wrongTokens-1)*wrongInterval
	}
	sum := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1 {
		return true, 0
	}
	paid := g.wrong[from]
	if paid.Before(now) {
		paid = now
	}
	g.wrong[from] = paid.Add(wrongInterval)
	for address, paid := range g.wrong {
		if paid.Before(now) {
			delete(g.wrong, address)
		}
	}
	return false, 0
}

// place is where the wrong tokens of an address are counted: in its /64, as one host has
// that many; with those of all others when there are too many.
func (g *guard) place(from netip.Addr) netip.Addr {
	if from = from.Unmap(); from.Is6() {
		if network, err := from.Prefix(64); err == nil {
			from = network.Addr()
		}
	}
	if _, known := g.wrong[from]; !known && len(g.wrong) >= mostAddresses {
		return netip.Addr{}
	}
	return from
}

// names are those by which the server may be called, in lower case.
func (s *server) names() map[string]bool {
	own, _ := os.Hostname()
	names := map[string]bool{"localhost": true, strings.ToLower(own): true}
	for _, name := range s.Names {
		names[strings.ToLower(name)] = true
	}
	delete(names, "")
	return names
}

// hostOf is a Host header without its port, in lower case.
func hostOf(header string) string {
	host, _, err := net.SplitHostPort(header)
	if err != nil {
		host = header
	}
	return strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
}
