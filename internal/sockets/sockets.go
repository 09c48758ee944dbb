// Package sockets holds the listening sockets of an app: bound by the master or
// passed to it by systemd, kept for as long as their slot exists and handed to
// every worker of that slot.
//
// The sockets of a listener in ModeReuseport form a reuseport group (socket(7)): a
// classic BPF program picks the slot of each new connection among those that accept.
// While a slot is open its sockets are too, whether it has a worker or not, so that the
// master never resets a connection that the kernel has queued.
//
// A Set has all sockets. A ListenerSet is the listeners of one configuration; two that
// overlap, as in a roll, share the addresses that both have. Each address is a
// boundAddress, what differs between the modes a mode.
//
// The package knows nothing of workers and never serves a connection. It keeps raw
// descriptors: a net.Listener changes O_NONBLOCK, which every holder of a socket shares.
package sockets

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/forkd/forkd/internal/closing"
)

// The values of Listener.Mode and Listener.Balance.
const (
	ModeReuseport = "reuseport" // a socket for each slot
	ModeShared    = "shared"    // one for all slots
	ModeEach      = "each"      // a port for each slot: the listener's and those after it

	BalanceHash   = "hash"   // by client address and port: connections spread evenly
	BalanceSource = "source" // by client address: one client, one slot
)

// Listener is one address that the app serves.
type Listener struct {
	Name        string      // unique in the app
	Network     string      // "tcp": dual-stack, IPv4 on a host without IPv6; "tcp4"; "tcp6": IPv6 only; "unix"
	Host        string      // IP address; "": all addresses
	Port        int         // 0: one that the kernel picks, the same for all slots; in ModeEach slot 0's
	Path        string      // unix: absolute
	Perm        fs.FileMode // unix: the socket file's; 0: what umask leaves
	Owner       *Owner      // unix: the socket file's; of a learned TCP one its sockets'; nil: the master's user
	Mode        string      // ModeReuseport, ModeShared, ModeEach; "": reuseport, for unix shared
	Balance     string      // BalanceHash, BalanceSource; ModeReuseport only
	Backlog     int         // of each socket; the kernel cuts it to net.core.somaxconn
	Nonblocking bool        // O_NONBLOCK at the start; not changed later
	Learned     bool        // by Learn, or by a killed master's: slots whose program has not taken it get no connections
	Freebind    bool        // TCP: the host may get the address later (IP_FREEBIND, ip(7))
}

// Owner is the owner of a file or a socket.
type Owner struct{ UID, GID uint32 }

// Passed is a socket that the master was started with (sd_listen_fds(3)).
type Passed struct {
	FD   int
	Name string // of LISTEN_FDNAMES: a socket unit's, or LISTENER.SLOT from the fd store
}

// Keeper holds copies of the sockets while there is no master: systemd's fd store.
// Its methods must not block. A name may be stored several times; Remove removes all.
type Keeper interface {
	Store(name string, fd int)
	Remove(name string)
}

// maxSlots is how many slots fit into the steering program.
const maxSlots = 1024

// maxNotices bounds what waits for Notices.
const maxNotices = 100

// Set is every socket of an app. Its methods and those of its ListenerSets must not be
// called concurrently. They make short system calls only.
type Set struct {
	app      string
	own      func(Holder) bool // a worker of this app, or one that a killed master has left
	keeper   Keeper            // nil: none
	closer   closing.Closer
	passed   []*socket
	bound    []*boundAddress
	sets     []*ListenerSet
	serving  []*ListenerSet // by slot, of the last Steer; nil: none yet
	opened   bool           // the first set has taken what it wanted of passed
	closed   bool
	busy     map[int]bool // slots that have a worker
	markMask uint32       // of MarkBy
	record   recordFile
	notices  []string
	others   []Other
	damaged  []Restored
	former   map[uint64]bool // sockets that only workers have, by cookie
	noDiag   sync.Once       // sock_diag has failed
}

// New takes over the descriptors passed to the master. keeper is nil without an fd store.
// own recognises the workers of this app, also those that a killed master left, by more
// than what they say of themselves. The error says which descriptor is no listening stream
// socket; then nothing is taken over.
func New(app string, own func(Holder) bool, passed []Passed, keeper Keeper) (*Set, error) {
	s := &Set{app: app, own: own, keeper: keeper, busy: map[int]bool{}}
	if err := s.take(passed); err != nil {
		return nil, err
	}
	return s, nil
}

// Steer says which set's worker gets each slot's new connections; nil: the slot gets none.
// A listener's go to the slots whose set has it, or, where none of these can take any, to
// all open slots. What waits in a queue stays there.
func (s *Set) Steer(serving []*ListenerSet) (err error) {
	s.serving = slices.Clone(serving)
	for _, b := range s.bound {
		if b.users != nil && s.deserted(b) {
			b.endAll()
		}
		b.mode.settle()
		err = cmp.Or(err, b.mode.steer())
	}
	s.store(s.bound)
	return err
}

// Restored is what was undone of a slot's sockets, for a person.
type Restored struct {
	Slot int
	Why  string
}

// AllSlots stands for every slot.
const AllSlots = -1

// Restore undoes what a worker did to the sockets of one slot or AllSlots: it listens
// again on one that was shut down, whose queue is lost, sets the configured backlog, takes
// a filter away, steers again, and brings a unix socket's file back, with three or four
// system calls for each socket. One for all slots counts as slot 0's in AllSlots.
func (s *Set) Restore(slot int) (restored []Restored, err error) {
	undone := map[int][]string{}
	for _, b := range s.bound {
		err = cmp.Or(err, b.mode.steer())
		for home, m := range b.all() {
			at := slot
			if slot == AllSlots {
				at = home
			} else if b.user(slot) != m {
				continue
			}
			what, failed := b.mode.mend(m)
			err = cmp.Or(err, failed)
			if len(what) > 0 {
				undone[at] = append(undone[at], what...)
			}
		}
	}
	s.store(s.bound)
	for _, at := range slices.Sorted(maps.Keys(undone)) {
		restored = append(restored, Restored{at, strings.Join(undone[at], ", ")})
	}
	return restored, err
}

