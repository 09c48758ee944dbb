package sockets

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Learn adds a listener at the address of a program's socket, which is bound to a port or
// path that the program had named, and does not listen: for 1 to 1024 slots, each with a
// socket that listens. The caller then puts Take's socket in the place of the program's,
// which holds the port for as long as somebody has a copy. If it fails nothing has changed
// (but a unix socket's file may be gone), and the error says what to do.
func (l *ListenerSet) Learn(slots int, p Program) (learned Listener, err error) {
	s := l.set
	if slots < 1 || slots > maxSlots || s.closed || !slices.Contains(s.sets, l) {
		return learned, fmt.Errorf("cannot learn a listener for %s: there are none", count(slots, "slot"))
	}
	asked, err := p.listener()
	if err != nil {
		return learned, fmt.Errorf("cannot learn where a program listens: %w", err)
	}
	asked.Learned = true
	asked.Name = freeName("", asked.PlainName(), l.Listeners(0))
	want, err := resolve(asked, slots, true)
	if err != nil {
		return learned, fmt.Errorf("cannot listen on %s: %w", asked, err)
	}
	if _, err := s.overlaps(asked, want); err != nil {
		return learned, err
	}
	b := s.newAddress(asked, want, true, nil)
	if asked.Network == "unix" {
		err = b.openAll(slots)
	} else {
		err = b.joinProgram(p.Socket, slots)
	}
	if err == nil {
		err = b.mode.steer()
	}
	if err != nil {
		b.close()
		return learned, explainLimit(err, slots)
	}
	l.served = append(l.served, &served{asked: asked, want: want, at: want, families: []family{{boundAddress: b}}})
	s.bound = append(s.bound, b)
	s.store(s.bound)
	return asked, nil
}

// Include adds the learned listeners of another set that this one has not: they have been
// learned since it was opened.
func (l *ListenerSet) Include(from *ListenerSet) {
	for _, e := range from.served {
		if b := e.families[0].boundAddress; b.learned && !l.has(b) {
			l.served = append(l.served, &served{asked: e.asked, want: e.want, at: e.at, families: []family{{boundAddress: b}}})
		}
	}
}

// HasLearned reports whether the set has a learned listener still, or one that declares it.
func (l *ListenerSet) HasLearned(learned Listener) bool {
	want, err := resolve(learned, 1, true)
	return err == nil && slices.ContainsFunc(l.served, func(e *served) bool { return e.families[0].learned && e.want.same(want) })
}

// listener is what would have forkd listen where the program's socket is bound.
func (p Program) listener() (l Listener, err error) {
	at, err := localAddr(p.Socket)
	switch {
	case err != nil:
		return l, err
	case p.Network == "unix":
		file := fileAt(filepath.Clean(p.Path))
		if err := file.identify(p.Socket, file.path); err != nil {
			return l, fmt.Errorf("%s is not the file of its socket: %w", p.Path, err)
		}
		stat := statOf(file.info)
		l = Listener{Network: "unix", Path: file.path, Perm: file.info.Mode().Perm(), Owner: &Owner{stat.Uid, stat.Gid}, Mode: ModeShared}
	case at.end.port == 0:
		return l, errors.New("its socket is not bound")
	case p.onDevice():
		return l, errors.New("its socket is bound to a device (SO_BINDTODEVICE), which forkd's listeners are not")
	default:
		l = at.end.listener()
		l.Owner = socketOwner(p.Socket)
		l.Mode, l.Balance = ModeReuseport, BalanceHash
		freebind, err := unix.GetsockoptInt(p.Socket, unix.IPPROTO_IP, unix.IP_FREEBIND)
		l.Freebind = err == nil && freebind != 0
	}
	l.Backlog, l.Nonblocking = DefaultBacklog, p.Nonblocking
	return l, nil
}

// socketOwner is whose a socket is, which tells who may bind others beside it.
func socketOwner(fd int) *Owner {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil
	}
	return &Owner{stat.Uid, stat.Gid}
}

// LearnedFrom is the user whose workers' sockets a learned listener's are.
func (l Listener) LearnedFrom() (uid int) {
	if l.Network == "unix" || l.Owner == nil {
		return os.Geteuid()
	}
	return int(l.Owner.UID)
}

func (p Program) onDevice() bool {
	device, err := unix.GetsockoptInt(p.Socket, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	return err == nil && device != 0
}

// PlainName is what a configuration calls the listener by default: its port or file.
func (l Listener) PlainName() string {
	if l.Network != "unix" {
		return strconv.Itoa(l.Port)
	}
	name := strings.Map(func(r rune) rune { // LISTEN_FDNAMES separates names by colons
		if strings.ContainsRune("._-", r) || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, filepath.Base(l.Path))
	if name = strings.Trim(name, "._-"); name == "" {
		return "unix"
	}
	return name
}

// joinProgram binds the slots' sockets beside a program's socket, as sockets of its user
// (socket(7), SO_REUSEPORT): so the kernel refuses what it would refuse to the program, to
// join another user's sockets above all, and no other user can join these.
func (b *boundAddress) joinProgram(program, slots int) error {
	was, err := unix.GetsockoptInt(program, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	if err == nil {
		err = share(program) // sets both
	}
	if err == nil {
		err = b.openAll(slots)
	}
	if err != nil {
		_ = unix.SetsockoptInt(program, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0)
		_ = unix.SetsockoptInt(program, unix.SOL_SOCKET, unix.SO_REUSEADDR, was)
	}
	return err
}

// asUser runs f with the file accesses of a user (setfsuid(2)) of no group, whose the sockets
// are then that it makes.
func asUser(uid int, f func()) {
	own := os.Geteuid()
	if uid == own {
		f()
		return
	}
	runtime.LockOSThread() // of this thread alone
	defer runtime.UnlockOSThread()
	groups, _ := unix.Getgroups()
	setGroups(nil)
	_ = unix.Setfsgid(nogroup)
	_ = unix.Setfsuid(uid) // where it is forbidden, bind(2) fails
	f()
	_ = unix.Setfsuid(own)
	_ = unix.Setfsgid(os.Getegid())
	setGroups(groups)
}

// nogroup is the kernel's overflow group.
const nogroup = 65534

// setGroups sets the supplementary groups of this thread, where unix.Setgroups sets those of
// all threads.
func setGroups(groups []int) {
	ids := make([]uint32, len(groups))
	for i, id := range groups {
		ids[i] = uint32(id)
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(ids)), uintptr(unsafe.Pointer(unsafe.SliceData(ids))), 0)
}
