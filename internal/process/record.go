package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// Record identifies a worker for the successor of a killed master: by pid and start time,
// since a pid alone may be reused.
type Record struct {
	PID     int
	Start   uint64 // clock ticks after boot, field 22 of proc_pid_stat(5)
	Slot    int    // -1: unknown
	Sockets []uint64
}

// Records is the file in which a master records its workers, a line of recordSize bytes
// for each, written at once. The first line is the master's own. A line is written before
// the fork, with the inodes of the worker's sockets; the child adds pid and start time
// before it becomes the program. So every running worker is recorded. A line is used again
// when the worker's group has ended.
//
// Once it is given to Remember, Children.recording guards file, Children.mu used.
type Records struct {
	file *os.File
	used []bool // by line
}

// A line has pid and start time, written by the child, then slot and inodes.
const (
	recordSize  = 128
	recordPID   = "%10d %20d "
	recordStart = 11       // where the second begins
	maxSockets  = 8        // inodes of 10 digits: they have 32 bits (get_next_ino in fs/inode.c)
	maxRecords  = 64 << 10 // more than a master with the most workers has during a roll
)

// NewRecords starts new records in file, with keep: the predecessor's workers that live.
func NewRecords(file *os.File, keep []Record) (*Records, error) {
	boot, err := bootID()
	self, _ := procfs.ReadStat(os.Getpid())
	text := line(os.Getpid(), self.Start, boot)
	for _, k := range keep {
		text = append(text, k.line()...)
	}
	if err == nil {
		_, err = file.WriteAt(text, 0)
	}
	if err == nil {
		err = file.Truncate(int64(len(text)))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot record workers: %w", err)
	}
	return &Records{file: file, used: slices.Repeat([]bool{true}, 1+len(keep))}, nil
}

func (r Record) line() []byte {
	rest := fmt.Append(nil, r.Slot+1) // 0: unknown
	for _, inode := range r.Sockets[:min(len(r.Sockets), maxSockets)] {
		rest = fmt.Appendf(rest, " %d", inode)
	}
	return line(r.PID, r.Start, string(rest))
}

func line(pid int, start uint64, rest string) []byte {
	return fmt.Appendf(nil, "%-*s\n", recordSize-1, string(recordHead(pid, start))+rest)
}

func recordHead(pid int, start uint64) []byte { return fmt.Appendf(nil, recordPID, pid, start) }

// Remember sets the records for all later starts. Call it before the first one.
func (c *Children) Remember(r *Records) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records = r
}

// MoveRecords moves the records to another file and takes it over: the old one has been
// removed. It waits for starts, whose children write to the old one, and for the file system.
func (c *Children) MoveRecords(to *os.File) error {
	c.recording.Lock()
	defer c.recording.Unlock()
	r := c.records
	if r == nil { // they could not be written at the start
		r, err := NewRecords(to, nil)
		if err == nil {
			c.Remember(r)
		}
		return err
	}
	old, _ := r.file.Stat()
	now, err := to.Stat()
	if err != nil || os.SameFile(old, now) {
		to.Close()
		return err
	}
	text, err := readRecords(r.file)
	if err == nil {
		_, err = to.WriteAt(text, 0)
	}
	if err != nil {
		to.Close()
		return fmt.Errorf("cannot record workers: %w", err)
	}
	r.file.Close()
	r.file = to
	return nil
}

func readRecords(file *os.File) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(file, 0, maxRecords*recordSize))
}

// recordOf is the record of a worker before the fork.
func recordOf(spec *Spec) Record {
	r := Record{Slot: spec.Slot}
	const standard = 3 // input, output, error
	for _, file := range spec.Files[min(standard, len(spec.Files)):] {
		var stat unix.Stat_t
		if unix.Fstat(file, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
			r.Sockets = append(r.Sockets, stat.Ino)
		}
	}
	return r
}

// takeLine writes a record into a free line, and returns it with the file; line 0 and -1 if
// there are no records. A failed write, on a full disk, is no error. The caller holds
// recording.
func (c *Children) takeLine(r Record) (line, fd int) {
	// Without mu, as it may block.
	defer func() { _, _ = unix.Pwrite(fd, r.line(), int64(line)*recordSize) }()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.records == nil {
		return 0, -1
	}
	if line = slices.Index(c.records.used, false); line < 0 {
		line = len(c.records.used)
		c.records.used = append(c.records.used, false)
	}
	c.records.used[line] = true
	return line, int(c.records.file.Fd())
}

// freeLine frees a line; 0: there is none. The caller holds mu.
func (c *Children) freeLine(line int) {
	if line > 0 {
		c.records.used[line] = false
	}
}

