package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/forkd/forkd/supervisor"
)

// listener is one [[listen]] in the making.
type listener struct {
	supervisor.Listener
	at    origin // of the header, or of the flag
	named bool   // by the user, not after its port
	bound bool   // it has an address
}

func newListener(at origin) listener {
	return listener{
		Listener: supervisor.Listener{Balance: "hash", Backlog: supervisor.DefaultBacklog, Nonblocking: true},
		at:       at,
	}
}

func (l *listener) setName(v value) (err error) {
	l.named = true
	l.Name, err = v.string()
	if err == nil && !validName(l.Name) {
		err = fmt.Errorf("%q is not a name: %s", l.Name, nameRule)
	}
	return err
}

func (l *listener) setAddress(v value) error {
	l.bound = true
	if v.kind == integer { // address = 8080
		v.kind = text
	}
	address, err := v.string()
	if err != nil {
		return err
	}
	l.Network, l.Host, l.Port, err = parseAddress(address)
	return err
}

func (l *listener) setMode(v value) error {
	_, err := v.choice([]string{"reuseport"}, []string{"shared", "each"})
	return err
}

func (l *listener) setBalance(v value) (err error) {
	l.Balance, err = balance(v)
	return err
}

func balance(v value) (string, error) {
	return v.choice([]string{"hash", "source"}, []string{"least"})
}

func (l *listener) setBacklog(v value) (err error) {
	l.Backlog, err = v.whole(1, 1<<31-1)
	return err
}

func (l *listener) setNonblocking(v value) (err error) {
	l.Nonblocking, err = v.boolean()
	return err
}

const addressForms = `write ":8080", "127.0.0.1:8080" or "tcp://[::1]:8080"`

// parseAddress reads [tcp://|tcp4://|tcp6://]HOST:PORT, :PORT or PORT.
func parseAddress(address string) (network, host string, port int, err error) {
	wrong := func(format string, args ...any) (string, string, int, error) {
		return "", "", 0, fmt.Errorf("%q: %s", address, fmt.Sprintf(format, args...))
	}
	network, rest, schemed := strings.Cut(address, "://")
	if !schemed {
		network, rest = "tcp", address
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "unix", "udp":
		return wrong("%s is not built yet: use tcp://, tcp4:// or tcp6://", network)
	default:
		return wrong("%q is no scheme: use tcp://, tcp4:// or tcp6://", network)
	}
	if !strings.Contains(rest, ":") {
		if _, err := strconv.Atoi(rest); err != nil {
			if strings.Contains(rest, "/") {
				return wrong("a unix socket is not built yet: %s", addressForms)
			}
			return wrong("the port is missing: %s", addressForms)
		}
		rest = ":" + rest
	}
	host, digits, err := net.SplitHostPort(rest)
	if err != nil {
		return wrong("not an address: %s", addressForms)
	}
	number, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return wrong("the port must be a number from 0 to 65535, not %q", digits)
	}
	host, err = hostAddress(network, host)
	if err != nil {
		return wrong("%s", err)
	}
	return network, host, int(number), nil
}

// hostAddress is the host as an address, "" for every one. Names are not
// looked up: what they mean may change, and a bound socket does not.
func hostAddress(network, host string) (string, error) {
	switch host {
	case "", "*":
		return "", nil
	case "localhost":
		if network == "tcp6" {
			return "::1", nil
		}
		return "127.0.0.1", nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", fmt.Errorf("%q is not an IP address: use one of this machine, or none for every one", host)
	}
	ip = ip.Unmap()
	switch {
	case network == "tcp4" && !ip.Is4():
		return "", errors.New("tcp4:// needs an IPv4 address")
	case network == "tcp6" && ip.Is4():
		return "", errors.New("tcp6:// needs an IPv6 address")
	}
	return ip.String(), nil
}

// maxListeners bounds [[listen]]: each has a socket for every slot, and every
// two are compared.
const maxListeners = 128

// finishListeners checks the listeners against each other and names them.
func (d *draft) finishListeners() {
	if at, given := d.given("balance"); given && len(d.listeners) == 0 {
		d.report(at, errors.New("there is no listener to balance: add --listen :8080"))
	}
	if len(d.listeners) > maxListeners {
		d.report(d.listeners[maxListeners].at, fmt.Errorf("there are over %d listeners", maxListeners))
		return
	}
	taken := map[string]bool{}
	for i := range d.listeners {
		l := &d.listeners[i]
		if l.named && taken[l.Name] {
			d.report(l.at, fmt.Errorf("two listeners are called %q: their names must differ", l.Name))
		}
		if l.named {
			taken[l.Name] = true
		}
		if !l.bound && len(d.failures) == 0 { // else the misspelt key says more
			d.report(l.at, errors.New(`it has no address: add address = ":8080"`))
		}
		if d.balance != "" {
			l.Balance = d.balance
		}
	}
	for i := range d.listeners {
		l := &d.listeners[i]
		if !l.named {
			l.Name = freeName(strconv.Itoa(l.Port), taken)
			taken[l.Name] = true
		}
		d.config.Listeners = append(d.config.Listeners, l.Listener)
	}
	if len(d.failures) == 0 {
		d.checkOverlaps()
	}
}

// freeName is the port, or the port and a number where several listeners have
// it on different addresses.
func freeName(port string, taken map[string]bool) string {
	name := port
	for i := 2; taken[name]; i++ {
		name = port + "-" + strconv.Itoa(i)
	}
	return name
}

// checkOverlaps refuses listeners that would take each other's connections:
// the kernel would let some of them bind.
func (d *draft) checkOverlaps() {
	for i, l := range d.listeners {
		for _, earlier := range d.listeners[:i] {
			if overlap(l.Listener, earlier.Listener) {
				d.report(l.at, fmt.Errorf("listeners %q and %q overlap: both take port %d of an address", earlier.Name, l.Name, l.Port))
				return
			}
		}
	}
}

func overlap(a, b supervisor.Listener) bool {
	if a.Port != b.Port || a.Port == 0 {
		return false
	}
	a4, a6 := families(a)
	b4, b6 := families(b)
	return (a4 && b4 || a6 && b6) && (everywhere(a) || everywhere(b) || a.Host == b.Host)
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
