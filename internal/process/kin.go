package process

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"github.com/shirou/gopsutil/v3/process"
)

// maxAncestors bounds the way up from a process.
const maxAncestors = 64

// Descends reports whether a process is another's child, grandchild and so on:
// false where that can't be known. (A subreaper keeps orphans below it.)
func Descends(pid, ancestor int) bool {
	for range maxAncestors {
		if pid == ancestor {
			return true
		}
		if pid <= 1 {
			return false
		}
		parent, known := Parent(pid)
		if !known {
			return false
		}
		pid = parent
	}
	return false
}

// Parent returns a process's parent, as far as it can be known: not of one that
// is gone, nor where /proc shows another pid namespace.
func Parent(pid int) (parent int, known bool) {
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return 0, false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	// pid (name) state parent ..., and the name may hold anything (proc(5)).
	_, rest, found := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(") "))
	fields := bytes.Fields(rest)
	if !found || len(fields) < 2 {
		return 0, false
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return parent, err == nil
}

// StartedAt is when a process began; zero where it can't be read.
func StartedAt(pid int) time.Time {
	ms, err := (&process.Process{Pid: int32(pid)}).CreateTime()
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
