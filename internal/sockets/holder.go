package sockets

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// HeldError says that somebody else has a listener's port or path.
type HeldError struct {
	Listener Listener
	Holders  []Holder // masters first, then by pid; empty where they cannot be found
	Draining bool     // the holders are this app's own workers, of a set that has been released
}

// Holder is a process that has a socket on the port, or a user where it cannot be seen.
type Holder struct {
	PID     int      // 0: not known
	UID     uint32   // who made the socket
	Comm    string   // the program's short name, as ps -o comm shows it
	App     string   // the forkd app whose master the process is, "" for any other
	Sockets []uint64 // the inodes of those that it has there
}

// Error names the holder and says what to do.
func (e *HeldError) Error() string {
	what, tool := "port", "ss -tanp"
	if e.Listener.Network == "unix" {
		what, tool = "path", "ss -xlp"
	}
	text := fmt.Sprintf("cannot listen on %s: the %s is held", e.Listener, what)
	if len(e.Holders) == 0 {
		return fmt.Sprintf("%s: stop its holder (`%s` shows it to root) or choose another %s", text, tool, what)
	}
	who, more := e.Holders[0], ""
	if n := len(e.Holders) - 1; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	if e.Draining {
		return fmt.Sprintf("%s by draining workers of this app (%s, pid %d%s): try again when they are gone, after drain.timeout at the latest", text, who.Comm, who.PID, more)
	}
	return fmt.Sprintf("%s by %s%s: stop it or choose another %s", text, who, more, what)
}

// Only reports whether all holders that can be seen are of one kind, and there is one.
func (e *HeldError) Only(kind func(Holder) bool) bool {
	known := filter(e.Holders, func(h Holder) bool { return h.PID != 0 }) // others end at this moment, most likely
	return len(known) > 0 && len(filter(known, kind)) == len(known)
}

func (h Holder) String() string {
	switch {
	case h.PID == 0:
		return fmt.Sprintf("a process of uid %d", h.UID)
	case h.App != "":
		return fmt.Sprintf("app %q (forkd, pid %d)", h.App, h.PID)
	default:
		return fmt.Sprintf("%s (pid %d)", h.Comm, h.PID)
	}
}

// Holder finds who listens where a program's bind(2) has failed; false: nobody is seen to.
// It reads all of /proc.
func (p Program) Holder() (h Holder, ok bool) {
	at, ok := p.bindAddr()
	if !ok {
		return h, false
	}
	var found []Holder
	if at.path != "" {
		found = pathHolders(at.path)
	} else {
		found = holders(at.end)
	}
	if len(found) == 0 {
		return h, false
	}
	return found[0], true
}

// JoinHolders has a program's bind(2), which is about to go on, succeed where others listen,
// if all who are seen to are of one kind: beside sockets of the same user that have
// SO_REUSEPORT (socket(7)), as the Set's have, the kernel allows it. It returns the cookies
// (SO_COOKIE) of theirs, and reads all of /proc.
func (p Program) JoinHolders(kind func(Holder) bool) (theirs []uint64) {
	at, ok := p.bindAddr()
	if !ok || at.path != "" || !(&HeldError{Holders: holders(at.end)}).Only(kind) || share(p.Socket) != nil {
		return nil // bind(2) says why
	}
	for _, l := range at.end.taken() {
		theirs = append(theirs, l.cookie)
	}
	return theirs
}

// taken are the sockets that listen where the endpoint cannot be bound, as far as they are seen.
func (e endpoint) taken() []listening {
	all, _ := listeners(e.port)
	return filter(all, func(l listening) bool { return e.meets(l.group.endpoint()) })
}

// holders finds who listens where the endpoint cannot be bound. It reads all of /proc.
func holders(end endpoint) []Holder {
	owners := map[uint64]uint32{} // uid by inode
	for _, l := range end.taken() {
		owners[l.inode] = l.group.uid
	}
	return holdersOf(owners)
}

// pathHolders finds visible processes that listen on a socket file.
func pathHolders(path string) []Holder {
	owners := map[uint64]uint32{}
	_ = diagnoseUnix(0, listenState, 1<<unixDiagName, func(inode uint64, kind uint16, value []byte) {
		if kind == unixDiagName && strings.TrimSuffix(string(value), "\x00") == path {
			owners[inode] = 0
		}
	})
	return filter(holdersOf(owners), func(h Holder) bool { return h.PID != 0 })
}

func holdersOf(owners map[uint64]uint32) []Holder {
	var found []Holder
	unseen := maps.Clone(owners)
	for _, pid := range procfs.PIDs() {
		var held []uint64
		for _, inode := range procfs.Sockets(pid) {
			if _, wanted := owners[inode]; wanted && !slices.Contains(held, inode) {
				held = append(held, inode)
			}
		}
		if len(held) == 0 {
			continue
		}
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); errors.Is(err, fs.ErrNotExist) {
			continue // it has given up its memory, and will its descriptors
		}
		for _, inode := range held {
			delete(unseen, inode)
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		found = append(found, Holder{pid, owners[held[0]], strings.TrimSpace(string(comm)), app(pid), held})
	}
	isMaster := func(h Holder) int { return min(len(h.App), 1) }
	slices.SortStableFunc(found, func(a, b Holder) int { return isMaster(b) - isMaster(a) }) // /proc is sorted
	for _, uid := range slices.Compact(slices.Sorted(maps.Values(unseen))) {
		found = append(found, Holder{UID: uid})
	}
	return found
}

// app finds whose master a process is: a master has its runtime directory's lock open,
// and its pid stands beside it (docs/contract.md, Control socket).
func app(pid int) string {
	for _, file := range procfs.Files(pid) {
		dir, name := filepath.Split(file)
		if name == "lock" && strings.TrimSpace(firstBytes(dir+"pid")) == strconv.Itoa(pid) {
			return filepath.Base(dir)
		}
	}
	return ""
}

// firstBytes reads the beginning of a file that may be anybody's: it does not wait for a
// pipe, as os.File would.
func firstBytes(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var text [32]byte
	n, _ := unix.Read(fd, text[:])
	return string(text[:max(n, 0)])
}
