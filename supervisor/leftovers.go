package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/systemd"
)

// leftover is a process that a killed master of this app has left, as a worker
// or as what a worker had started. It is no child: all that is known is read from
// /proc while its pidfd says that it is still the same.
type leftover struct {
	id        pool.ID // of generation 0
	pid       int
	pidfd     int
	slot      int // -1: not known
	startedAt time.Time
	killAt    time.Time
}

// leftovers are all of a killed master's processes, and those that they start
// still. Found by the main goroutine, then by one of its own; the loop has those in
// host.leftovers.
type leftovers struct {
	before process.Predecessor
	killAt time.Time
	opened int         // so far
	found  []*leftover // before the loop runs
}

// remember finds what a killed master has left, and begins this one's own records.
func (m *master) remember(killAt time.Time) {
	m.left = &leftovers{killAt: killAt}
	file, err := m.place.OpenLock()
	if err == nil {
		m.left.before = process.ReadPredecessor(file)
	}
	keep := m.left.find()
	if err == nil {
		m.records, err = process.NewRecords(file, keep)
	}
	if err != nil {
		m.log.Warn("cannot record the workers: should this master be killed, the next one will not know them", "why", err)
	}
}

// find opens what a killed master has left: its workers and theirs by its records,
// and whatever stands beside this process in its unit's cgroup (docs/contract.md,
// section 10). It is called before this process has any child but those that it
// was started with, and returns the records of those that it found.
func (s *leftovers) find() (keep []process.Record) {
	beside := systemd.Leftovers()
	pids := beside
	if len(s.before.Workers) > 0 {
		pids = process.PIDs()
	}
	for _, pid := range pids {
		l, record := s.open(pid, slices.Contains(beside, pid), true)
		if l == nil {
			continue
		}
		s.found = append(s.found, l)
		if same := func(k process.Record) bool { return k.PID == record.PID }; !slices.ContainsFunc(keep, same) {
			keep = append(keep, record)
		}
	}
	return keep
}

// younger finds what leftovers have started since: of the same sessions and
// process groups, and in the unit's cgroup their descendants too.
func (s *leftovers) younger(known []*leftover) []*leftover {
	var more []*leftover
	beside := systemd.Leftovers()
	for _, pid := range append(s.before.Members(), beside...) {
		is := func(l *leftover) bool { return l.pid == pid }
		if slices.ContainsFunc(known, is) || slices.ContainsFunc(more, is) {
			continue
		}
		if l, _ := s.open(pid, slices.Contains(beside, pid), false); l != nil {
			more = append(more, l)
		}
	}
	return more
}

// open opens a process, if it is a leftover: nil where it is not. What is read
// about it is read while its pidfd is held, and is void when that says that it has
// ended: the number may be another's by then. All that is beside this process in
// its unit's cgroup counts only at the start: later it may be systemd's ExecReload=.
func (s *leftovers) open(pid int, beside, atStart bool) (l *leftover, record process.Record) {
	if process.Descends(pid, os.Getpid()) {
		return nil, record
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, record // it has ended since
	}
	beside = beside && inOwnGroup(pid)
	record, found := s.before.Find(pid, beside)
	if !found && beside && atStart {
		record, found = s.before.Add(pid)
	}
	found = found || beside && s.before.Had(process.Sockets(pid))
	l = &leftover{pid: pid, pidfd: fd, slot: record.Slot, killAt: s.killAt, startedAt: process.StartedAt(pid)}
	if !found || l.ended() {
		l.close()
		return nil, record
	}
	_ = l.signal(unix.SIGCONT) // one that is stopped has not taken the signal of its master's death
	s.opened++
	l.id = pool.ID{Slot: max(0, l.slot), Attempt: s.opened}
	return l, record
}

// inOwnGroup reports whether a process is in this one's cgroups.
func inOwnGroup(pid int) bool {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false
	}
	group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && bytes.Equal(group, own)
}

