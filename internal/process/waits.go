package process

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// What one call of Waits looks at, at most: what workers do must not delay anybody else.
// Where there is more, each call looks at another part of it.
const (
	maxLooked  = 64        // processes
	maxThreads = 512       // of all of them
	maxPolled  = 4096      // descriptors that are polled
	maxSelect  = 1024      // descriptors of a set (FD_SETSIZE)
	maxSetText = 256 << 10 // bytes of fdinfo: about 2,900 descriptors in epoll sets
)

// Waits reports whether a process of the leader's session, or a descendant of one, waits
// for connections on a listening socket with one of the inodes: a thread is blocked in
// accept, poll or select with it, in epoll_wait with a set that it is in (events that it is
// not registered for do not count), or in io_uring_enter with an accept under way. It may
// not have seen all of a worker with more than 64 processes or 512 threads: the next call
// sees others. CanSee says whether it can be seen at all; of a 32-bit program it can't.
//
// A thread that runs at the time of the look is not seen to wait. A program may wait before
// it accepts: Go's runtime does as soon as it has listened. It takes 0.1 to 1 ms, and reads
// proc_pid_syscall(5) and proc_pid_fdinfo(5).
func Waits(leader int, inodes []uint64) bool {
	if len(inodes) == 0 || !procfs.IsOwn() {
		return false
	}
	l := look{inodes: inodes, threads: maxThreads, polled: maxPolled, setText: maxSetText}
	// The others are those whose parent has ended: this process is their subreaper. A list of
	// all processes would take longer than the rest.
	return l.tree([]int{leader}) || l.tree(slices.DeleteFunc(childrenOfMain(), func(pid int) bool {
		session, err := unix.Getsid(pid)
		return err != nil || session != leader
	}))
}

// look is one look at the processes of a worker.
type look struct {
	inodes                   []uint64
	threads, polled, setText int // that may still be looked at

	seen []int    // processes
	sets []string // epoll sets without the sockets: "PID/fdinfo/FD"
	text []byte   // of a file
}

// process is one that is looked at.
type process struct {
	*look
	pid, dir int // of /proc/PID
}

// tree looks at some processes and their descendants, in no order.
func (l *look) tree(pids []int) bool {
	for len(pids) > 0 && len(l.seen) < maxLooked {
		at := rand.IntN(len(pids))
		pid := pids[at]
		pids = slices.Delete(pids, at, at+1)
		if slices.Contains(l.seen, pid) {
			continue
		}
		l.seen = append(l.seen, pid)
		dir, err := procfs.Dir(pid)
		if err != nil {
			continue // it has ended
		}
		p := process{l, pid, dir}
		children, waits := p.waits()
		unix.Close(dir)
		if waits {
			return true
		}
		pids = append(pids, children...)
	}
	return false
}

// waits looks at the threads of a process, and returns its children where none waits.
func (p process) waits() (children []int, waits bool) {
	tasks, err := unix.Openat(p.dir, "task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, false
	}
	defer unix.Close(tasks)
	var stat unix.Stat_t
	// A link for each thread, beside . and ..
	if err := unix.Fstat(tasks, &stat); err == nil && int(stat.Nlink) > p.threads {
		_, _ = unix.Seek(tasks, rand.Int64N(int64(stat.Nlink)), unix.SEEK_SET)
	}
	for name := range procfs.Entries(tasks) {
		if name[0] == '.' {
			continue
		}
		if p.threads--; p.threads < 0 {
			break
		}
		thread := string(name)
		if p.text, err = procfs.Read(tasks, thread+"/syscall", 256, p.text[:0]); err == nil && p.waitsIn(p.text) {
			return nil, true
		}
		p.text, _ = procfs.Read(tasks, thread+"/children", 4096, p.text[:0])
		for field := range bytes.FieldsSeq(p.text) {
			if pid, err := strconv.Atoi(string(field)); err == nil {
				children = append(children, pid)
			}
		}
	}
	return children, false
}

// waitsIn reports whether a thread waits for a connection, by its /proc/TID/syscall: the
// number of the call in decimal and its six arguments in hexadecimal, or "running".
func (p process) waitsIn(text []byte) bool {
	fields := bytes.Fields(text)
	const arguments = 1
	if len(fields) < arguments+6 {
		return false
	}
	call, err := strconv.Atoi(string(fields[0]))
	if err != nil {
		return false
	}
	var args [6]uint64
	for i := range args {
		if args[i], err = strconv.ParseUint(string(fields[arguments+i]), 0, 64); err != nil {
			return false
		}
	}
	fd := int(int32(args[0]))
	switch call {
	case unix.SYS_ACCEPT, unix.SYS_ACCEPT4:
		return p.isSocket(fd)
	case sysEpollWait, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2:
		return p.hasInSet(fd)
	case sysPoll, unix.SYS_PPOLL:
		return p.polls(args[0], args[1])
	case sysSelect, unix.SYS_PSELECT6:
		return p.selects(args[0], args[1])
	case unix.SYS_IO_URING_ENTER:
		return p.accepts(fd)
	}
	return false
}

