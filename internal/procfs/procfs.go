// Package procfs reads /proc/PID (proc(5)), as far as this user may.
package procfs

import (
	"bytes"
	"fmt"
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

// Stat returns the fields of /proc/PID/stat that follow the name, which may contain
// anything: the first is field 3, the state.
func Stat(pid int) (fields [][]byte, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	return bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:]), nil
}

// Exits reports whether a process with these fields of Stat has ended or is about to: it
// has been sent SIGKILL, or is exiting.
func Exits(fields [][]byte) bool {
	const flags, pending = 9 - 3, 31 - 3 // the state is field 3
	if len(fields) <= pending {
		return false
	}
	const exiting = 0x4 // PF_EXITING in include/linux/sched.h
	flag, _ := strconv.ParseUint(string(fields[flags]), 10, 64)
	signals, _ := strconv.ParseUint(string(fields[pending]), 10, 64)
	state := fields[0][0]
	return state == 'Z' || state == 'X' || flag&exiting != 0 || signals&(1<<(unix.SIGKILL-1)) != 0
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

// Sockets returns the inodes of the sockets among such targets.
func Sockets(files []string) (inodes []uint64) {
	for _, file := range files {
		if inode, isSocket := SocketInode([]byte(file)); isSocket {
			inodes = append(inodes, inode)
		}
	}
	return inodes
}