// owns reports whether who holds a port of the app's is no stranger: a leftover, the
// killed master itself, which is about to end, somebody who has a socket of theirs,
// or a worker of this master's.
func (s *leftovers) owns(h sockets.Holder) bool {
	if s.before.Had(h.Sockets) || s.before.IsMaster(h.PID) || process.Descends(h.PID, os.Getpid()) {
		return true
	}
	_, found := s.before.Find(h.PID, false)
	return found
}

// alive reports whether any that were found before the loop runs still live.
func (s *leftovers) alive() bool {
	return slices.ContainsFunc(s.found, func(l *leftover) bool { return !l.ended() })
}

// kill ends those that were found before the loop runs, and theirs.
func (s *leftovers) kill() {
	s.found = append(s.found, s.younger(s.found)...)
	for _, l := range s.found {
		_ = l.signal(unix.SIGKILL) // it may have ended
	}
}

// inherit has the pool decide about the leftovers, and tells it of their ends. It
// is called on the loop's goroutine.
func (h *host) inherit(s *leftovers, step func(pool.Event)) {
	if len(s.found) == 0 {
		return
	}
	h.log.Warn("a killed master has left workers: they may finish what they have", "processes", len(s.found), "for", max(0, time.Until(s.killAt)).Round(time.Second))
	for _, l := range s.found {
		step(h.adoptLeftover(l))
	}
	go h.watchLeftovers(s, s.found)
}

func (h *host) adoptLeftover(l *leftover) pool.Event {
	h.leftovers[l.id] = l
	h.events.Add(control.Event{Type: control.EventLeftover, Slot: l.knownSlot(), PID: &l.pid, Reason: "left by a killed master, draining"})
	return pool.Inherited{ID: l.id, Deadline: l.killAt}
}

// watchLeftovers tells of each one's end, and of those that they have started.
// Pidfds can only be polled: one thread does for all.
func (h *host) watchLeftovers(s *leftovers, alive []*leftover) {
	for len(alive) > 0 {
		fds := make([]unix.PollFd, len(alive))
		for i, l := range alive {
			fds[i] = unix.PollFd{Fd: int32(l.pidfd), Events: unix.POLLIN}
		}
		const look = 1000 // ms: then see who has come, and whether anybody listens still
		if _, err := unix.Poll(fds, look); err != nil && err != unix.EINTR {
			h.log.Error("cannot wait for a killed master's workers", "why", err)
			return
		}
		more := s.younger(alive)
		for _, l := range more {
			if !h.tell(func() pool.Event { return h.adoptLeftover(l) }) {
				l.close()
				return
			}
		}
		var still []*leftover
		for i, l := range alive {
			if fds[i].Revents == 0 {
				still = append(still, l)
			} else if !h.tell(func() pool.Event { return pool.GroupEnded{ID: l.id} }) {
				return
			}
		}
		if !h.tell(func() pool.Event { return nil }) {
			return
		}
		alive = append(still, more...)
	}
}

func (l *leftover) signal(sig unix.Signal) error {
	return unix.PidfdSendSignal(l.pidfd, sig, nil, 0)
}

// ended reports whether all of its threads have ended, reaped or not.
func (l *leftover) ended() bool {
	fds := []unix.PollFd{{Fd: int32(l.pidfd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, 0); err != unix.EINTR {
			return n > 0
		}
	}
}

func (l *leftover) close() { unix.Close(l.pidfd) }

func (l *leftover) knownSlot() *int {
	if l.slot < 0 {
		return nil
	}
	return &l.slot
}

func (l *leftover) show() control.Leftover {
	out := control.Leftover{Slot: l.knownSlot(), PID: l.pid, State: string(pool.StateDraining), KillAt: &l.killAt, Processes: 1, Reason: "left by a master that was killed"}
	if !l.startedAt.IsZero() {
		out.StartedAt = &l.startedAt
	}
	return out
}
