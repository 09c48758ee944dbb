// Package procfs reads /proc/PID (proc(5)), as far as this user may.
package procfs

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// IsOwn reports whether /proc shows this process's pid namespace.
func IsOwn() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}

// PIDs returns every process that /proc shows.
func PIDs() []int {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1) // a partial list is used too
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Sessions returns the processes of the sessions of some leaders, by leader, if /proc shows
// this process's pid namespace. A process that leads none stands for itself.
func Sessions(leaders []int) map[int][]int {
	members := make(map[int][]int, len(leaders))
	for _, pid := range leaders {
		members[pid] = nil
	}
	if len(leaders) == 0 || !IsOwn() {
		return members
	}
	for _, pid := range PIDs() {
		leader := pid
		if _, asked := members[pid]; !asked {
			leader, _ = unix.Getsid(pid)
		}
		if _, asked := members[leader]; asked {
			members[leader] = append(members[leader], pid)
		}
	}
	return members
}

// Stat is what /proc/PID/stat says of a process (proc_pid_stat(5)).
type Stat struct {
	State                  byte // 'T': stopped by a signal
	Parent, Group, Session int
	Start                  uint64 // clock ticks after boot
	CPU                    uint64 // clock ticks, with those of children that it has waited for
	RSS                    uint64 // pages
	Exits                  bool   // it has ended or is about to: it has been sent SIGKILL, or is exiting
}

// ClockTicks is USER_HZ, which is 100 on all platforms of Go on Linux.
const ClockTicks = 100

// ReadStat reads it. An error: the process has ended, or is hidden (hidepid of proc(5)).
func ReadStat(pid int) (s Stat, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:]) // after the name, which may contain anything
	const first, last = 3, 31                                       // the numbers of the fields there, as far as they are read
	if err == nil && len(fields) <= last-first {
		err = unix.ESRCH
	}
	if err != nil {
		return s, err
	}
	var n [last + 1]uint64
	for i := first + 1; i <= last; i++ {
		n[i], _ = strconv.ParseUint(string(fields[i-first]), 10, 64) // a terminal's may be negative
	}
	const exiting = 0x4 // PF_EXITING in include/linux/sched.h
	state := fields[0][0]
	return Stat{
		State: state, Parent: int(n[4]), Group: int(n[5]), Session: int(n[6]),
		Start: n[22], CPU: n[14] + n[15] + n[16] + n[17], RSS: n[24],
		Exits: state == 'Z' || state == 'X' || n[9]&exiting != 0 || n[31]&(1<<(unix.SIGKILL-1)) != 0,
	}, nil
}

// Files returns the targets of a process's descriptors.
func Files(pid int) (files []string) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir) // a partial list is used too
	for _, entry := range entries {
		if file, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			files = append(files, file)
		}
	}
	return files
}

// Sockets returns the inodes of the sockets among a process's descriptors.
func Sockets(pid int) (inodes []uint64) {
	budget := math.MaxInt
	for inode, err := range SocketsOf(pid, &budget) {
		if err == nil {
			inodes = append(inodes, inode)
		}
	}
	return inodes
}
