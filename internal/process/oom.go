package process

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/cgroup"
)

// OOMKills finds out whether a SIGKILL came from the kernel's OOM killer: by the counter
// oom_kill of the memory cgroup that this process shares with its workers (memory.events
// in v2, memory.oom_control in v1). Not for concurrent use. The zero value finds none.
type OOMKills struct {
	file    string // "": there is none
	counted int
	open    int       // kills not yet attributed to a worker
	at      time.Time // when the last of them was counted
}

// oomDelay is the most time between the count of a kill and the worker's end.
const oomDelay = 5 * time.Second

// NewOOMKills counts kills from now on. root is "/", except in tests.
func NewOOMKills(root string) (o OOMKills) {
	for _, group := range cgroup.Own(root, "memory") {
		o.file = filepath.Join(group.Dir, "memory.oom_control")
		if group.V2 {
			o.file = filepath.Join(group.Dir, "memory.events")
		}
		if o.counted = o.read(); o.counted >= 0 {
			return o
		}
	}
	return OOMKills{}
}

// Look counts kills. Call it each second, so that Took knows which are new.
func (o *OOMKills) Look(now time.Time) {
	n := o.read()
	if now.Sub(o.at) > oomDelay {
		o.open = 0
	}
	if n > o.counted {
		o.open += n - o.counted
		o.counted, o.at = n, now
	}
}

// Took reports whether the OOM killer killed a worker that has just ended by a SIGKILL
// which this process did not send. Each kill is attributed to one worker.
func (o *OOMKills) Took(now time.Time) bool {
	o.Look(now)
	if o.open == 0 {
		return false
	}
	o.open--
	return true
}

// read returns N of the line "oom_kill N"; -1: there is none.
func (o *OOMKills) read() int {
	text, _ := os.ReadFile(o.file)
	_, after, _ := strings.Cut("\n"+string(text), "\noom_kill ")
	number, _, _ := strings.Cut(after, "\n")
	if n, err := strconv.Atoi(number); err == nil {
		return n
	}
	return -1
}
