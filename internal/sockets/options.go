package sockets

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// option is a socket option that outlives the worker that set it. Connections inherit
// most of them.
type option struct {
	level, name int
	label       string
	back        func(value []byte) // converts the value read to the value to set; nil: the same
}

// options are the options to reset, in an order that works: IP_TOS sets SO_PRIORITY too,
// SO_BUF_LOCK undoes a side effect of SO_RCVBUF and SO_SNDBUF.
func options() []option {
	half := func(value []byte) { // the kernel makes the double of it
		binary.NativeEndian.PutUint32(value, binary.NativeEndian.Uint32(value)/2)
	}
	unset := func(value []byte) { clear(value) } // the default is read where none is set
	return []option{
		{unix.IPPROTO_IP, unix.IP_TOS, "IP_TOS", nil},
		{unix.IPPROTO_IP, unix.IP_TTL, "IP_TTL", nil},
		{unix.IPPROTO_IP, unix.IP_MINTTL, "IP_MINTTL", nil},
		{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, "IP_MTU_DISCOVER", nil},
		{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, "IPV6_TCLASS", nil},
		{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS", nil},
		{unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, "IPV6_MINHOPCOUNT", nil},
		{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER", nil},
		{unix.SOL_SOCKET, unix.SO_PRIORITY, "SO_PRIORITY", nil},
		{unix.SOL_SOCKET, unix.SO_MARK, "SO_MARK", nil},
		{unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, "SO_BINDTODEVICE", nil},
		{unix.SOL_SOCKET, unix.SO_DONTROUTE, "SO_DONTROUTE", nil},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, "SO_KEEPALIVE", nil},
		{unix.SOL_SOCKET, unix.SO_LINGER, "SO_LINGER", nil},
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, "SO_OOBINLINE", nil},
		{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, "SO_MAX_PACING_RATE", nil},
		{unix.SOL_SOCKET, unix.SO_RCVTIMEO, "SO_RCVTIMEO", nil},
		{unix.SOL_SOCKET, unix.SO_SNDTIMEO, "SO_SNDTIMEO", nil},
		{unix.SOL_SOCKET, unix.SO_RCVLOWAT, "SO_RCVLOWAT", nil},
		{unix.SOL_SOCKET, unix.SO_RCVBUF, "SO_RCVBUF", half},
		{unix.SOL_SOCKET, unix.SO_SNDBUF, "SO_SNDBUF", half},
		{unix.SOL_SOCKET, unix.SO_BUF_LOCK, "SO_BUF_LOCK", nil},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, "TCP_NODELAY", nil},
		{unix.IPPROTO_TCP, unix.TCP_CORK, "TCP_CORK", nil},
		{unix.IPPROTO_TCP, unix.TCP_MAXSEG, "TCP_MAXSEG", unset},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, "TCP_KEEPIDLE", nil},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, "TCP_KEEPINTVL", nil},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, "TCP_KEEPCNT", nil},
		{unix.IPPROTO_TCP, unix.TCP_SYNCNT, "TCP_SYNCNT", nil},
		{unix.IPPROTO_TCP, unix.TCP_LINGER2, "TCP_LINGER2", nil},
		{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT", nil},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT", nil},
		{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, "TCP_NOTSENT_LOWAT", nil},
		{unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, "TCP_SAVE_SYN", nil},
		{unix.IPPROTO_TCP, unix.TCP_FASTOPEN, "TCP_FASTOPEN", nil},
		{unix.IPPROTO_TCP, unix.TCP_CONGESTION, "TCP_CONGESTION", nil},
	}
}

// get returns nil if the socket has no such option.
func (o option) get(fd int) []byte {
	value := make([]byte, 16) // the longest: a timeval, a TCP_CA_NAME_MAX
	size := uint32(len(value))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(o.level), uintptr(o.name),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil
	}
	if o.name == unix.SO_LINGER && o.level == unix.SOL_SOCKET && binary.NativeEndian.Uint32(value) == 0 {
		clear(value) // the time stays when lingering is switched off
	}
	return value[:size]
}

func readOptions(fd int) [][]byte {
	all := options()
	values := make([][]byte, len(all))
	for i, o := range all {
		values[i] = o.get(fd)
	}
	return values
}

