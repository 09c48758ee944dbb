package process

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/cgroup"
)

// OOMKills tells a worker that the kernel's OOM killer has ended from one that
// somebody sent SIGKILL: by oom_kill of this process's memory cgroup, which its
// workers share (memory.events in v2, memory.oom_control in v1). Not for more than
// one goroutine. Its zero value knows of none.
type OOMKills struct {
	path    string // "": there is no such file
	counted int
	unknown int       // kills that no worker's end has been told from
	at      time.Time // when the last of them was seen
}

// oomDelay bounds the time between a kill and the news of that worker's end.
const oomDelay = 5 * time.Second

// NewOOMKills counts from now on. root is "/", but in tests.
func NewOOMKills(root string) OOMKills {
	for _, group := range cgroup.Own(root, "memory") {
		name := "memory.oom_control"
		if group.V2 {
			name = "memory.events"
		}
		o := OOMKills{path: filepath.Join(group.Dir, name)}
		if n, known := o.read(); known {
			o.counted = n
			return o
		}
	}
	return OOMKills{}
}

// Look takes note of kills. Call it each second, so that Took knows which are new.
func (o *OOMKills) Look(now time.Time) {
	n, known := o.read()
	if !known {
		return
	}
	if now.Sub(o.at) > oomDelay {
		o.unknown = 0
	}
	if n > o.counted {
		o.unknown += n - o.counted
		o.at = now
	}
	o.counted = n
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

// read finds the line "oom_kill N".
func (o *OOMKills) read() (n int, known bool) {
	if o.path == "" {
		return 0, false
	}
	text, err := os.ReadFile(o.path)
	if err != nil {
		return 0, false
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if number, found := strings.CutPrefix(lines.Text(), "oom_kill "); found {
			n, err := strconv.Atoi(number)
			return n, err == nil
		}
	}
	return 0, false
}