// Predecessor is what a killed master has recorded; empty after a clean end.
type Predecessor struct {
	Master  Record
	Workers []Record // with those that have ended, for their sockets
}

// ReadPredecessor reads a file of records. Records from before the last boot are ignored.
func ReadPredecessor(file *os.File) (p Predecessor) {
	text, _ := readRecords(file) // a part of it is used too
	head, rest, _ := bytes.Cut(text, []byte("\n"))
	written := ""
	_, _ = fmt.Sscan(string(head), &p.Master.PID, &p.Master.Start, &written)
	if boot, err := bootID(); err != nil || written != boot {
		return Predecessor{}
	}
	for line := range bytes.Lines(rest) {
		if r, ok := parseRecord(line); ok {
			p.Workers = append(p.Workers, r)
		}
	}
	return p
}

func parseRecord(line []byte) (r Record, ok bool) {
	var numbers []uint64
	for field := range strings.FieldsSeq(string(line)) {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return r, false
		}
		numbers = append(numbers, n)
	}
	if len(numbers) < 3 {
		return r, false
	}
	return Record{PID: int(numbers[0]), Start: numbers[1], Slot: int(numbers[2]) - 1, Sockets: numbers[3:]}, true
}

// Find returns the record of the worker that a process is or belongs to: by pid and start
// time, by session or process group, or by those of an ancestor. The kernel gives the
// number of a session or group to no other process while it has a member, so a living
// leader must be the recorded process. If the leader has ended, the process must have one
// of the worker's sockets, or inUnit says that it is in the unit's cgroup.
func (p *Predecessor) Find(pid int, inUnit bool) (worker Record, found bool) {
	for pid, s := range ancestors(pid) {
		for _, r := range p.Workers {
			if r.PID > 0 && r.has(pid, s, inUnit) {
				return r, true
			}
		}
	}
	return Record{}, false
}

func (r Record) has(pid int, s procfs.Stat, inUnit bool) bool {
	switch {
	case r.PID == pid:
		return r.Start == s.Start
	case r.PID != s.Session && r.PID != s.Group:
		return false
	}
	if leader, err := procfs.ReadStat(r.PID); err == nil {
		return leader.Start == r.Start
	}
	return inUnit || haveCommon(r.Sockets, procfs.Sockets(pid))
}

// Alive returns the records of the workers that live.
func (p *Predecessor) Alive() (workers []Record) {
	for _, r := range p.Workers {
		if s, err := procfs.ReadStat(r.PID); r.PID > 0 && err == nil && s.Start == r.Start && !s.Exits {
			workers = append(workers, r)
		}
	}
	return workers
}

// Add records a process that is the predecessor's because it is in the unit's cgroup, and
// its session and process group: later members belong to the predecessor too.
func (p *Predecessor) Add(pid int) (worker Record, added bool) {
	s, err := procfs.ReadStat(pid)
	if err != nil {
		return Record{}, false
	}
	worker = Record{PID: pid, Start: s.Start, Slot: -1, Sockets: procfs.Sockets(pid)}
	p.Workers = append(p.Workers, worker)
	for _, leader := range []int{s.Group, s.Session} {
		if leader != pid && leader > 0 {
			p.Workers = append(p.Workers, Record{PID: leader, Slot: -1}) // it has ended, or is found by itself
		}
	}
	return worker, true
}

// Members returns the processes with the session or process group number of a worker.
func (p *Predecessor) Members() (pids []int) {
	for _, pid := range procfs.PIDs() {
		group, err := unix.Getpgid(pid)
		if err != nil {
			continue
		}
		session, _ := unix.Getsid(pid)
		if slices.ContainsFunc(p.Workers, func(r Record) bool { return r.PID > 0 && (r.PID == group || r.PID == session) }) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// IsMaster reports whether a process is the predecessor itself, about to end.
func (p *Predecessor) IsMaster(pid int) bool {
	s, err := procfs.ReadStat(pid)
	return err == nil && procfs.IsOwn() && pid == p.Master.PID && s.Start == p.Master.Start
}

// Had reports whether one of the sockets was a worker's. Its holder has it from the
// predecessor, directly or not, but must not be signaled: a descriptor can be sent to
// any process.
func (p *Predecessor) Had(sockets []uint64) bool {
	return slices.ContainsFunc(p.Workers, func(r Record) bool { return haveCommon(r.Sockets, sockets) })
}

func haveCommon(a, b []uint64) bool {
	return slices.ContainsFunc(a, func(inode uint64) bool { return slices.Contains(b, inode) })
}

// bootID is different after each boot of the machine.
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(text)), err
}
