package process

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	gopsutil "github.com/shirou/gopsutil/v3/process"

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
//
// gopsutil, one of the packages that forkd is to be built on, reads the memory. It does
// not have the processor time of children, nor whether a process is stopped.
func Sample(leaders []int) map[int]Figures {
	figures := make(map[int]Figures, len(leaders))
	for leader, pids := range procfs.Sessions(leaders) {
		f := Figures{At: time.Now()}
		alive := false
		for _, pid := range pids {
			stat, err := procfs.ReadStat(pid)
			memory, noMemory := (&gopsutil.Process{Pid: int32(pid)}).MemoryInfo()
			if err != nil || noMemory != nil {
				continue // it has ended
			}
			if pid == leader {
				alive, f.Stopped = true, stat.State == 'T'
			}
			f.RSS += memory.RSS
			f.CPU += float64(stat.CPU) / procfs.ClockTicks
		}
		if alive {
			figures[leader] = f
		}
	}
	return figures
}

// maxDemand bounds the threads that Demand reads, of all processes.
const maxDemand = 512

// Demand is how long the living threads of the leader's session have run or have waited for
// a CPU, all together (schedstat, Documentation/scheduler/sched-stats.rst). So a worker that
// does nothing can be told from one that the machine does not let run. known is false where
// it can't be read.
func Demand(leader int) (demand time.Duration, known bool) {
	threads := 0
	for _, pid := range procfs.Sessions([]int{leader})[leader] {
		dir := fmt.Sprintf("/proc/%d/task", pid)
		tasks, _ := os.ReadDir(dir) // it may have ended
		for _, task := range tasks {
			if threads++; threads > maxDemand {
				return demand, known
			}
			text, err := os.ReadFile(dir + "/" + task.Name() + "/schedstat")
			fields := bytes.Fields(text)
			if err != nil || len(fields) < 2 {
				continue
			}
			for _, field := range fields[:2] { // nanoseconds
				n, _ := strconv.ParseInt(string(field), 10, 64)
				demand += time.Duration(n)
			}
			known = true
		}
	}
	return demand, known
}
