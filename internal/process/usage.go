package process

import (
	"time"

	"github.com/shirou/gopsutil/v3/process"
)

// Figures is what one process uses.
type Figures struct {
	CPU float64   // seconds of user and system time since it began
	RSS uint64    // bytes resident
	At  time.Time // when they were read
}

// Usage reads figures of processes. Sample takes the pids of all processes of
// interest and leaves out those that it can't read: what is not known is absent,
// never 0. Not for more than one goroutine.
type Usage interface {
	Sample(pids []int) map[int]Figures
}

// NewUsage returns a Usage that reads /proc through gopsutil.
func NewUsage() Usage {
	process.EnableBootTimeCache(true) // it is read for each process, and not used here
	return &sampler{known: map[int]*process.Process{}}
}

type sampler struct {
	known map[int]*process.Process // those of the last Sample
}

// Sample implements Usage. It asks for CPU and memory only: gopsutil's scan for
// connections costs milliseconds for each process.
func (s *sampler) Sample(pids []int) map[int]Figures {
	figures := make(map[int]Figures, len(pids))
	known := make(map[int]*process.Process, len(pids))
	for _, pid := range pids {
		p := s.known[pid]
		if p == nil {
			p = &process.Process{Pid: int32(pid)}
		}
		cpu, err := p.Times()
		if err != nil {
			continue
		}
		memory, err := p.MemoryInfo()
		if err != nil {
			continue
		}
		known[pid] = p
		figures[pid] = Figures{CPU: cpu.User + cpu.System, RSS: memory.RSS, At: time.Now()}
	}
	s.known = known
	return figures
}
