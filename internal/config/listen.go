package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/sockets"
)

// listener is one unfinished [[listen]].
type listener struct {
	sockets.Listener
	origins
	header origin // of [[listen]], or the flag
}

func (d *draft) addListener(at origin) *listener {
	l := &listener{
		Listener: sockets.Listener{Backlog: sockets.DefaultBacklog, Nonblocking: true},
		header:   at,
		origins:  origins{},
	}
	d.listeners = append(d.listeners, l)
	return l
}

func (l *listener) field(name string) field {
	all := listenKeys(l)
	return all[slices.IndexFunc(all, func(k key) bool { return k.name == name })].field
}

func (l *listener) setAddress(v value) error {
	address, err := v.textOrNumber() // address = 8080
	if err == nil {
		var a sockets.Listener
		a, err = sockets.ParseAddress(address)
		l.Network, l.Host, l.Port, l.Path, l.Perm = a.Network, a.Host, a.Port, a.Path, a.Perm
	}
	return err
}

// maxListeners bounds [[listen]]: each has a socket per slot, and every two are
// compared.
const maxListeners = 128

// finishListeners checks the listeners, each and against each other, and names them.
// It needs the number of workers.
func (d *draft) finishListeners() {
	if len(d.listeners) > maxListeners {
		d.report(d.listeners[maxListeners].header, fmt.Errorf("there are over %d listeners", maxListeners))
		return
	}
	taken := map[string]bool{}
	for _, l := range d.listeners {
		if taken[l.Name] {
			d.report(l.header, fmt.Errorf("two listeners are called %q: their names must differ", l.Name))
		}
		taken[l.Name] = l.Name != ""
		d.finishListener(l)
	}
	most := d.host.backlog()
	for _, l := range d.listeners {
		if l.Name == "" {
			l.Name = freeName(asName(l.PlainName(), "unix"), taken)
			taken[l.Name] = true
		}
		d.config.Listeners = append(d.config.Listeners, l.Listener)
		if most > 0 && l.Backlog > most { // listen(2) does not report it
			d.warn("listener %s: net.core.somaxconn cuts its backlog of %d to %d: raise it (sysctl -w net.core.somaxconn=%d) or lower the backlog", l.Name, l.Backlog, most, l.Backlog)
		}
	}
	if len(d.failures) == 0 {
		d.checkOverlaps()
	}
	d.checkBalance()
}

// checkOverlaps refuses listeners and the master's own addresses with a common port or
// path: the kernel would let some of them bind.
func (d *draft) checkOverlaps() {
	metrics, noMetrics := sockets.ParseAddress(d.config.Metrics)
	agent, noAgent := sockets.ParseAddress(d.config.AgentCheck)
	if shared := sockets.Overlap(metrics, agent, 1); noMetrics == nil && noAgent == nil && shared != "" {
		d.report(d.origins["agent.address"], fmt.Errorf("it overlaps with metrics.address: both take %s: give it another port", shared))
		return
	}
	for i, l := range d.listeners {
		for _, earlier := range d.listeners[:i] {
			if shared := sockets.Overlap(earlier.Listener, l.Listener, d.config.Workers); shared != "" {
				d.report(l.header, fmt.Errorf("listeners %q and %q overlap: both take %s", earlier.Name, l.Name, shared))
				return
			}
		}
		for _, own := range []struct {
			key string
			at  sockets.Listener
			err error
		}{{"metrics.address", metrics, noMetrics}, {"agent.address", agent, noAgent}} {
			if shared := sockets.Overlap(own.at, l.Listener, d.config.Workers); own.err == nil && shared != "" {
				d.report(d.origins[own.key], fmt.Errorf("it overlaps with listener %q: both take %s: give it another port", l.Name, shared))
				return
			}
		}
	}
}

func (d *draft) finishListener(l *listener) {
	at, bound := l.origins["address"]
	if !bound && len(d.failures) == 0 { // else the other error says more
		d.report(l.header, errors.New(`it has no address: add address = ":8080"`))
	}
	if l.Network == "" {
		return // the address is missing or wrong
	}
	unix := l.Network == "unix"
	if unix {
		l.Path = d.absolute(l.Path, at)
		l.Mode = cmp.Or(l.Mode, sockets.ModeShared)
	}
	l.Mode = cmp.Or(l.Mode, sockets.ModeReuseport)
	each := l.Mode == sockets.ModeEach
	switch last := l.Port + d.config.Workers - 1; {
	case len(l.Path) > sockets.MaxPath:
		d.report(at, fmt.Errorf("%q is %d bytes too long: a unix socket's path has at most %d", l.Path, len(l.Path)-sockets.MaxPath, sockets.MaxPath))
	case unix && l.Freebind:
		d.report(l.origins["freebind"], errors.New("a unix socket has no address that could come later: leave it out"))
	case unix && l.Mode != sockets.ModeShared:
		d.report(l.origins["mode"], fmt.Errorf(`%q is for tcp: a unix socket is always "shared"`, l.Mode))
	case each && l.Port == 0:
		d.report(l.origins["mode"], errors.New(`"each" counts the slots' ports from the address's: write one that is not 0`))
	case each && last > math.MaxUint16:
		d.report(at, fmt.Errorf("%d workers with a port each would take %d to %d: the highest port is %d", d.config.Workers, l.Port, last, math.MaxUint16))
	case l.Mode == sockets.ModeReuseport && d.balance != "":
		l.Balance, l.origins["balance"] = d.balance, d.origins["balance"]
	case l.Mode == sockets.ModeReuseport:
		l.Balance = cmp.Or(l.Balance, sockets.BalanceHash)
	case l.Balance != "":
		d.report(l.origins["balance"], fmt.Errorf(`only mode "reuseport" has sockets to choose from, and this listener is %q: leave it out`, l.Mode))
	}
}

// checkBalance refuses a --balance that has no effect.
func (d *draft) checkBalance() {
	at, given := d.origins["balance"]
	used := slices.ContainsFunc(d.listeners, func(l *listener) bool { return l.Mode == sockets.ModeReuseport || l.Network == "" })
	if given && len(d.listeners) == 0 {
		d.report(at, errors.New("there is no listener to balance: add --listen :8080"))
	} else if given && !used {
		d.report(at, errors.New(`only mode "reuseport" has sockets to choose from, and no listener is of it: leave it out`))
	}
}

// freeName is name, with a number appended if it is taken.
func freeName(name string, taken map[string]bool) string {
	free := name
	for i := 2; taken[free]; i++ {
		number := "-" + strconv.Itoa(i)
		free = name[:min(len(name), control.MaxName-len(number))] + number
	}
	return free
}
