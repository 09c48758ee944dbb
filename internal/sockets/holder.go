package sockets

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HeldError says that somebody else has a listener's port or path.
// Set.Open and ListenerSet.Files return it.
type HeldError struct {
	Listener Listener
	Holders  []Holder // masters first, then by pid; empty where they cannot be found
	Draining bool     // the holders are this app's own workers, of a lineup that has been released
}

// Holder is a process that has a socket on the port, or a user where the
// process cannot be seen.
type Holder struct {
	PID  int    // 0: not known
	UID  uint32 // who made the socket
	Comm string // the program's short name, as ps -o comm shows it
	App  string // the forkd app whose master the process is, "" for any other

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

// Only reports whether the port is held by nothing but processes of one kind, as
// far as holders can be seen.
func (e *HeldError) Only(kind func(Holder) bool) bool {
	only := false
	for _, h := range e.Holders {
		switch {
		case h.PID == 0: // one of them that ends at this moment, most likely
		case !kind(h):
			return false
		default:
			only = true
		}
	}
	return only
}

// String names the holder for a person.
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

// holders finds who listens where the endpoint cannot be bound. It reads all of
// /proc: only for an error message. What this user may not see stays out.
func holders(end endpoint) []Holder {
	owners := map[uint64]uint32{} // uid by inode
	all, _ := listeners(end.port) // where the kernel can't be asked nobody is named
	for _, l := range all {
		if end.meets(l.kin.endpoint()) {
			owners[l.inode] = l.kin.uid
		}
	}
	return holdersOf(owners)
}

// pathHolders finds who listens behind a socket file of this network namespace. The
// kernel does not say whose user it is: only processes that can be seen are found.
func pathHolders(path string) []Holder {
	owners := map[uint64]uint32{}
	inodes, _ := unixListeners(path) // where the kernel can't be asked nobody is named
	for _, inode := range inodes {
		owners[inode] = 0
	}
	return slices.DeleteFunc(holdersOf(owners), func(h Holder) bool { return h.PID == 0 })
}

// holdersOf finds the processes that have sockets, by inode.
func holdersOf(owners map[uint64]uint32) []Holder {
	var found []Holder
	seen := map[uint64]bool{}
	for _, pid := range processes() {
		held := heldBy(pid, owners)
		if len(held) == 0 || ends(pid) {
			continue
		}
		for _, inode := range held {
			seen[inode] = true
		}
		found = append(found, Holder{PID: pid, UID: owners[held[0]], Comm: comm(pid), App: app(pid), Sockets: held})
	}
	for inode, uid := range owners {
		same := func(h Holder) bool { return h.PID == 0 && h.UID == uid }
		if !seen[inode] && !slices.ContainsFunc(found, same) {
			found = append(found, Holder{UID: uid})
		}
	}
	slices.SortFunc(found, func(a, b Holder) int {
		return cmp.Or(rank(a)-rank(b), cmp.Compare(a.PID, b.PID))
	})
	return found
}

// rank sorts those first that an operator would stop.
func rank(h Holder) int {
	switch {
	case h.App != "":
		return 0
	case h.PID != 0:
		return 1
	default:
		return 2
	}
}

func processes() []int {
	names, _ := filepath.Glob("/proc/[0-9]*")
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(filepath.Base(name)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// heldBy returns which of the inodes the process has a descriptor of.
func heldBy(pid int, owners map[uint64]uint32) []uint64 {
	var held []uint64
	for _, target := range links(pid) {
		number, isSocket := strings.CutPrefix(target, "socket:[")
		inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
		if _, wanted := owners[inode]; isSocket && err == nil && wanted && !slices.Contains(held, inode) {
			held = append(held, inode)
		}
	}
	return held
}

// links returns what the process's descriptors are, as far as it may be seen.
func links(pid int) []string {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	targets := make([]string, 0, len(entries))
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			targets = append(targets, target)
		}
	}
	return targets
}

func comm(pid int) string {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(name))
}

// ends reports whether a process has given up its memory but not yet its
// descriptors, as one that ends does.
func ends(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return errors.Is(err, fs.ErrNotExist)
}

// app finds whose master a process is, for an error message: a master holds its
// runtime directory's lock, beside which stands its pid (docs/contract.md, section
// 9).
func app(pid int) string {
	for _, target := range links(pid) {
		if filepath.Base(target) != "lock" {
			continue
		}
		dir := filepath.Dir(target)
		if strings.TrimSpace(start(filepath.Join(dir, "pid"))) == strconv.Itoa(pid) {
			return filepath.Base(dir)
		}
	}
	return ""
}

// start is the beginning of a file that may be anybody's: a pipe is not waited
// for, and what has no end is not read to it.
func start(path string) string {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	var text [32]byte
	n, _ := file.Read(text[:])
	return string(text[:n])
}
