package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/sockets"
)

// listener is one [[listen]] in the making.
type listener struct {
	sockets.Listener
	places
	header origin // or the flag
	valid  bool   // its address could be read
}

func newListener(at origin) *listener {
	return &listener{
		Listener: sockets.Listener{Backlog: sockets.DefaultBacklog, Nonblocking: true},
		header:   at,
		places:   places{},
	}
}

func (l *listener) field(name string) field {
	all := listenKeys(l)
	return all[slices.IndexFunc(all, func(k listenKey) bool { return k.name == name })].field
}

func (l *listener) setAddress(v value) error {
	address, err := v.textOrNumber() // address = 8080
	if err != nil {
		return err
	}
	parsed, err := sockets.ParseAddress(address)
	if err != nil {
		return err
	}
	l.Network, l.Host, l.Port = parsed.Network, parsed.Host, parsed.Port
	l.Path, l.Perm = parsed.Path, parsed.Perm
	l.valid = true
	return nil
}

// maxListeners bounds [[listen]]: each has a socket for every slot, and every
// two are compared.
const maxListeners = 128

// finishListeners checks the listeners, alone and against each other, and
// names them. It needs the number of workers.
func (d *draft) finishListeners() {
	if len(d.listeners) > maxListeners {
		d.report(d.listeners[maxListeners].header, fmt.Errorf("there are over %d listeners", maxListeners))
		return
	}
	taken := map[string]bool{}
	for _, l := range d.listeners {
		if _, named := l.given("name"); named {
			if taken[l.Name] {
				d.report(l.header, fmt.Errorf("two listeners are called %q: their names must differ", l.Name))
			}
			taken[l.Name] = true
		}
		d.finishListener(l)
	}
	for _, l := range d.listeners {
		if _, named := l.given("name"); !named {
			l.Name = freeName(placeName(l.Listener), taken)
			taken[l.Name] = true
		}
		d.config.Listeners = append(d.config.Listeners, l.Listener)
	}
	if len(d.failures) == 0 {
		d.checkOverlaps()
	}
	d.checkBalance()
	d.checkBacklog()
}

// checkBacklog warns where the kernel gives a shorter queue than was asked for,
// which listen(2) does not say.
func (d *draft) checkBacklog() {
	most := d.host.backlog()
	for _, l := range d.listeners {
		if most > 0 && l.Backlog > most {
			d.warn("listener %s: net.core.somaxconn cuts its backlog of %d to %d: raise it (sysctl -w net.core.somaxconn=%d) or lower the backlog", l.Name, l.Backlog, most, l.Backlog)
		}
	}
}

// maxBacklog reads net.core.somaxconn of the network namespace; 0 where it can't.
func maxBacklog() int {
	text, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// checkOverlaps refuses listeners that would take each other's connections, or
// each other's place: the kernel would let some of them bind.
func (d *draft) checkOverlaps() {
	for i, l := range d.listeners {
		for _, earlier := range d.listeners[:i] {
			if shared := sockets.Overlap(earlier.Listener, l.Listener, d.config.Workers); shared != "" {
				d.report(l.header, fmt.Errorf("listeners %q and %q overlap: both take %s", earlier.Name, l.Name, shared))
				return
			}
		}
	}
	d.checkHealth()
}

// checkHealth does the same for the port of the health check.
func (d *draft) checkHealth() {
	health, err := sockets.ParseAddress(d.config.Metrics)
	if d.config.Metrics == "" || err != nil {
		return
	}
	at, _ := d.given("metrics.address")
	for _, l := range d.listeners {
		if shared := sockets.Overlap(health, l.Listener, d.config.Workers); shared != "" {
			d.report(at, fmt.Errorf("it overlaps with listener %q: both take %s: give it another port", l.Name, shared))
			return
		}
	}
}

// finishListener does what needs several keys of one listener.
func (d *draft) finishListener(l *listener) {
	at, bound := l.given("address")
	if !bound && len(d.failures) == 0 { // else the misspelt key says more
		d.report(l.header, errors.New(`it has no address: add address = ":8080"`))
	}
	if !l.valid {
		return
	}
	if l.Network == "unix" {
		l.Path = d.absolute(l.Path, at)
		if err := checkPath(l.Path); err != nil {
			d.report(at, err)
		}
		if at, _ := l.given("freebind"); l.Freebind {
			d.report(at, errors.New("a unix socket has no address that could come later: leave it out"))
		}
	}
	d.finishMode(l)
	d.finishBalance(l)
}

func (d *draft) finishMode(l *listener) {
	at, given := l.given("mode")
	switch {
	case !given && l.Network == "unix":
		l.Mode = "shared"
	case !given:
		l.Mode = "reuseport"
	case l.Network == "unix" && (l.Mode == "reuseport" || l.Mode == "each"):
		d.report(at, fmt.Errorf(`%q is for tcp: a unix socket is always "shared"`, l.Mode))
	case l.Mode == "each" && l.Port == 0:
		d.report(at, errors.New(`"each" counts the slots' ports from the address's: write one that is not 0`))
	case l.Mode == "each" && l.Port+d.config.Workers-1 > maxPort:
		address, _ := l.given("address")
		d.report(address, fmt.Errorf("%d workers with a port each would take %d to %d: the highest port is %d",
			d.config.Workers, l.Port, l.Port+d.config.Workers-1, maxPort))
	}
}

const maxPort = 1<<16 - 1

// finishBalance has --balance win, where there are several sockets to choose
// from.
func (d *draft) finishBalance(l *listener) {
	at, given := l.given("balance")
	several := l.Mode == "reuseport"
	switch {
	case given && !several:
		d.report(at, fmt.Errorf(`only mode "reuseport" has sockets to choose from, and this listener is %q: leave it out`, l.Mode))
	case several && d.balance != "":
		l.Balance = d.balance
	case several && !given:
		l.Balance = "hash"
	}
}

// checkBalance refuses a --balance that nothing obeys.
func (d *draft) checkBalance() {
	at, given := d.given("balance")
	for _, l := range d.listeners {
		if l.Mode == "reuseport" || !l.valid {
			return
		}
	}
	switch {
	case given && len(d.listeners) == 0:
		d.report(at, errors.New("there is no listener to balance: add --listen :8080"))
	case given:
		d.report(at, errors.New(`only mode "reuseport" has sockets to choose from, and no listener is of it: leave it out`))
	}
}

// checkPath knows the path's length only now that it is absolute. The second name is
// a link's, which may be longer.
func checkPath(path string) error {
	if over := len(path) - sockets.MaxPath; over > 0 {
		return fmt.Errorf("%q is %d bytes too long: a unix socket's path has at most %d", path, over, sockets.MaxPath)
	}
	return nil
}

// placeName is what a listener is called that nobody has named: its port or
// its socket's file.
func placeName(l sockets.Listener) string {
	if l.Network != "unix" {
		return strconv.Itoa(l.Port)
	}
	return asName(filepath.Base(l.Path), "unix")
}

// freeName is name, or name and a number where several listeners would have it.
func freeName(name string, taken map[string]bool) string {
	free := name
	for i := 2; taken[free]; i++ {
		number := "-" + strconv.Itoa(i)
		free = name[:min(len(name), control.MaxName-len(number))] + number
	}
	return free
}
