package sockets

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The program runs for each SYN (and, under SYN cookies, for the ACK that ends the
// handshake) and returns an index into the group. Its data begins behind the TCP header.
// SKF_AD_RXHASH would be shorter than an own hash, but is 0 for every packet of a device
// that computes none, as tun: one slot would get all connections.
const (
	network = 0xfff00000 // SKF_NET_OFF, linux/filter.h: relative to the IP header

	noIndex = 0xffffffff // beyond every group: the kernel falls back to its own hash
)

const (
	wordHash = iota
	wordSlot
	wordPort
)

type code []bpf.Instruction

func (c *code) add(ins ...bpf.Instruction) { *c = append(*c, ins...) }

// program must not get empty members or accepting; only members may be accepting.
func program(balance string, seed uint32, members groupIndex, accepting []bool) []bpf.Instruction {
	c := code(hashAddress(seed))
	if balance != BalanceSource {
		c.add(bpf.LoadScratch{Dst: bpf.RegX, N: wordPort}, bpf.ALUOpX{Op: bpf.ALUOpAdd})
		c.add(mix()...)
	}
	c.add(choose(members, accepting)...)
	return c
}

func alu(op bpf.ALUOp, value uint32) bpf.Instruction { return bpf.ALUOpConstant{Op: op, Val: value} }

// mix is the finalizer of MurmurHash3 on A: each bit depends on all.
func mix() (c code) {
	fold := func(bits uint32) { c.add(bpf.TAX{}, alu(bpf.ALUOpShiftRight, bits), bpf.ALUOpX{Op: bpf.ALUOpXor}) }
	fold(16)
	c.add(alu(bpf.ALUOpMul, 0x85ebca6b))
	fold(13)
	c.add(alu(bpf.ALUOpMul, 0xc2b2ae35))
	fold(16)
	return c
}

// hashAddress leaves a hash of the source address in A and the source port in wordPort. A
// dual-stack socket gets both IP versions. With IPv6 extension headers the port is two
// other bytes, which does no harm.
func hashAddress(seed uint32) []bpf.Instruction {
	v4 := code{
		bpf.LoadMemShift{Off: network},
		bpf.LoadIndirect{Off: network, Size: 2},
		bpf.StoreScratch{Src: bpf.RegA, N: wordPort},
		bpf.LoadAbsolute{Off: network + 12, Size: 4},
	}
	v6 := code{
		bpf.LoadAbsolute{Off: network + 40, Size: 2},
		bpf.StoreScratch{Src: bpf.RegA, N: wordPort},
		bpf.LoadAbsolute{Off: network + 8, Size: 4},
	}
	for _, offset := range []uint32{12, 16, 20} {
		v6.add(
			alu(bpf.ALUOpMul, 0x01000193), // FNV-1a, by words
			bpf.TAX{},
			bpf.LoadAbsolute{Off: network + offset, Size: 4},
			bpf.ALUOpX{Op: bpf.ALUOpXor})
	}
	v6.add(bpf.Jump{Skip: uint32(len(v4))})
	version := code{
		bpf.LoadAbsolute{Off: network, Size: 1},
		alu(bpf.ALUOpShiftRight, 4),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipFalse: uint8(len(v6))},
	}
	return slices.Concat(version, v6, v4, code{alu(bpf.ALUOpXor, seed)}, mix())
}

// choose turns the hash in A into an index. The first choice is among all slots, the
// second among those that accept, by another part of the hash. So if a slot goes or comes
// back, only its own clients move.
//
// With 1024 slots in the worst order the table of indexes has 2048 instructions of at
// most 4096; with slots in their first order three.
func choose(members groupIndex, accepting []bool) []bpf.Instruction {
	indexOf := make([]int, len(accepting))
	for at, id := range members {
		if id >= 0 {
			indexOf[id] = at
		}
	}
	open, words := 0, make([]uint32, (len(accepting)+31)/32) // of a bit for each slot
	var ranks, indexes []step                                // slots by their rank in open; indexes by slot
	for slot, accepts := range accepting {
		if accepts {
			words[slot/32] |= 1 << (slot % 32)
			ranks = addStep(ranks, open, slot)
			indexes = addStep(indexes, slot, indexOf[slot])
			open++
		}
	}
	c := code{
		bpf.StoreScratch{Src: bpf.RegA, N: wordHash},
		alu(bpf.ALUOpMod, uint32(len(accepting))),
		bpf.StoreScratch{Src: bpf.RegA, N: wordSlot},
	}
	if open < len(accepting) {
		second := code{
			bpf.LoadScratch{Dst: bpf.RegA, N: wordHash},
			alu(bpf.ALUOpDiv, uint32(len(accepting))),
			alu(bpf.ALUOpMod, uint32(open)),
		}
		for i, s := range ranks {
			second.add(
				bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: s.last, SkipTrue: 2},
				alu(bpf.ALUOpAdd, s.shift),
				bpf.Jump{Skip: uint32(3 * (len(ranks) - 1 - i))})
		}
		second.add(bpf.StoreScratch{Src: bpf.RegA, N: wordSlot})
		c.add(testBit(words)...)
		c.add(
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 1, SkipFalse: 1},
			bpf.Jump{Skip: uint32(len(second))})
		c.add(second...)
	}
	c.add(bpf.LoadScratch{Dst: bpf.RegA, N: wordSlot})
	for _, s := range indexes {
		if s.first == s.last {
			c.add(bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: s.last, SkipTrue: 1}, bpf.RetConstant{Val: s.first + s.shift})
			continue
		}
		c.add(bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: s.last, SkipTrue: 2}, alu(bpf.ALUOpAdd, s.shift), bpf.RetA{})
	}
	c.add(bpf.RetConstant{Val: noIndex})
	return c
}

