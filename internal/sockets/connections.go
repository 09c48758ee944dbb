package sockets

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Connection is one that a program has accepted and not closed.
type Connection struct {
	Inode uint32 // of its socket: the kernel's have 32 bits (get_next_ino in fs/inode.c)
	Mark  uint32 // SO_MARK; 0 of a unix socket, and where this process has no CAP_NET_ADMIN
}

// Counting is where connections are counted, and by which marks.
type Counting struct {
	ports []int           // ascending
	paths map[string]bool // that unix sockets are bound to
	mask  uint32          // of MarkBy
}

// MaxConnections is how many connections are counted at most, of all slots.
const MaxConnections = 1 << 18

// ErrTooMany says that there are more than MaxConnections.
var ErrTooMany = fmt.Errorf("cannot count more than %d connections", MaxConnections)

// Counting returns the addresses of all the sets.
func (s *Set) Counting() Counting {
	c := Counting{paths: map[string]bool{}, mask: s.markMask}
	for _, b := range s.bound {
		for slot, m := range b.users {
			switch {
			case m == nil:
			case !m.isUnix():
				_, port := b.actual(slot)
				c.ports = append(c.ports, port)
			default:
				if at, err := localAddr(m.fd); err == nil && at.path != "" {
					c.paths[at.path] = true
				}
			}
		}
	}
	slices.Sort(c.ports)
	c.ports = slices.Compact(c.ports)
	return c
}

// Connections returns the connections that were accepted at these addresses and are in some
// process, shut down for writing or not. Any goroutine may call it. 20,000 take 16 to 25 ms of
// CPU on a virtual machine, of which all but 1 ms are the kernel's, about 1 µs a connection:
// its dump has no smaller rows (BenchmarkCounter in supervisor shows both).
func (c Counting) Connections() (all []Connection, err error) {
	const held = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 |
		1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING
	const inetDiagMark = 15
	add := func(one Connection) {
		if one.Inode == 0 { // it waits to be accepted, or has been closed
			return
		}
		if len(all) >= MaxConnections {
			err = ErrTooMany
			return
		}
		all = append(all, one)
	}
	if len(c.ports) > 0 {
		failed := dumpTCP(c.ports, held, func(said []byte) {
			one := Connection{Inode: binary.NativeEndian.Uint32(said[68:])}
			for kind, value := range attributes(said[inetDiagMessage:]) {
				if kind == inetDiagMark && len(value) >= 4 {
					one.Mark = binary.NativeEndian.Uint32(value)
				}
			}
			add(one)
		})
		err = cmp.Or(failed, err)
	}
	if len(c.paths) > 0 && err == nil {
		failed := diagnoseUnix(0, 1<<unix.BPF_TCP_ESTABLISHED, 1<<unixDiagName, func(inode uint64, kind uint16, value []byte) {
			if kind == unixDiagName && c.paths[strings.TrimSuffix(string(value), "\x00")] {
				add(Connection{Inode: uint32(inode)})
			}
		})
		err = cmp.Or(failed, err)
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Marks reports whether connections carry marks.
func (c Counting) Marks() bool { return c.mask != 0 }

// Slot is the slot whose mark a connection carries, -1 if it is none's.
func (c Counting) Slot(of Connection) int {
	if !c.Marks() {
		return -1
	}
	return int(of.Mark&c.mask>>bits.TrailingZeros32(c.mask)) - 1
}

// portFilter is a program for inet_diag that passes sockets of the ports, which ascend
// (INET_DIAG_REQ_BYTECODE; linux/inet_diag.h, inet_diag_bc_run in net/ipv4/inet_diag.c). It
// ends where it passes a socket at its end, and where not, 4 bytes after that.
func portFilter(ports []int) (program []byte) {
	const jump, least, most = 1, 2, 3 // INET_DIAG_BC_JMP, S_GE, S_LE
	const size, span = 4, 20          // of an op, and of what a span of ports takes
	op := func(code, yes byte, no int) {
		program = binary.NativeEndian.AppendUint16(append(program, code, yes), uint16(no))
	}
	var spans [][2]int
	for _, port := range ports {
		if n := len(spans); n > 0 && spans[n-1][1] == port-1 {
			spans[n-1][1] = port
		} else {
			spans = append(spans, [2]int{port, port})
		}
	}
	for i, s := range spans {
		last := 0
		if i == len(spans)-1 {
			last = size
		}
		op(least, 2*size, span+last) // else on to the next span
		op(0, 0, s[0])
		op(most, 2*size, span-2*size+last)
		op(0, 0, s[1])
		op(jump, size, (len(spans)-1-i)*span+size) // to the end
	}
	return program
}

// Mark is the slot's within the mask, whose bits adjoin: its number plus one. 0: there are
// too few.
func Mark(mask uint32, slot int) uint32 {
	if n := bits.OnesCount32(mask); n == 0 || n < 32 && slot+1 >= 1<<n {
		return 0
	}
	return uint32(slot+1) << bits.TrailingZeros32(mask)
}

// MarkBy has the slots' TCP sockets carry marks within the mask, from now on; their
// connections get them at their SYN. One that several slots share, and a socket unit's, has
// none. The error says what to do.
func (s *Set) MarkBy(mask uint32) error {
	if mask != 0 {
		if err := CanMark(); err != nil {
			return fmt.Errorf("cannot mark sockets by count.mark_mask: %w", err)
		}
	}
	s.markMask = mask
	for _, b := range s.bound {
		for _, m := range b.all() {
			b.mark(m, m.fd)
		}
	}
	return nil
}

// mark gives a descriptor the mark of the slot's socket. It can fail only if a privilege
// has gone.
func (b *boundAddress) mark(m *socket, fd int) {
	mask := b.set.markMask
	if mask == 0 || m.isUnix() || m.unitOwned || b.forAll() {
		return
	}
	now, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
	if want := uint32(now)&^mask | Mark(mask, m.slot); err == nil && want != uint32(now) {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(want))
	}
}
