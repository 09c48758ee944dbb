package usage

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// maxDemand bounds the threads that Demand reads, of all processes.
const maxDemand = 512

// Demand is how long the living threads of the leader's session have run or have waited for
// a CPU, all together (schedstat, Documentation/scheduler/sched-stats.rst). So a worker that
// does nothing can be told from one that the machine does not let run. known is false where
// it can't be read.
func Demand(leader int) (demand time.Duration, known bool) {
	threads := 0
	for _, pid := range procfs.PIDs() {
		if session, err := unix.Getsid(pid); err != nil || session != leader {
			continue
		}
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
