package process

import (
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/shirou/gopsutil/v3/process"
	"golang.org/x/sys/unix"
)

// Figures is what one worker uses: its leader and all processes of its session.
// Those that made a session of their own are daemons, and no longer its own.
type Figures struct {
	RSS     uint64    // bytes resident, summed: a page that two share counts twice
	Stopped bool      // the leader, by SIGSTOP or the like
	At      time.Time // when they were read
	CPU     float64   // seconds of user and system time, with that of children that were waited for
}

// CPUSince is how many seconds of CPU time were used since an earlier look, the
// zero one for all time. A process that has ended without anybody of the session
// waiting for it takes its time with it: then it may be too little, and never
// negative.
func (f Figures) CPUSince(before Figures) float64 {
	seconds := f.CPU - before.CPU
	if !before.At.IsZero() {
		// A child that had left the session, and is waited for, brings its whole
		// life: more than the machine has in this time is none of ours.
		seconds = min(seconds, f.At.Sub(before.At).Seconds()*float64(runtime.NumCPU()))
	}
	return max(0, seconds)
}

// Usage reads figures of workers. Sample takes the pids of their leaders and
// leaves out those that it can't read: what is not known is absent, never 0. Not
// for more than one goroutine.
type Usage interface {
	Sample(leaders []int) map[int]Figures
}

// NewUsage returns a Usage that reads /proc through gopsutil.
func NewUsage() Usage {
	process.EnableBootTimeCache(true) // it is read for each process, and not used here
	return sampler{}
}

type sampler struct{}

// Sample implements Usage. One listing of /proc serves for all leaders: whose each
// process is costs a system call, and only theirs are read.
func (sampler) Sample(leaders []int) map[int]Figures {
	figures := make(map[int]Figures, len(leaders))
	if len(leaders) == 0 || !ownProc() {
		return figures
	}
	members := make(map[int][]int, len(leaders))
	for _, pid := range leaders {
		members[pid] = nil
	}
	for _, pid := range readPIDs() {
		if leader, known := leaderOf(pid, members); known {
			members[leader] = append(members[leader], pid)
		}
	}
	for leader, pids := range members {
		f := Figures{At: time.Now()}
		alive := false
		for _, pid := range pids {
			s, known := readStat(pid)
			cpu, rss, err := usedBy(pid)
			if !known || err != nil {
				continue // it has ended since
			}
			if pid == leader {
				alive, f.Stopped = true, s.state == 'T'
			}
			f.RSS += rss
			f.CPU += cpu + s.reaped
		}
		if alive {
			figures[leader] = f
		}
	}
	return figures
}

// leaderOf finds out in whose session a process is. It stays the same when programs
// make groups of their own in it (nginx, a shell with job control).
func leaderOf[T any](pid int, leaders map[int]T) (leader int, known bool) {
	if _, known := leaders[pid]; known { // also of who is no worker
		return pid, true
	}
	leader, err := unix.Getsid(pid)
	_, known = leaders[leader]
	return leader, known && err == nil
}

// usedBy reads what one process uses. CPU and memory only: gopsutil's scan for
// connections costs milliseconds for each process.
func usedBy(pid int) (cpu float64, rss uint64, err error) {
	of := process.Process{Pid: int32(pid)}
	times, err := of.Times()
	if err != nil {
		return 0, 0, err
	}
	memory, err := of.MemoryInfo()
	if err != nil {
		return 0, 0, err
	}
	return times.User + times.System, memory.RSS, nil
}

// ownProc reports whether /proc shows this process's pid namespace.
func ownProc() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}
