// Package adopt finds the processes that a killed master of the same app has left: its
// workers and what they have started. They are no children of this process, and are known
// by /proc. It must not decide what becomes of them, except while one holds a port at the
// start.
package adopt

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/procfs"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/systemd"
)

// A Leftover is a left-over process.
type Leftover struct {
	ID        pool.ID // of generation 0
	PID       int
	Slot      *int      // nil: not known
	StartedAt time.Time // zero: not known
	KillAt    time.Time
	pidfd     int
	record    process.Record // of its worker
}

// Leftovers are all left-over processes of the app, and those that they start. Not for
// concurrent use.
type Leftovers struct {
	KillAt time.Time // their drain deadline
	before process.Predecessor
	opened int         // so far
	found  []*Leftover // by Find
}

// Find finds what a killed master has left: by the records in its lock file, and by this
// process's unit. It also begins this master's records, with what it found; nil, with an
// error, if there can be none. Call it before this process has children.
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
	s.found = s.scan(pids, inUnit, nil, true)
	if err != nil {
		return s, nil, err
	}
	var keep []process.Record
	for _, l := range s.found {
		if same := func(r process.Record) bool { return r.PID == l.record.PID }; !slices.ContainsFunc(keep, same) {
			keep = append(keep, l.record)
		}
	}
	records, err := process.NewRecords(lock, keep)
	return s, records, err
}

// younger finds what leftovers have started since: in the same sessions and process groups,
// and in the unit's cgroup.
func (s *Leftovers) younger(known []*Leftover) []*Leftover {
	inUnit := systemd.Leftovers()
	return s.scan(append(s.before.Members(), inUnit...), inUnit, known, false)
}

// scan opens those of the processes that are leftovers and not known yet.
func (s *Leftovers) scan(pids, inUnit []int, known []*Leftover, atStart bool) (more []*Leftover) {
	for _, pid := range pids {
		is := func(l *Leftover) bool { return l.PID == pid }
		if slices.ContainsFunc(known, is) || slices.ContainsFunc(more, is) {
			continue
		}
		if l := s.open(pid, slices.Contains(inUnit, pid), atStart); l != nil {
			more = append(more, l)
		}
	}
	return more
}

// open opens a process; nil if it is no leftover. All about it is read while its pidfd is
// held, and void if it has ended: another process may have its number. Being in the unit's
// cgroup counts only at the start: later it may be systemd's ExecReload=.
func (s *Leftovers) open(pid int, inUnit, atStart bool) *Leftover {
	if process.Descends(pid, os.Getpid()) {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // it has ended since
	}
	l := &Leftover{PID: pid, pidfd: fd, KillAt: s.KillAt, StartedAt: process.StartedAt(pid)}
	var found bool
	inUnit = inUnit && inOwnGroup(pid)
	l.record, found = s.before.Find(pid, inUnit)
	if !found && inUnit && atStart {
		l.record, found = s.before.Add(pid)
	}
	found = found || inUnit && s.before.Had(procfs.Sockets(pid))
	if !found || l.ended() {
		l.Close()
		return nil
	}
	_ = l.Signal(unix.SIGCONT) // a stopped one has not taken the signal of its master's death
	s.opened++
	l.ID = pool.ID{Slot: max(0, l.record.Slot), Attempt: s.opened}
	if l.record.Slot >= 0 {
		l.Slot = &l.record.Slot
	}
	return l
}

func inOwnGroup(pid int) bool {
	own, err := os.ReadFile("/proc/self/cgroup")
	group, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && unitGroups(group) == unitGroups(own)
}

func unitGroups(groups []byte) string {
	var all []string
	for line := range strings.Lines(string(groups)) {
		all = append(all, systemd.UnitGroup(strings.TrimSuffix(line, "\n")))
	}
	return strings.Join(all, "\n")
}

// Owns reports whether the holder of a port is the app's: a leftover, the killed master, a
// process with one of their sockets, or a worker of this master.
func (s *Leftovers) Owns(h sockets.Holder) bool {
	_, found := s.before.Find(h.PID, false)
	return found || s.before.Had(h.Sockets) || s.before.IsMaster(h.PID) || process.Descends(h.PID, os.Getpid())
}

// Alive reports whether any that Find found still live. Call it before Watch.
func (s *Leftovers) Alive() bool {
	return slices.ContainsFunc(s.found, func(l *Leftover) bool { return !l.ended() })
}

func (s *Leftovers) kill() {
	s.found = append(s.found, s.younger(s.found)...)
	for _, l := range s.found {
		_ = l.Signal(unix.SIGKILL) // it may have ended
	}
}

// Found returns what Find has found.
func (s *Leftovers) Found() []*Leftover { return s.found }

// pollInterval is how often Watch looks for new processes, in milliseconds.
const pollInterval = 1000

// Watch reports new leftovers, at first all that Find found, and ends, until none is left
// or report returns false. It blocks one thread.
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

func (l *Leftover) ended() bool { return process.HasEnded(l.pidfd) }

// Close lets go of the process.
func (l *Leftover) Close() { unix.Close(l.pidfd) }
