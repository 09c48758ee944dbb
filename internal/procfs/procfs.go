// Package procfs reads /proc/PID (proc(5)), as far as this user may.
package procfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

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
		Start: n[22], CPU: n[14] + n[15] + n[16] + n[17],
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

// Dir opens /proc/PID, to read below it of that very process, even if its pid is reused.
func Dir(pid int) (dir int, err error) {
	return unix.Open(fmt.Sprintf("/proc/%d", pid), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// Read appends a file below an open directory to text, at most so many bytes.
func Read(dir int, name string, most int, text []byte) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return text, err
	}
	defer unix.Close(fd)
	for most > 0 {
		if len(text) == cap(text) {
			text = append(text, make([]byte, max(512, len(text)))...)[:len(text)]
		}
		n, err := unix.Read(fd, text[len(text):min(len(text)+most, cap(text))])
		if err != nil || n <= 0 {
			return text, err
		}
		text, most = text[:len(text)+n], most-n
	}
	return text, nil
}

// Entries yields the names in an open directory from its position on, without allocating
// for each. A name is valid until the next one; a 0 follows it in memory.
func Entries(dir int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		const size, name = 16, 19 // offsets in struct linux_dirent64 (getdents64(2))
		buffer := make([]byte, 32<<10)
		for {
			n, err := unix.Getdents(dir, buffer)
			if err != nil || n <= 0 {
				return
			}
			for rest := buffer[:n]; len(rest) > name; rest = rest[binary.NativeEndian.Uint16(rest[size:]):] {
				if !yield(rest[name : name+bytes.IndexByte(rest[name:], 0)]) {
					return
				}
			}
		}
	}
}

// Link returns the target of a symbolic link below an open directory, as far as it fits
// into text. A 0 must follow the name in memory. It allocates nothing.
func Link(dir int, name []byte, text []byte) ([]byte, error) {
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(unsafe.SliceData(name))),
		uintptr(unsafe.Pointer(unsafe.SliceData(text))), uintptr(len(text)), 0, 0)
	if errno != 0 {
		return nil, errno
	}
	return text[:n], nil
}

// SocketInode returns the inode of the socket that is the target of a descriptor's link.
func SocketInode(target []byte) (inode uint64, isSocket bool) {
	number, isSocket := bytes.CutPrefix(target, []byte("socket:["))
	number, whole := bytes.CutSuffix(number, []byte("]"))
	if !isSocket || !whole {
		return 0, false
	}
	for _, digit := range number {
		if digit < '0' || digit > '9' {
			return 0, false
		}
		inode = 10*inode + uint64(digit-'0')
	}
	return inode, true
}

// SocketsOf yields the inodes of the sockets among a process's descriptors, of at most so
// many descriptors as budget says, which it counts down. Where it can't see all of them it
// yields why at last, unix.E2BIG if there are more. It allocates nothing for a descriptor:
// one takes 1 to 2 µs.
func SocketsOf(pid int, budget *int) iter.Seq2[uint64, error] {
	return func(yield func(uint64, error) bool) {
		dir, err := unix.Open(fmt.Sprintf("/proc/%d/fd", pid), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			yield(0, err)
			return
		}
		defer unix.Close(dir)
		target := make([]byte, 32) // more than "socket:[4294967295]"
		for name := range Entries(dir) {
			if name[0] == '.' {
				continue
			}
			if *budget--; *budget < 0 {
				yield(0, unix.E2BIG)
				return
			}
			link, err := Link(dir, name, target)
			if err != nil {
				continue // it has been closed
			}
			if inode, isSocket := SocketInode(link); isSocket && !yield(inode, nil) {
				return
			}
		}
	}
}

// NoAccess says why this process may not read the memory and descriptors of processes of
// that user, nor what they wait for, and what to grant; "": it may.
func NoAccess(uid int) string {
	scope, _ := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope") // without yama there is none
	return AccessRule(uid, os.Geteuid(), Holds(unix.CAP_SYS_PTRACE), strings.TrimSpace(string(scope)))
}

// AccessRule says why a process of one user, with CAP_SYS_PTRACE if all is set, may not
// read those of another (ptrace(2), "Ptrace access mode checking"). scope is that of yama
// (Documentation/admin-guide/LSM/Yama.rst).
func AccessRule(of, by int, all bool, scope string) string {
	const grant = "grant it (docker run --cap-add SYS_PTRACE; CapabilityBoundingSet= and AmbientCapabilities= of a unit)"
	switch {
	case scope == "3":
		return "kernel.yama.ptrace_scope is 3, until the next boot: set it to 1 in /etc/sysctl.d and restart the machine"
	case all:
		return ""
	case scope == "2":
		return "kernel.yama.ptrace_scope is 2, so that CAP_SYS_PTRACE is needed: " + grant + ", or set it to 1"
	case of != by:
		return fmt.Sprintf("the calls of another user's workers (uid %d) are read with CAP_SYS_PTRACE: %s, or run them as uid %d", of, grant, by)
	}
	return ""
}

// Holds reports whether this thread has a capability in effect (capabilities(7)).
func Holds(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var held [2]unix.CapUserData
	return unix.Capget(&header, &held[0]) == nil && held[capability/32].Effective&(1<<(capability%32)) != 0
}
