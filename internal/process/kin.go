package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	if !ownProc() {
		return 0, false
	}
	s, known := readStat(pid)
	return s.parent, known
}

// stat is what /proc/PID/stat says (proc_pid_stat(5)).
type stat struct {
	state                  byte // 'T': stopped by a signal
	parent, group, session int

	reaped float64 // seconds of CPU time of children that were waited for
	start  uint64  // clock ticks after boot
}

// clockTicks is USER_HZ, which is 100 wherever Go runs on Linux.
const clockTicks = 100

func readStat(pid int) (s stat, known bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s, false
	}
	// pid (name) state parent ..., and the name may hold anything.
	_, rest, _ := bytes.Cut(text[max(0, bytes.LastIndexByte(text, ')')):], []byte(") "))
	fields := bytes.Fields(rest)
	const parent, group, session, cutime, cstime, starttime = 1, 2, 3, 13, 14, 19
	if len(fields) <= starttime {
		return s, false
	}
	var numbers [starttime + 1]uint64
	for _, i := range []int{parent, group, session, cutime, cstime, starttime} {
		if numbers[i], err = strconv.ParseUint(string(fields[i]), 10, 64); err != nil {
			return s, false
		}
	}
	return stat{
		state:  fields[0][0],
		parent: int(numbers[parent]), group: int(numbers[group]), session: int(numbers[session]),
		reaped: float64(numbers[cutime]+numbers[cstime]) / clockTicks,
		start:  numbers[starttime],
	}, true
}

// Sockets returns the inodes of a process's sockets, none where this one may not
// look.
func Sockets(pid int) (inodes []uint64) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	entries, _ := os.ReadDir(dir) // what could be read counts
	for _, entry := range entries {
		target, _ := os.Readlink(filepath.Join(dir, entry.Name()))
		number, isSocket := strings.CutPrefix(target, "socket:[")
		if inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64); isSocket && err == nil {
			inodes = append(inodes, inode)
		}
	}
	return inodes
}

// StartedAt is when a process began; zero where it can't be read.
func StartedAt(pid int) time.Time {
	ms, err := (&process.Process{Pid: int32(pid)}).CreateTime()
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
