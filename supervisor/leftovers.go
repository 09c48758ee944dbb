package supervisor

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/systemd"
)

// leftover is a process that a killed master of this app has left, as a worker
// or as what a worker had started. It is no child: all that is known is read from
// /proc while its pidfd says that it is still the same.
type leftover struct {
	id        pool.ID // of generation 0
	pid       int
	pidfd     int
	slot      int    // -1: not known
	app       string // by its environment; "" where it has overwritten that
	startedAt time.Time
	killAt    time.Time
}

// leftovers are all of a killed master's processes, and those that they start
// still. Found by a goroutine of its own; the loop has those in host.leftovers.
type leftovers struct {
	app    string
	killAt time.Time
	found  int // so far
}

// findLeftovers opens the processes that stand beside this one in its unit's
// cgroup (docs/contract.md, section 10). It is called before this one has any
// child.
func (s *leftovers) find() []*leftover {
	return s.open(systemd.Leftovers(), func(*leftover) bool { return true })
}

// open opens processes by their pids. What is read about one is read while its
// pidfd is held, and its cgroup is looked at again: the number may be another's
// by now.
func (s *leftovers) open(pids []int, wanted func(*leftover) bool) []*leftover {
	var found []*leftover
	own, _ := os.ReadFile("/proc/self/cgroup")
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended since
		}
		l := &leftover{pid: pid, pidfd: fd, slot: -1, killAt: s.killAt, startedAt: process.StartedAt(pid)}
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		for entry := range strings.SplitSeq(string(environ), "\x00") {
			key, value, _ := strings.Cut(entry, "=")
			switch slot, err := strconv.Atoi(value); {
			case key == ipc.EnvApp:
				l.app = value
			case key == ipc.EnvSlot && err == nil && slot >= 0 && slot < MaxWorkers:
				l.slot = slot
			}
		}
		group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || string(group) != string(own) || !wanted(l) {
			unix.Close(fd)
			continue
		}
		s.found++
		l.id = pool.ID{Slot: max(0, l.slot), Attempt: s.found}
		found = append(found, l)
	}
	return found
}

// younger finds what leftovers have started since: in the cgroup, of this app by
// its environment, none of the known and no descendant of this process.
func (s *leftovers) younger(known []*leftover) []*leftover {
	var pids []int
	for _, pid := range systemd.Leftovers() {
		is := func(l *leftover) bool { return l.pid == pid }
		if !slices.ContainsFunc(known, is) && !process.Descends(pid, os.Getpid()) {
			pids = append(pids, pid)
		}
	}
	return s.open(pids, func(l *leftover) bool { return l.app == s.app && !process.Descends(l.pid, os.Getpid()) })
}

// inherit has the pool decide about the leftovers, and tells it of their ends. It
// is called on the loop's goroutine.
func (h *host) inherit(s *leftovers, found []*leftover, step func(pool.Event)) {
	if len(found) == 0 {
		return
	}
	h.log.Warn("a killed master has left workers: they may finish what they have", "processes", len(found), "for", max(0, time.Until(s.killAt)).Round(time.Second))
	for _, l := range found {
		step(h.adoptLeftover(l))
	}
	go h.watchLeftovers(s, found)
}

func (h *host) adoptLeftover(l *leftover) pool.Event {
	h.leftovers[l.id] = l
	h.chronicle.add(control.Event{Type: control.EventLeftover, Slot: l.knownSlot(), PID: &l.pid, Reason: "left by a killed master, draining"})
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
