package process

import (
	"iter"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// ancestors yields a process, its parent and so on, at most 64 and not PID 1. None if
// /proc shows another pid namespace.
func ancestors(pid int) iter.Seq2[int, procfs.Stat] {
	return func(yield func(int, procfs.Stat) bool) {
		const most = 64
		for n := 0; n < most && pid > 1 && (n > 0 || procfs.IsOwn()); n++ {
			s, err := procfs.ReadStat(pid)
			if err != nil || !yield(pid, s) {
				return
			}
			pid = s.Parent
		}
	}
}

// Descends reports whether a process is a descendant of another one, or that one. False
// if unknown. (A subreaper keeps orphans below it.)
func Descends(pid, ancestor int) bool {
	for p, s := range ancestors(pid) {
		if p == ancestor || s.Parent == ancestor {
			return true
		}
	}
	return pid == ancestor
}

// MaySpeakFor reports whether a process of the same user may send notify messages for a
// worker that is not reaped yet: it is of the worker's session or a descendant. leads says
// which processes are workers. It tells apart processes that trust each other, so unknown
// ones count: helpers that have ended, as systemd-notify usually has, processes of another
// pid namespace (pid 0), orphans that have left their worker's session.
func MaySpeakFor(pid, worker int, leads func(pid int) bool) bool {
	session, err := unix.Getsid(pid)
	switch {
	case pid <= 0 || err != nil || session == worker:
		return true
	case leads(session):
		return false
	}
	for _, s := range ancestors(pid) {
		switch {
		case s.Session == worker || s.Parent == os.Getpid():
			return true
		case leads(s.Session) || s.Parent <= 1:
			return false
		}
	}
	return true
}

// StartedAt is when a process began; zero if unknown.
func StartedAt(pid int) time.Time {
	s, err := procfs.ReadStat(pid)
	if err != nil {
		return time.Time{}
	}
	return timeOf(s.Start)
}

// timeOf converts clock ticks after boot; zero if they are in the future.
func timeOf(ticks uint64) time.Time {
	now := ticksNow()
	if ticks > now {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(now-ticks) * time.Second / procfs.ClockTicks)
}

// ticksNow is the time since boot in clock ticks.
func ticksNow() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return uint64(t.Sec)*procfs.ClockTicks + uint64(t.Nsec)/(uint64(time.Second)/procfs.ClockTicks)
}
