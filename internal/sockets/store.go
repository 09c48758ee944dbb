package sockets

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// recordName is in the fd store. No socket has it: it does not end in a number.
const recordName = "forkd-orders"

const maxRecord = 8 << 20

// recordFile is a memory file in the fd store: what a killed master's successor must know
// about the sockets beside it.
type recordFile struct {
	file    *os.File // nil: none yet
	stored  bool
	written []byte      // what is in the file
	read    storeRecord // what an earlier master has written
}

// storeRecord is what nothing else can tell a successor.
type storeRecord struct {
	// Orders are those of the groups, by endpoint: the kernel keeps them as long
	// as the sockets live, and does not show them.
	Orders map[string][]int `json:"orders"`
	// Stored are the cookies (SO_COOKIE) of the sockets that were given to the fd
	// store. A name is no proof that one was: a socket unit may choose any.
	Stored []uint64 `json:"stored"`
}

// take takes the record over, if it is what was passed, and reads it.
func (o *recordFile) take(g Passed) bool {
	var stat unix.Stat_t
	if g.Name != recordName || g.FD <= 0 || unix.Fstat(g.FD, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	unix.CloseOnExec(g.FD)
	o.file.Close() // of a second one: this is as good
	o.file, o.stored = os.NewFile(uintptr(g.FD), recordName), true
	o.read = parseRecord(io.NewSectionReader(o.file, 0, maxRecord))
	return true
}

// parseRecord returns an empty record for invalid text: the order is guessed then. Only
// the first value counts: a writer that was killed may have left the end of a longer one
// behind it.
func parseRecord(text io.Reader) (r storeRecord) {
	if json.NewDecoder(text).Decode(&r) != nil {
		return storeRecord{}
	}
	maps.DeleteFunc(r.Orders, func(_ string, slots []int) bool {
		once := slices.Compact(slices.Sorted(slices.Values(slots)))
		return len(once) < len(slots) || len(once) > 0 && once[len(once)-1] >= maxSlots
	})
	return r
}

// cookie is the kernel's name for a socket, never used again; 0: unknown.
func cookie(fd int) uint64 {
	value, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	return value
}

// sort brings passed sockets of a group into the kernel's order and returns it. Without a
// record it guesses: first unit-owned ones as listed, then by slot.
func (o *recordFile) sort(end endpoint, given []*socket) groupIndex {
	known := groupIndex(slices.Clone(o.read.Orders[end.key()]))
	for _, slot := range known.slots() {
		if !slices.ContainsFunc(given, func(p *socket) bool { return p.slot == slot }) {
			known.leave(slot) // it has been closed since
		}
	}
	whole := len(known.slots()) == len(given)
	position := func(p *socket) int {
		switch {
		case whole:
			return slices.Index(known, p.slot)
		case p.unitOwned:
			return -1
		default:
			return p.slot
		}
	}
	slices.SortStableFunc(given, func(a, b *socket) int { return position(a) - position(b) })
	if !whole {
		known = nil
		for _, p := range given {
			known = append(known, p.slot)
		}
	}
	return known
}

// store brings the fd store up to date with the sockets of some addresses. The record,
// which is about all sockets, is stored first.
func (s *Set) store(bound []*boundAddress) {
	if s.keeper == nil || s.closed {
		return
	}
	var added []*socket
	for _, forgetting := range []bool{true, false} { // all names are free before one is used
		for _, b := range bound {
			for slot, m := range b.all() {
				switch name := storeName(b.listener.Name, slot); {
				case m.unitOwned || m.stored == name:
				case forgetting:
					s.forget(m)
				default:
					m.stored = name
					added = append(added, m)
				}
			}
		}
	}
	s.record.write(s)
	for _, m := range added {
		s.keeper.Store(m.stored, m.fd)
	}
}

// forget removes a socket from the fd store. Others of the same name, as of a listener
// that moved to another port, are removed with it and stored again.
func (s *Set) forget(m *socket) {
	name := m.stored
	if s.keeper == nil || name == "" {
		return
	}
	m.stored = ""
	s.keeper.Remove(name)
	for _, other := range s.all() {
		if other.stored == name {
			s.keeper.Store(name, other.fd)
		}
	}
}

func storeName(listener string, slot int) string { return listener + "." + strconv.Itoa(slot) }

// storedName parses LISTENER.SLOT.
func storedName(name string) (listener string, slot int, ok bool) {
	dot := strings.LastIndexByte(name, '.')
	slot, err := strconv.Atoi(name[dot+1:])
	if dot <= 0 || err != nil || slot < 0 || slot >= maxSlots || storeName(name[:dot], slot) != name {
		return "", 0, false
	}
	return name[:dot], slot, true
}

func (o *recordFile) write(s *Set) {
	r := storeRecord{Orders: map[string][]int{}}
	for _, b := range s.bound {
		if g, ok := b.mode.(*group); ok && len(g.index) > 1 {
			r.Orders[b.at.end.key()] = g.index
		}
	}
	for _, m := range s.all() {
		if m.stored != "" {
			r.Stored = append(r.Stored, m.cookie)
		}
	}
	text, err := json.Marshal(r)
	if err != nil || bytes.Equal(text, o.written) || len(r.Orders)+len(r.Stored) == 0 && !o.stored {
		return
	}
	if o.file == nil {
		fd, err := unix.MemfdCreate(recordName, unix.MFD_CLOEXEC)
		if err != nil {
			s.notice("cannot record which sockets systemd keeps for a successor, which will take them for a socket unit's: memfd_create: %v", err)
			return
		}
		o.file = os.NewFile(uintptr(fd), recordName)
	}
	if _, err := o.file.WriteAt(text, 0); err != nil {
		return // out of memory; the next change tries again
	}
	_ = o.file.Truncate(int64(len(text))) // what stays behind is not read
	o.written = text
	if !o.stored {
		o.stored = true
		s.keeper.Store(recordName, int(o.file.Fd()))
	}
}

func (o *recordFile) forget(s *Set) {
	if s.keeper != nil && o.stored {
		s.keeper.Remove(recordName)
		o.stored = false
	}
}

func (e endpoint) key() string {
	if e.dual {
		return "dual " + e.String()
	}
	return e.String()
}