// Damaged returns, since the last call, which slots' sockets have what cannot be
// undone, and how they are replaced. Of one for all slots the slot is AllSlots.
func (s *Set) Damaged() []Restored { return takeAll(&s.damaged) }

// Notices returns what an operator should know, a line each, since the last call.
func (s *Set) Notices() []string { return takeAll(&s.notices) }

// Others returns which others have come and gone since the last call.
func (s *Set) Others() []Other { return takeAll(&s.others) }

func takeAll[T any](list *[]T) []T {
	all := *list
	*list = nil
	return all
}

func (s *Set) notice(format string, args ...any) {
	if len(s.notices) < maxNotices {
		s.notices = append(s.notices, fmt.Sprintf(format, args...))
	}
}

// Reset sets the options of the slot's sockets back that workers have changed, and
// names them. Called when the slot has no worker left. One socket for all slots is set
// back when none of them has one.
func (s *Set) Reset(slot int) (changed []string, err error) {
	delete(s.busy, slot)
	for _, b := range s.bound {
		options, failed := b.reset(slot)
		err = cmp.Or(err, failed)
		for _, name := range options {
			if !slices.Contains(changed, name) {
				changed = append(changed, name)
			}
		}
	}
	s.store(s.bound)
	return changed, err
}

// Queue counts the connections that wait to be accepted in the slot's sockets. known is
// false where no socket of the slot's own listens.
func (s *Set) Queue(slot int) (waiting int, known bool) {
	for _, n := range s.Queues(slot) {
		waiting, known = waiting+n, true
	}
	return waiting, known
}

// Queues is Queue for each listener, by its name; those of which no socket of the slot's
// own listens are absent. One socket for all slots counts for the first of them alone.
func (s *Set) Queues(slot int) map[string]int {
	queues := map[string]int{}
	for _, b := range s.bound {
		if m := b.user(slot); m != nil && (m.slot == slot || b.forAll() && slices.Index(b.users, m) == slot) {
			if n, listens := m.waiting(); listens {
				queues[b.listener.Name] += n
			}
		}
	}
	return queues
}

// OwnQueue is Queue without the sockets that serve other slots too, and those that the slot's
// program (Take's by) has not taken: learned ones, and where others of its set have.
func (s *Set) OwnQueue(slot int, l *ListenerSet, by any) (waiting int, known bool) {
	for _, b := range s.bound {
		if _, taken := b.takers.living[by]; !taken && (b.listener.Learned || b.takers.of(l)) {
			continue
		}
		if m := b.user(slot); m != nil && len(b.usersOf(m)) == 1 {
			if n, listens := m.waiting(); listens {
				waiting, known = waiting+n, true
			}
		}
	}
	return waiting, known
}

// CloseSlot ends a slot's sockets for every holder and resets what is queued, after Steer
// has led new connections elsewhere. A socket that systemd has too stays open and gets
// nothing; one for all slots ends with the last of them. An error is about steering the
// others: the slot is closed all the same.
func (s *Set) CloseSlot(slot int) (err error) {
	if slot < len(s.serving) {
		s.serving[slot] = nil
	}
	for _, b := range s.bound {
		err = cmp.Or(err, b.closeSlot(slot))
	}
	s.store(nil)
	return err
}

// StoredSlots returns how many slots the sockets in the fd store are of. A successor that
// opens fewer resets what waits in the others: to lose nothing it begins with as many and
// scales down. Called before the first Open.
func (s *Set) StoredSlots() (n int) {
	for _, p := range s.passed {
		if p.stored != "" {
			n = max(n, p.slot+1)
		}
	}
	return n
}

// CloseListeners begins a stop: the fd store forgets the sockets, and the master closes
// them. Workers go on serving from their own copies.
func (s *Set) CloseListeners() {
	for _, m := range s.all() {
		s.forget(m)
	}
	s.record.forget(s)
	s.Close()
}

// Close closes the Set's descriptors, at the master's end, and removes the files of the
// unix sockets that it made. The fd store keeps what it has.
func (s *Set) Close() {
	for _, b := range s.bound {
		b.close()
	}
	for _, p := range s.passed {
		p.close()
	}
	s.record.file.Close()
	s.bound, s.passed, s.sets, s.closed = nil, nil, nil, true
}

// all returns every open socket, those that no listener has too.
func (s *Set) all() []*socket {
	all := slices.Clone(s.passed)
	for _, b := range s.bound {
		for _, m := range b.all() {
			all = append(all, m)
		}
	}
	return all
}

// explainLimit turns EMFILE and ENFILE into advice. It runs after the sockets
// opened so far are closed: it needs descriptors to count them.
func explainLimit(err error, sockets int) error {
	var limit syscall.Rlimit
	switch {
	case errors.Is(err, syscall.EMFILE) && syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil:
		return fmt.Errorf("%w: the sockets need %d descriptors beside the %d in use, and the limit is %d: raise `ulimit -n`, or LimitNOFILE= in a systemd unit",
			err, sockets, openFiles(), limit.Cur)
	case errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("%w: the sockets need %d descriptors, and the whole host has run out: raise fs.file-max with sysctl", err, sockets)
	default:
		return err
	}
}
