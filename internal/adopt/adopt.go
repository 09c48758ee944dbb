// Package adopt finds the processes that an earlier master of the same app, which
// was killed, has left: its workers and what they have started. They are no
// children of this process; all that is known of them is read from /proc. It must
// not decide what becomes of them, except while one holds a port at the start.
package adopt

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
	"github.com/forkd/forkd/internal/procfs"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/systemd"
)

// A Leftover is a left-over process. Its pidfd tells whether it is still the same.
type Leftover struct {
	ID        pool.ID // of generation 0
	PID       int
	Slot      *int      // nil: not known
	StartedAt time.Time // zero: not known
	KillAt    time.Time
	pidfd     int
}

// Leftovers are all left-over processes of the app, and those that they start. It is
// for one goroutine at a time: Run's, then Watch's.
type Leftovers struct {
	KillAt time.Time // their drain deadline
	before process.Predecessor
	opened int         // so far
	found  []*Leftover // by Find
}

// Find opens what a killed master has left: by the records in its lock file, and all
// that is in this process's unit (docs/contract.md, section 10). It also begins this
// master's records, which keep what it found; nil, with an error, if there can be
// none. Call it before this process has children.
func Find(dir *control.RuntimeDir, killAt time.Time) (*Leftovers, *process.Records, error) {
	s := &Leftovers{KillAt: killAt}
	lock, err := dir.OpenLock()
	if err == nil {
		s.before = process.ReadPredecessor(lock)
	}
	inUnit := systemd.Leftovers()
	pids := inUnit
	if len(s.before.Workers) > 0 {
		pids = procfs.PIDs()
	}
	var keep []process.Record
	s.found, keep = s.scan(pids, inUnit, nil, true)
	if err != nil {
		return s, nil, err
	}
	records, err := process.NewRecords(lock, keep)
	return s, records, err
}

// younger finds what leftovers have started since: of the same sessions and
// process groups, and in the unit's cgroup their descendants too.
func (s *Leftovers) younger(known []*Leftover) []*Leftover {
	inUnit := systemd.Leftovers()
	more, _ := s.scan(append(s.before.Members(), inUnit...), inUnit, known, false)
	return more
}

// scan opens those of the processes that are leftovers and not known yet, and returns
// their workers' records.
func (s *Leftovers) scan(pids, inUnit []int, known []*Leftover, atStart bool) (more []*Leftover, records []process.Record) {
	for _, pid := range pids {
		is := func(l *Leftover) bool { return l.PID == pid }
		if slices.ContainsFunc(known, is) || slices.ContainsFunc(more, is) {
			continue
		}
		l, record := s.open(pid, slices.Contains(inUnit, pid), atStart)
		if l == nil {
			continue
		}
		more = append(more, l)
		if same := func(r process.Record) bool { return r.PID == record.PID }; !slices.ContainsFunc(records, same) {
			records = append(records, record)
		}
	}
	return more, records
}

// open opens a process; nil if it is no leftover. What is read about it is read
// while its pidfd is held, and void if that says that it has ended: the number may
// be another's by then. Whatever is in the unit's cgroup counts only at the start:
// later it may be systemd's ExecReload=.
func (s *Leftovers) open(pid int, inUnit, atStart bool) (*Leftover, process.Record) {
	if process.Descends(pid, os.Getpid()) {
		return nil, process.Record{}
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, process.Record{} // it has ended since
	}
	inUnit = inUnit && inOwnGroup(pid)
	record, found := s.before.Find(pid, inUnit)
	if !found && inUnit && atStart {
		record, found = s.before.Add(pid)
	}
	found = found || inUnit && s.before.Had(procfs.Sockets(procfs.Files(pid)))
	l := &Leftover{PID: pid, pidfd: fd, KillAt: s.KillAt, StartedAt: process.StartedAt(pid)}
	if !found || l.ended() {
		l.Close()
		return nil, record
	}
	_ = l.Signal(unix.SIGCONT) // a stopped one has not taken the signal of its master's death
	s.opened++
	l.ID = pool.ID{Slot: max(0, record.Slot), Attempt: s.opened}
	if record.Slot >= 0 {
		l.Slot = &record.Slot
	}
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

// Owns reports whether the holder of one of the app's ports is the app's: a leftover,
// the killed master itself, a process with one of their sockets, or a worker of this
// master.
func (s *Leftovers) Owns(h sockets.Holder) bool {
	if s.before.Had(h.Sockets) || s.before.IsMaster(h.PID) || process.Descends(h.PID, os.Getpid()) {
		return true
	}
	_, found := s.before.Find(h.PID, false)
	return found
}

// Alive reports whether any that Find found still live: for before Watch.
func (s *Leftovers) Alive() bool {
	return slices.ContainsFunc(s.found, func(l *Leftover) bool { return !l.ended() })
}

// kill ends those that Find found, and theirs.
func (s *Leftovers) kill() {
	s.found = append(s.found, s.younger(s.found)...)
	for _, l := range s.found {
		_ = l.Signal(unix.SIGKILL) // it may have ended
	}
}

// Len is how many Find found.
func (s *Leftovers) Len() int { return len(s.found) }

// pollInterval is how often Watch looks for processes that leftovers have started,
// in milliseconds.
const pollInterval = 1000

// Watch reports new leftovers, at first all that Find found, and those that have
// ended, until none is left or report returns false. It blocks one thread.
func (s *Leftovers) Watch(report func(found, ended []*Leftover) bool) error {
	alive := s.found
	if len(alive) == 0 || !report(alive, nil) {
		return nil
	}
	for len(alive) > 0 {
		fds := make([]unix.PollFd, len(alive))
		for i, l := range alive {
			fds[i] = unix.PollFd{Fd: int32(l.pidfd), Events: unix.POLLIN}
		}
		if _, err := unix.Poll(fds, pollInterval); err != nil && err != unix.EINTR {
			return err
		}
		more := s.younger(alive)
		var still, ended []*Leftover
		for i, l := range alive {
			if fds[i].Revents == 0 {
				still = append(still, l)
			} else {
				ended = append(ended, l)
			}
		}
		if !report(more, ended) {
			return nil
		}
		alive = append(still, more...)
	}
	return nil
}

// Signal sends a signal to the process, and to no other.
func (l *Leftover) Signal(sig unix.Signal) error {
	return unix.PidfdSendSignal(l.pidfd, sig, nil, 0)
}

// ended reports whether all of its threads have ended, reaped or not.
func (l *Leftover) ended() bool {
	fds := []unix.PollFd{{Fd: int32(l.pidfd), Events: unix.POLLIN}}
	for {
		if n, err := unix.Poll(fds, 0); err != unix.EINTR {
			return n > 0
		}
	}
}

// Close lets go of the process.
func (l *Leftover) Close() { unix.Close(l.pidfd) }