// testBit sets bit 0 of A to the bit of the slot in A.
func testBit(words []uint32) []bpf.Instruction {
	c := code{
		alu(bpf.ALUOpAnd, 31),
		bpf.TAX{},
		bpf.LoadScratch{Dst: bpf.RegA, N: wordSlot},
		alu(bpf.ALUOpShiftRight, 5),
	}
	for i, word := range words {
		c.add(
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(i), SkipTrue: 2},
			bpf.LoadConstant{Dst: bpf.RegA, Val: word},
			bpf.Jump{Skip: uint32(3 * (len(words) - 1 - i))})
	}
	c.add(bpf.ALUOpX{Op: bpf.ALUOpShiftRight})
	return c
}

// step is a run of ascending keys, whose values are the key plus shift, modulo 2^32.
type step struct{ first, last, shift uint32 }

func addStep(table []step, key, value int) []step {
	k, shift := uint32(key), uint32(value)-uint32(key)
	if n := len(table); n > 0 && table[n-1].shift == shift {
		table[n-1].last = k
		return table
	}
	return append(table, step{first: k, last: k, shift: shift})
}

// setProgram attaches a filter or a group's program. It needs no privilege.
func setProgram(fd, option int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, ins := range raw {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, option,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: unsafe.SliceData(filter)})
	return os.NewSyscallError("setsockopt", err)
}

// steer refreshes the group and attaches the program, even if nothing changed: every
// worker can replace it, and the kernel does not show it. A single socket has one too:
// others that join it get nothing. Systemd's may be in no group.
func (g *group) steer() error {
	g.refresh()
	if len(g.index.slots()) == 0 {
		return nil
	}
	if err := g.load(g.accepting()); err != nil && len(g.index) > 1 {
		return fmt.Errorf("cannot steer the connections of %s: %w", g.listener, err)
	}
	return nil
}

// load attaches a program by any of the sockets: a locked one says EPERM.
func (g *group) load(accepting []bool) (err error) {
	all := program(g.listener.Balance, g.seed, g.index, accepting)
	for _, slot := range g.index.slots() {
		if err = setProgram(g.sockets[slot].fd, unix.SO_ATTACH_REUSEPORT_CBPF, all); !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return fmt.Errorf("workers have locked every socket (SO_LOCK_FILTER): a reload gives them others: %w", err)
}

// accepting returns, by home slot, which sockets get new connections: those of the slots
// that accept, else of all that have it, else of all that had it, else of all open slots,
// else all. At least one is true.
func (g *group) accepting() []bool {
	slots := g.index.slots()
	accepting := make([]bool, max(len(g.set.serving), slices.Max(slots)+1))
	listening := make([]bool, len(accepting))
	for _, slot := range slots {
		listening[slot] = true
	}
	serves := func(slot int) bool { return g.set.serves(slot, g.boundAddress) }
	taken := func(slot int) bool { return g.takers.lives(in(slot)) }
	left := func(slot int) bool { return g.takers.left[slot] != nil }
	open := func(int) bool { return true }
	for _, may := range []func(slot int) bool{serves, taken, left, open} {
		for slot, m := range g.users {
			if m != nil && may(slot) && m.slot < len(listening) && listening[m.slot] {
				accepting[m.slot] = true
			}
		}
		if slices.Contains(accepting, true) {
			return accepting
		}
	}
	return listening
}

// serves reports whether the slot's workers have the address; all do before Steer. Where
// programs of their set have taken it, and of a learned one always, it is those that have.
func (s *Set) serves(slot int, b *boundAddress) bool {
	if s.serving == nil {
		return true
	}
	if slot >= len(s.serving) {
		return false
	}
	set := s.serving[slot]
	e := set.listenerAt(b)
	return e != nil && (b.takers.lives(func(t taker) bool { return t == taker{slot, set} }) || !e.asked.Learned && !b.takers.of(set))
}
