// Package workerlink is the master's end of a worker's notify socket, message channel and
// counters page. Reading is rate limited and writing never blocks, whatever the worker does.
// It must not know what messages mean for the app.
package workerlink

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/ipc"
)

// A Link is the master's ends. All methods but RenewNotify and Counters are for one goroutine,
// the loop's, and do not block.
type Link struct {
	notify  *notifySocket
	channel *channel // nil: not given, or closed
	node    bool     // the channel is node's
	page    int      // -1: not given, or closed; set under reading
	theirs  int      // the worker's end of the channel; -1: not given, or closed
	uid     int      // whom the worker runs as; -1: as the master

	reading sync.Mutex // of the page, for any goroutine

	hands atomic.Bool // the worker has said that it understands a Handoff
}

// Config is what a Link is made of.
type Config struct {
	Dir, Name string // of the notify socket's file
	UID, GID  int    // whom the worker runs as; -1: as the master
	Channel   string // ipc.ChannelForkd and the like: the channel and the counters page too
	Closer    *closing.Closer
}

// Open makes both ends.
func Open(cfg Config) (l *Link, err error) {
	l = &Link{page: -1, theirs: -1, node: cfg.Channel == ipc.ChannelNode, uid: cfg.UID}
	if l.notify, err = newNotifySocket(cfg); err == nil && cfg.Channel != ipc.ChannelNone {
		if l.channel, l.theirs, err = newChannel(cfg.Closer); err == nil {
			l.page, err = ipc.NewPage()
		}
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Files are the worker's ends of the channel and the page, or none. They stay the Link's.
func (l *Link) Files() []int {
	if l.channel == nil {
		return nil
	}
	return []int{l.theirs, l.page}
}

// Passed closes the master's copy of the worker's end of the channel.
func (l *Link) Passed() {
	if l.theirs >= 0 {
		unix.Close(l.theirs)
		l.theirs = -1
	}
}

// NotifyAddress is the worker's NOTIFY_SOCKET: a path, or @name.
func (l *Link) NotifyAddress() string { return l.notify.address }

// Listen starts the readers, which end with Close. heard is called on their
// goroutines: with ipc.Ready (also for READY=1 of sd_notify(3)) and ipc.Hello once
// each, and with every ipc.App and ipc.Pulse (also for WATCHDOG=1). pid is the worker's;
// leads says which processes are
// workers.
func (l *Link) Listen(pid int, leads func(pid int) bool, log *slog.Logger, heard func(ipc.Message)) {
	ready := sync.OnceFunc(func() { heard(ipc.Ready{}) })
	hello := sync.OnceFunc(func() { heard(ipc.Hello{}) })
	var once sync.Once // a flood is logged once
	ignored := func(sender int) {
		once.Do(func() {
			log.Warn("notify message ignored: its sender is none of the worker's processes", "sender", sender)
		})
	}
	go l.notify.receive(func(sender int) bool { return process.MaySpeakFor(sender, pid, leads) }, func(text string) {
		lines := strings.Split(text, "\n")
		if slices.Contains(lines, "READY=1") {
			ready()
		}
		if slices.Contains(lines, "WATCHDOG=1") {
			heard(ipc.Pulse{})
		}
	}, ignored)
	c := l.channel
	if c == nil {
		return
	}
	go func() {
		err := c.receive(func(m ipc.Message) {
			switch m := m.(type) {
			case ipc.Hello:
				l.hands.Store(m.Handoff)
				hello()
			case ipc.Ready:
				ready()
			case ipc.App:
				if l.node && string(m) == ipc.NodeReady {
					ready()
				} else {
					heard(m)
				}
			case ipc.Pulse:
				heard(m)
			case ipc.Drain, ipc.Shed, ipc.Handoff, ipc.Reserved:
				// The master's own words.
			}
		})
		if err != nil {
			log.Warn("channel closed", "why", err)
		}
		c.close()
	}()
}

// HasChannel reports whether the worker was given a channel, and lives.
func (l *Link) HasChannel() bool { return l.channel != nil }

// ErrClosed says that a worker has no channel, or has closed it.
var ErrClosed = errors.New("the worker has closed its channel")

// Send sends one of forkd's own messages to the worker; to one of node what it has of
// them, a drain. When it returns, the message is in
// the socket if that had room. The error is ErrClosed, or that of send(2).
func (l *Link) Send(m ipc.Message) error {
	if l.channel == nil {
		return ErrClosed
	}
	if l.node {
		if _, drain := m.(ipc.Drain); !drain {
			return nil
		}
		m = ipc.App(ipc.NodeShutdown)
	}
	err := l.channel.send(m)
	if gone(err) {
		return ErrClosed
	}
	return err
}

// Join has the worker hand its connections to another one: each gets an end of a pair of
// sockets. It does nothing where one of them can't, has ended, or they are not of one user.
func (l *Link) Join(to *Link) error {
	if l.channel == nil || to.channel == nil || !l.hands.Load() || !to.hands.Load() || l.uid != to.uid {
		return nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(pair[0]) // nothing is in them
		defer unix.Close(pair[1])
		err = to.channel.pass(ipc.Handoff{Role: ipc.RoleTo}, pair[1])
	}
	if err == nil {
		err = l.channel.pass(ipc.Handoff{Role: ipc.RoleFrom}, pair[0])
	}
	if err == nil || gone(err) {
		return nil
	}
	return fmt.Errorf("cannot join two workers: %w", err)
}

// gone reports whether an error of send(2) says that the worker has closed its channel.
func gone(err error) bool { return errors.Is(err, unix.EPIPE) || errors.Is(err, net.ErrClosed) }

// Deliver sends an application's message, a line of ipc.Encode, which may be shared between
// Links. An error says why it is dropped.
func (l *Link) Deliver(line []byte) error {
	if l.channel == nil {
		return ErrClosed
	}
	return l.channel.deliver(line)
}

// Counters is what the worker counts on its page; unknown if it does not. For any goroutine.
func (l *Link) Counters() (c ipc.Counters, known bool) {
	l.reading.Lock()
	defer l.reading.Unlock()
	if l.page < 0 {
		return c, false
	}
	c, err := ipc.ReadPage(l.page)
	return c, err == nil && c.Attached
}

// SetLimit writes to the page how many connections the worker may take.
func (l *Link) SetLimit(connections int64) {
	if l.page >= 0 {
		_ = ipc.SetLimit(l.page, connections) // it has one from its environment
	}
}

// SetStopping writes to the page that the app stops, for whoever does not read the channel.
func (l *Link) SetStopping() {
	if l.page >= 0 {
		_ = ipc.SetStopping(l.page) // it drains as in a roll
	}
}

// RenewNotify makes the notify socket's file again if it is gone. It may block on the file
// system, and is for any goroutine.
func (l *Link) RenewNotify() error { return l.notify.renew() }

// Close closes the master's ends, when the worker has ended. Again: nothing.
func (l *Link) Close() {
	if l.notify != nil {
		l.notify.close()
	}
	if l.channel != nil {
		l.channel.close()
	}
	l.Passed()
	l.channel = nil
	l.reading.Lock()
	defer l.reading.Unlock()
	if l.page >= 0 {
		unix.Close(l.page)
	}
	l.page = -1
}
