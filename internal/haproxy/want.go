package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// want is what a server with a host's address should be.
type want struct {
	host   string
	state  string        // Ready or Drain; "": as it is, the report is not to be trusted
	silent bool          // reports are missing: it holds only once they have been for a while
	weight int           // percent, of one that is ready
	expect time.Duration // within which a live host reports again
}

// wants returns what the hosts of f want, by their addresses, and what is wrong, a line
// each. A host that has vanished wants nothing.
func (s *Sync) wants(f *fleet.Fleet) (map[netip.AddrPort]want, []string) {
	wants := make(map[netip.AddrPort]want, len(f.Hosts))
	var wrong []string
	for i := range f.Hosts {
		h := &f.Hosts[i]
		if h.Vanished {
			continue
		}
		addr, outside := s.address(h.Addresses)
		if !addr.IsValid() {
			switch {
			case h.Problem != "":
			case outside.IsValid():
				wrong = append(wrong, fmt.Sprintf("%s reports %s, which is in no --network", h.ID, outside))
			default:
				wrong = append(wrong, fmt.Sprintf("%s reports no address that can be used: set redis.advertise = [\"IP:PORT\"] there", h.ID))
			}
			continue
		}
		w := wantOf(h)
		if other, twice := wants[addr]; twice {
			wrong = append(wrong, fmt.Sprintf("%s and %s both report %s", other.host, h.ID, addr))
			if other.rank() >= w.rank() {
				continue
			}
		}
		wants[addr] = w
	}
	return wants, wrong
}

// rank decides between two hosts of one address: the one that serves now, then the first.
func (w want) rank() int {
	switch {
	case w.silent || w.state == "":
		return 0
	case w.state == Drain:
		return 1
	default:
		return 2
	}
}

func wantOf(h *fleet.Host) want {
	w := want{host: h.ID, state: Ready, silent: h.Stale, expect: max(patience, h.Takes())}
	ready, wanted := int64(1), int64(1)
	if h.Ready != nil && h.Wanted != nil {
		ready, wanted = *h.Ready, *h.Wanted
	}
	switch {
	case h.Problem != "" || h.Twin != "" || h.State == "":
		w.state = ""
	case h.Stale || h.State != control.StateReady || ready == 0 || wanted == 0:
		w.state = Drain
	default:
		w.weight = control.Weight(ready, wanted, h.Connections, h.Capacity)
	}
	return w
}

// address returns the first of a host's addresses that a server can have. What Redis says
// is not taken on trust: it must be an IP address and a port, without a zone, of one host.
// Where there is none, outside is the first that only Networks forbid, if any.
func (s *Sync) address(addresses []string) (addr, outside netip.AddrPort) {
	for _, text := range addresses {
		if scheme, rest, ok := strings.Cut(text, "://"); ok && slices.Contains([]string{"tcp", "tcp4", "tcp6"}, scheme) {
			text = rest
		}
		to, err := netip.ParseAddrPort(text)
		if err != nil {
			ip, err := netip.ParseAddr(text)
			if err != nil || s.Port == 0 {
				continue
			}
			to = netip.AddrPortFrom(ip, s.Port)
		}
		ip := to.Addr().Unmap()
		to = netip.AddrPortFrom(ip, to.Port())
		switch {
		case to.Port() == 0 || s.Port != 0 && to.Port() != s.Port:
		case ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		case len(s.Networks) > 0 && !slices.ContainsFunc(s.Networks, func(n netip.Prefix) bool { return n.Contains(ip) }):
			if !outside.IsValid() {
				outside = to
			}
		default:
			return to, outside
		}
	}
	return addr, outside
}
