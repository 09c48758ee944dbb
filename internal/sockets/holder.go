package sockets

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// HeldError says that somebody else has a listener's port. Open returns it.
type HeldError struct {
	Listener Listener
	Holders  []Holder // masters first, then by pid; empty where they cannot be found
}

// Holder is a process that has a socket on the port, or a user where the
// process cannot be seen.
type Holder struct {
	PID    int    // 0: not known
	UID    uint32 // who made the socket
	Comm   string // the program's short name, as ps -o comm shows it
	App    string // the forkd app that the process belongs to, "" for a stranger
	Master bool   // the process is that app's master
}

// Error names the holder and says what to do.
func (e *HeldError) Error() string {
	text := fmt.Sprintf("cannot listen on %s: the port is held", e.Listener)
	if len(e.Holders) == 0 {
		return text + ": stop its holder (`ss -tanp` shows it to root) or choose another port"
	}
	text += " by " + e.Holders[0].String()
	if more := len(e.Holders) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text + ": stop it or choose another port"
}

// Leftovers reports whether the port is held by nothing but workers that a dead
// master of the app left behind. They drain and go by themselves: the caller
// may wait for them and open again.
func (e *HeldError) Leftovers(app string) bool {
	for _, h := range e.Holders {
		if h.App != app || h.Master {
			return false
		}
	}
	return app != "" && len(e.Holders) > 0
}

// String names the holder for a person.
func (h Holder) String() string {
	switch {
	case h.PID == 0:
		return fmt.Sprintf("a process of uid %d", h.UID)
	case h.Master:
		return fmt.Sprintf("app %q (forkd, pid %d)", h.App, h.PID)
	case h.App != "":
		return fmt.Sprintf("a worker of app %q (%s, pid %d)", h.App, h.Comm, h.PID)
	default:
		return fmt.Sprintf("%s (pid %d)", h.Comm, h.PID)
	}
}

// holders finds who keeps the endpoint from being bound. It reads all of /proc:
// only for an error message. What this user may not see stays out.
func holders(end endpoint) []Holder {
	owners := map[uint64]uint32{} // uid by inode
	for _, table := range tables(end) {
		readTable(table, end, owners)
	}
	var found []Holder
	seen := map[uint64]bool{}
	for _, pid := range processes() {
		held := heldBy(pid, owners)
		if len(held) == 0 {
			continue
		}
		for _, inode := range held {
			seen[inode] = true
		}
		h := Holder{PID: pid, UID: owners[held[0]], Comm: comm(pid)}
		h.App, h.Master = app(pid)
		found = append(found, h)
	}
	for inode, uid := range owners {
		if unseen := (Holder{UID: uid}); !seen[inode] && !slices.Contains(found, unseen) {
			found = append(found, unseen)
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
	case h.Master:
		return 0
	case h.PID != 0:
		return 1
	default:
		return 2
	}
}

// tables names the files of proc(5) that list what can conflict with end.
func tables(end endpoint) []string {
	switch {
	case end.addr.Is4() || end.dual:
		return []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}
	default:
		return []string{"/proc/thread-self/net/tcp6"}
	}
}

// readTable adds the sockets of the table on end's port. Listening ones come
// first in the table; the connections after them, which may be very many, are
// read only where no listener explains the conflict.
func readTable(path string, end endpoint, owners map[uint64]uint32) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	rows := bufio.NewScanner(file)
	rows.Scan() // the heading
	for rows.Scan() {
		fields := strings.Fields(rows.Text())
		if len(fields) < 10 {
			continue
		}
		if listening := fields[3] == "0A"; !listening && len(owners) > 0 {
			return
		}
		local, ok := parseLocal(fields[1])
		if !ok || !end.conflicts(local) {
			continue
		}
		uid, _ := strconv.ParseUint(fields[7], 10, 32)
		if inode, _ := strconv.ParseUint(fields[9], 10, 64); inode != 0 {
			owners[inode] = uint32(uid)
		}
	}
}

// conflicts reports whether a socket at local can keep e from being bound.
func (e endpoint) conflicts(local netip.AddrPort) bool {
	addr := local.Addr().Unmap()
	return int(local.Port()) == e.port &&
		(e.addr.IsUnspecified() || addr.IsUnspecified() || addr == e.addr)
}

// parseLocal reads an address of /proc/net/tcp: 32-bit words in host order,
// a colon, the port.
func parseLocal(text string) (netip.AddrPort, bool) {
	words, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(words)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	number, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr, uint16(number)), ok && err == nil
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

// app finds which app of forkd's a process belongs to. A master holds its
// runtime directory's lock, beside which stands its pid; a worker has FORKD_APP
// (docs/contract.md, sections 3, 9 and 10). The master is asked first: it may
// itself run as another app's worker.
func app(pid int) (name string, master bool) {
	for _, target := range links(pid) {
		if filepath.Base(target) != "lock" {
			continue
		}
		dir := filepath.Dir(target)
		number, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err == nil && strings.TrimSpace(string(number)) == strconv.Itoa(pid) {
			return filepath.Base(dir), true
		}
	}
	environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if value, found := strings.CutPrefix(string(entry), "FORKD_APP="); found {
			return value, false
		}
	}
	return "", false
}
