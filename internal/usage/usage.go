// Package usage samples what workers use. Package process does not: the exec shim would
// have to wait for the initialization of what gopsutil imports.
package usage

import (
	"runtime"
	"strconv"
	"time"

	"github.com/shirou/gopsutil/v3/process"

	"github.com/forkd/forkd/internal/procfs"
)

// Figures is the usage of one worker: its leader and all processes of its session.
// Processes with a session of their own (daemons) are not included.
type Figures struct {
	RSS     uint64    // resident bytes, summed: shared pages count several times
	Stopped bool      // the leader is stopped by a signal
	At      time.Time // when they were read
	CPU     float64   // seconds, user and system, including children that were waited for
}

// CPUSince is the CPU time in seconds since earlier figures; zero figures: since the
// start. It may be too little, but never negative: the time of a process that nobody
// has waited for is lost with it.
func (f Figures) CPUSince(before Figures) float64 {
	seconds := f.CPU - before.CPU
	if !before.At.IsZero() {
		// Waiting for a child that had left the session adds all of the child's time:
		// limit it to what the machine could have used.
		seconds = min(seconds, f.At.Sub(before.At).Seconds()*float64(runtime.NumCPU()))
	}
	return max(0, seconds)
}

// Sample reads figures of workers by the pids of their leaders. Those that can't be read
// are absent. It lists /proc once, finds each process's leader by its session, which stays
// the same when programs make process groups in it (nginx, a shell with job control), and
// reads only the members' files. Not for concurrent use.
func Sample(leaders []int) map[int]Figures {
	process.EnableBootTimeCache(true) // else it is read for each process, unused
	figures := make(map[int]Figures, len(leaders))
	for leader, pids := range procfs.Sessions(leaders) {
		f := Figures{At: time.Now()}
		alive := false
		for _, pid := range pids {
			state, reaped, known := readStat(pid)
			// Nothing else: gopsutil's scan for connections takes milliseconds.
			of := process.Process{Pid: int32(pid)}
			times, err := of.Times()
			memory, noMemory := of.MemoryInfo()
			if !known || err != nil || noMemory != nil {
				continue // it has ended
			}
			if pid == leader {
				alive, f.Stopped = true, state == 'T'
			}
			f.RSS += memory.RSS
			f.CPU += times.User + times.System + reaped
		}
		if alive {
			figures[leader] = f
		}
	}
	return figures
}

// readStat returns the state of a process, 'T' if it is stopped by a signal, and the CPU
// seconds of children that it has waited for (proc_pid_stat(5)).
func readStat(pid int) (state byte, reaped float64, known bool) {
	const cutime, cstime = 13, 14
	const clockTicks = 100 // USER_HZ on all platforms of Go on Linux
	fields, err := procfs.Stat(pid)
	if err != nil || len(fields) <= cstime {
		return 0, 0, false
	}
	for _, i := range []int{cutime, cstime} {
		ticks, err := strconv.ParseUint(string(fields[i]), 10, 64)
		if err != nil {
			return 0, 0, false
		}
		reaped += float64(ticks) / clockTicks
	}
	return fields[0][0], reaped, true
}
