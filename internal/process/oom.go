package process

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/cgroup"
)

// OOMKills tells a worker that the kernel's OOM killer has ended from one that
// somebody sent SIGKILL: by oom_kill of this process's memory cgroup, which its
// workers share (memory.events in v2, memory.oom_control in v1). Not for more than
// one goroutine. Its zero value knows of none.
type OOMKills struct {
	file    *os.File // nil: there is none
	counted int
	unknown int       // kills that no worker's end has been told from
	at      time.Time // when the last of them was seen
}

// oomDelay bounds the time between a kill and the news of that worker's end.
const oomDelay = 5 * time.Second

// NewOOMKills counts from now on. root is "/", but in tests. It keeps the file open:
// a look costs one system call.
func NewOOMKills(root string) (o OOMKills) {
	for _, group := range cgroup.Own(root, "memory") {
		name := "memory.oom_control"
		if group.V2 {
			name = "memory.events"
		}
		fd, err := unix.Open(filepath.Join(group.Dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		o.file = os.NewFile(uintptr(fd), name)
		if o.counted = o.read(); o.counted >= 0 {
			return o
		}
		o.file.Close()
	}
	return OOMKills{}
}

// Look takes note of kills. Call it each second, so that Took knows which are new.
func (o *OOMKills) Look(now time.Time) {
	n := o.read()
	if now.Sub(o.at) > oomDelay {
		o.unknown = 0
	}
	if n > o.counted {
		o.unknown += n - o.counted
		o.counted, o.at = n, now
	}
}

// Took reports whether a worker that has just ended by SIGKILL, which this process
// had not sent, was one of those killed. Each kill is told of one end.
func (o *OOMKills) Took(now time.Time) bool {
	o.Look(now)
	if o.unknown == 0 {
		return false
	}
	o.unknown--
	return true
}

// Close gives the file up.
func (o *OOMKills) Close() { _ = o.file.Close() } // there may be none

// read finds the line "oom_kill N"; -1: there is none.
func (o *OOMKills) read() int {
	text := make([]byte, 1<<10)
	n, _ := o.file.ReadAt(text, 0) // an error is the end of the file
	_, after, _ := strings.Cut("\n"+string(text[:n]), "\noom_kill ")
	number, _, _ := strings.Cut(after, "\n")
	if n, err := strconv.Atoi(number); err == nil {
		return n
	}
	return -1
}