// target is what a descriptor of the process is; nil: there is none.
func (p process) target(fd int) []byte {
	name := append(strconv.AppendInt([]byte("fd/"), int64(fd), 10), 0)
	target, _ := procfs.Link(p.dir, name[:len(name)-1], make([]byte, 32))
	return target
}

func (p process) isSocket(fd int) bool {
	inode, isSocket := procfs.SocketInode(p.target(fd))
	return isSocket && slices.Contains(p.inodes, inode)
}

// waitsFor reports whether a polled descriptor is one of the sockets, or an epoll set that
// has one.
func (p process) waitsFor(fd int) bool {
	if p.polled--; p.polled < 0 {
		return false
	}
	target := p.target(fd)
	inode, isSocket := procfs.SocketInode(target)
	return isSocket && slices.Contains(p.inodes, inode) || string(target) == "anon_inode:[eventpoll]" && p.hasInSet(fd)
}

// hasInSet reports whether an epoll set has one of the sockets, for input.
func (p process) hasInSet(fd int) bool {
	name := "fdinfo/" + strconv.Itoa(fd)
	set := strconv.Itoa(p.pid) + name
	if p.setText <= 0 || slices.Contains(p.sets, set) {
		return false
	}
	p.sets = append(p.sets, set)
	text, _ := procfs.Read(p.dir, name, p.setText, p.text[:0])
	p.text, p.setText = text, p.setText-len(text)
	for line := range bytes.Lines(text) {
		// tfd:        6 events:       19 data:                6  pos:0 ino:3f3ec41 sdev:9
		inode, hasInode := hexAfter(line, "ino:")
		if hasInode && slices.Contains(p.inodes, inode) {
			if events, known := hexAfter(line, "events:"); known && isInput(events) {
				return true
			}
		}
	}
	return false
}

func hexAfter(line []byte, name string) (value uint64, known bool) {
	_, after, _ := bytes.Cut(line, []byte(name))
	if fields := bytes.Fields(after[:min(len(after), 32)]); len(fields) > 0 {
		value, err := strconv.ParseUint(string(fields[0]), 16, 64)
		return value, err == nil
	}
	return 0, false
}

// isInput reports whether events of poll or epoll include that a connection can be
// accepted.
func isInput(events uint64) bool {
	const rdNorm = 0x40 // POLLRDNORM, EPOLLRDNORM
	return events&(unix.POLLIN|rdNorm) != 0
}

func (p process) polls(fds, n uint64) bool {
	const size, events = 8, 4 // of struct pollfd, and the offset
	memory := p.memory(fds, size*min(n, maxPolled))
	for ; len(memory) >= size; memory = memory[size:] {
		if isInput(uint64(binary.NativeEndian.Uint16(memory[events:]))) && p.waitsFor(int(int32(binary.NativeEndian.Uint32(memory)))) {
			return true
		}
	}
	return false
}

func (p process) selects(n, set uint64) bool {
	const word = 64 // bits of an unsigned long
	n = min(n, maxSelect)
	memory := p.memory(set, (n+word-1)/word*word/8)
	for fd := range int(n) {
		at := fd / word * word / 8
		if at < len(memory) && binary.NativeEndian.Uint64(memory[at:])>>(fd%word)&1 != 0 && p.waitsFor(fd) {
			return true
		}
	}
	return false
}

// memory reads so many bytes of the process's memory.
func (p process) memory(at, size uint64) []byte {
	if at == 0 || size == 0 {
		return nil
	}
	memory := make([]byte, size)
	n, err := unix.ProcessVMReadv(p.pid, []unix.Iovec{{Base: &memory[0], Len: size}}, []unix.RemoteIovec{{Base: uintptr(at), Len: int(size)}}, 0)
	if err != nil {
		return nil
	}
	return memory[:n]
}

// accepts reports whether an accept is under way in an io_uring. Its fdinfo has the
// operations that wait for a file, not which file that is.
func (p process) accepts(ring int) bool {
	p.text, _ = procfs.Read(p.dir, "fdinfo/"+strconv.Itoa(ring), 64<<10, p.text[:0])
	_, waiting, _ := bytes.Cut(p.text, []byte("PollList:"))
	return bytes.Contains(waiting, []byte("op=13,")) && p.holds() // IORING_OP_ACCEPT
}

func (p process) holds() bool {
	budget := maxPolled
	for inode, err := range procfs.SocketsOf(p.pid, &budget) {
		if err == nil && slices.Contains(p.inodes, inode) {
			return true
		}
	}
	return false
}

// CanSee says why this process can't see what processes of that user wait for, and what to
// do about it; "" if it can. hidepid hides only what ptrace's rules forbid.
func CanSee(uid int) string {
	if !procfs.IsOwn() {
		return "/proc does not show this process's pid namespace: mount it there"
	}
	if _, err := os.ReadFile("/proc/self/syscall"); err != nil { // CONFIG_HAVE_ARCH_TRACEHOOK
		return "/proc/PID/syscall can't be read on this kernel"
	}
	return procfs.NoAccess(uid)
}