// setOptions sets the options that are not as wanted, and returns them, but not those that
// are as given.
func setOptions(fd int, want, given [][]byte) (changed []string) {
	for i, o := range options() {
		if now := o.get(fd); now != nil && want[i] != nil && !bytes.Equal(now, want[i]) {
			value := slices.Clone(want[i])
			if o.back != nil {
				o.back(value)
			}
			_ = unix.SetsockoptString(fd, o.level, o.name, string(value)) // whoever wants to know reads it again
			if given == nil || !bytes.Equal(now, given[i]) {
				changed = append(changed, o.label)
			}
		}
	}
	return changed
}

// imitate gives a slot's socket the options and O_NONBLOCK of a program's. Where it gets
// connections from, and their mark and TCP_FASTOPEN unless the program sets one, is the
// listener's matter: listen(2) sets the latter where net.ipv4.tcp_fastopen says so.
func (m *socket) imitate(fd int, p Program) error {
	theirs := readOptions(p.Socket)
	for i, o := range options() {
		switch o.label {
		case "SO_BINDTODEVICE":
			theirs[i] = nil
		case "SO_MARK", "TCP_FASTOPEN":
			if !bytes.ContainsFunc(theirs[i], func(r rune) bool { return r != 0 }) {
				theirs[i] = nil
			}
		}
	}
	setOptions(fd, theirs, nil)
	m.given = readOptions(fd)
	_, err := setNonblocking(fd, p.Nonblocking)
	return os.NewSyscallError("fcntl", err)
}

// reset sets the options and O_NONBLOCK of the slot's socket as a new one has them, or as
// systemd had set them, if no slot that uses it has a worker. A slot's socket on which one
// cannot be set back is replaced.
func (b *boundAddress) reset(slot int) (changed []string, err error) {
	m := b.user(slot)
	if m == nil || slices.ContainsFunc(b.usersOf(m), func(slot int) bool { return b.set.busy[slot] }) {
		return nil, nil
	}
	if g, ok := b.mode.(*group); ok {
		g.swap(m)
	}
	want := m.options
	if want == nil {
		fd, err := alike(b.listener, b.at.end)
		if err != nil {
			return nil, fmt.Errorf("cannot look at the options of %s: %w", b.describe(m), err)
		}
		b.mark(m, fd)
		if m.fastopen > 0 {
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, m.fastopen)
		}
		want = readOptions(fd)
		unix.Close(fd)
	}
	changed = setOptions(m.fd, want, m.given)
	stuck := setOptions(m.fd, want, nil)
	if isLocked(m.fd) {
		changed, stuck = append(changed, lockFilter), append(stuck, lockFilter)
	}
	switch {
	case len(stuck) == 0:
		different, err := setNonblocking(m.fd, b.listener.Nonblocking)
		if different && m.given == nil {
			changed = append(changed, "O_NONBLOCK")
		}
		m.given = nil
		return changed, os.NewSyscallError("fcntl", err)
	case b.forAll() || m.unitOwned:
		m.reportDamage(b, strings.Join(stuck, " "))
		return nil, nil
	default:
		_ = b.closeSlot(slot) // what fails is steering, which follows again
		return changed, cmp.Or(b.open(slot), b.mode.steer())
	}
}

// lockFilter is the option that nobody can reset.
const lockFilter = "SO_LOCK_FILTER"

func isLocked(fd int) bool {
	locked, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER)
	return err == nil && locked != 0
}

// reportDamage reports once what cannot be reset, and how the socket is replaced.
func (m *socket) reportDamage(b *boundAddress, what string) {
	if m.damaged {
		return
	}
	m.damaged = true
	slot, remedy := m.slot, "it gets another with the next reload, or when it has no worker"
	if b.forAll() {
		slot = AllSlots
	}
	switch {
	case m.unitOwned:
		remedy = "stop the app and restart the socket unit"
	case b.forAll():
		remedy = "stop the app and run it again"
	case b.at.mode == ModeEach:
		remedy = "it gets another when it has no worker"
	}
	b.set.damaged = append(b.set.damaged, Restored{slot, fmt.Sprintf("a worker has set %s, which cannot be set back: %s", what, remedy)})
}

// alike makes a socket with the options that the listener's had at first.
func alike(l Listener, e endpoint) (int, error) {
	if l.Network == "unix" {
		return l.socket(unix.AF_UNIX, 0)
	}
	fd, err := e.socket(l)
	if err == nil && e.scope != 0 { // as bind(2) does
		err = os.NewSyscallError("setsockopt SO_BINDTOIFINDEX", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, int(e.scope)))
		if err != nil {
			unix.Close(fd)
		}
	}
	return fd, err
}
