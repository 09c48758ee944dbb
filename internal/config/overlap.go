package config

import (
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/forkd/forkd/supervisor"
)

// checkOverlaps refuses listeners that would take each other's connections, or
// each other's place: the kernel would let some of them bind.
func (d *draft) checkOverlaps() {
	for i, l := range d.listeners {
		for _, earlier := range d.listeners[:i] {
			if shared := overlap(earlier.Listener, l.Listener, d.config.Workers); shared != "" {
				d.report(l.at, fmt.Errorf("listeners %q and %q overlap: both take %s", earlier.Name, l.Name, shared))
				return
			}
		}
	}
	d.checkHealth()
}

// checkHealth does the same for the port of the health check.
func (d *draft) checkHealth() {
	health, err := parseAddress(d.config.Metrics)
	if d.config.Metrics == "" || err != nil {
		return
	}
	at, _ := d.given("metrics.address")
	for _, l := range d.listeners {
		if shared := overlap(health, l.Listener, d.config.Workers); shared != "" {
			d.report(at, fmt.Errorf("it overlaps with listener %q: both take %s: give it another port", l.Name, shared))
			return
		}
	}
}

// overlap is what two listeners both take with this many slots, "" for nothing.
func overlap(a, b supervisor.Listener, slots int) string {
	if a.Network == "unix" || b.Network == "unix" {
		return samePath(a, b)
	}
	if a.Port == 0 || b.Port == 0 {
		return ""
	}
	port := max(a.Port, b.Port)
	if port > min(lastPort(a, slots), lastPort(b, slots)) {
		return ""
	}
	a4, a6 := families(a)
	b4, b6 := families(b)
	if (a4 && b4 || a6 && b6) && (everywhere(a) || everywhere(b) || a.Host == b.Host) {
		return fmt.Sprintf("port %d of an address", port)
	}
	return ""
}

// samePath also finds a socket in the place of another's second name.
func samePath(a, b supervisor.Listener) string {
	switch {
	case a.Network != b.Network:
		return ""
	case a.Path == b.Path || a.Path == hiddenPath(b.Path):
		return a.Path
	case hiddenPath(a.Path) == b.Path:
		return b.Path
	}
	return ""
}

// hiddenPath is the second name that the socket of path has, by which it is linked
// to path again when somebody has unlinked that (internal/sockets).
func hiddenPath(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".forkd")
}

// lastPort is the highest that l takes: of mode each, that of the last slot.
func lastPort(l supervisor.Listener, slots int) int {
	if l.Mode == "each" {
		return l.Port + slots - 1
	}
	return l.Port
}

func everywhere(l supervisor.Listener) bool {
	return l.Host == "" || l.Host == "0.0.0.0" || l.Host == "::"
}

// families says which IP versions a listener takes: tcp:// on "::" is the
// dual-stack socket too.
func families(l supervisor.Listener) (v4, v6 bool) {
	switch {
	case l.Network == "tcp4":
		return true, false
	case l.Network == "tcp6":
		return false, true
	case l.Host == "" || l.Host == "::":
		return true, true
	}
	ip, err := netip.ParseAddr(l.Host)
	return err == nil && ip.Is4(), err == nil && ip.Is6()
}
