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
)

// Record says which process a worker is, for the successor of a killed master: a
// pid may be given to another process, a pid with its start time is not.
type Record struct {
	PID     int
	Start   uint64 // clock ticks after boot, field 22 of proc_pid_stat(5)
	Slot    int    // -1: not known
	Sockets []uint64
}

// Records is the file in which a master records its workers: lines of recordSize
// bytes, each written at once. The first is the master's own. Whoever is started
// has a line before it is forked, with the inodes of its sockets, and the shim
// adds pid and start time before it becomes the program: no worker runs that is
// not recorded. A line is used again when the worker's group has ended.
//
// Its fields belong to Children.mu once it is given to Remember.
type Records struct {
	file *os.File
	used []bool // by line
}

// The layout of a line: pid and start time, which the shim writes, then slot and
// inodes.
const (
	recordSize = 128
	recordPID  = "%10d %20d "
	maxSockets = 8 // inodes of 10 digits at most: they are 32-bit (get_next_ino in fs/inode.c)
)

// NewRecords makes the file this process's own. Of what it holds only keep
// stays, those of its predecessor's workers that live.
func NewRecords(file *os.File, keep []Record) (*Records, error) {
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("cannot record workers: %w", err)
	}
	self, _ := readStat(os.Getpid())
	text := line(os.Getpid(), self.start, boot)
	for _, k := range keep {
		text = append(text, k.line()...)
	}
	if _, err = file.WriteAt(text, 0); err == nil {
		err = file.Truncate(int64(len(text)))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot record workers: %w", err)
	}
	return &Records{file: file, used: slices.Repeat([]bool{true}, 1+len(keep))}, nil
}

func (r Record) line() []byte {
	rest := fmt.Append(nil, r.Slot+1) // 0: not known
	for _, inode := range r.Sockets[:min(len(r.Sockets), maxSockets)] {
		rest = fmt.Appendf(rest, " %d", inode)
	}
	return line(r.PID, r.Start, string(rest))
}

func line(pid int, start uint64, rest string) []byte {
	return fmt.Appendf(nil, "%-*s\n", recordSize-1, fmt.Sprintf(recordPID, pid, start)+rest)
}

// Remember has every worker that is started from now on recorded.
func (c *Children) Remember(r *Records) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records = r
}

// MoveRecords has the workers recorded in another file, which it takes over: the one
// so far has lost its name. It may block on the file system.
func (c *Children) MoveRecords(to *os.File) error {
	c.mu.Lock()
	r := c.records
	c.mu.Unlock()
	if r == nil { // they could not be written at the start
		r, err := NewRecords(to, nil)
		if err == nil {
			c.Remember(r)
		}
		return err
	}
	from := r.file // nobody else replaces it
	old, _ := from.Stat()
	if now, err := to.Stat(); err != nil || os.SameFile(old, now) {
		to.Close()
		return err
	}
	text, err := copyRecords(to, from, nil)
	if err != nil {
		to.Close()
		return err
	}
	c.mu.Lock()
	r.file = to
	c.mu.Unlock()
	defer from.Close()
	_, err = copyRecords(to, from, text) // of shims that were forked before
	return err
}

// copyRecords copies the lines that are not as they were before.
func copyRecords(to, from *os.File, before []byte) (text []byte, err error) {
	text, err = io.ReadAll(io.NewSectionReader(from, 0, maxRecords))
	for at := 0; at < len(text) && err == nil; at += recordSize {
		line := text[at:min(at+recordSize, len(text))]
		if at >= len(before) || !bytes.HasPrefix(before[at:], line) {
			_, err = to.WriteAt(line, int64(at))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot record workers: %w", err)
	}
	return text, nil
}

// reserve takes a line for a worker that is about to be forked. fd is for the shim to
// write pid and start time.
func (c *Children) reserve(spec *Spec) (line, fd int, err error) {
	worker := Record{Slot: spec.Slot}
	const standard = 3 // input, output, error: no sockets of the app's
	for _, file := range spec.Files[min(standard, len(spec.Files)):] {
		var stat unix.Stat_t
		if unix.Fstat(file, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
			worker.Sockets = append(worker.Sockets, stat.Ino)
		}
	}
	return c.takeLine(worker)
}

// takeLine writes a record into a free line, and returns the file for the caller to
// close. Line 0 and -1: nothing is recorded. A line that can't be written, on a full
// disk, keeps nobody from starting.
func (c *Children) takeLine(r Record) (line, fd int, err error) {
	c.mu.Lock()
	if c.records == nil {
		c.mu.Unlock()
		return 0, -1, nil
	}
	if fd, err = unix.FcntlInt(c.records.file.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		c.mu.Unlock()
		return 0, -1, os.NewSyscallError("fcntl", err)
	}
	if line = slices.Index(c.records.used, false); line < 0 {
		line = len(c.records.used)
		c.records.used = append(c.records.used, false)
	}
	c.records.used[line] = true
	c.mu.Unlock()
	_, _ = unix.Pwrite(fd, r.line(), int64(line)*recordSize)
	return line, fd, nil
}

// freeLine gives a line back; 0: there was none. It is called with mu held.
func (c *Children) freeLine(line int) {
	if line > 0 {
		c.records.used[line] = false
	}
}

// record adds to the line who this is. It is called in the shim, which has no
// business in the file any more when the master is dead: it may be its successor's.
func (p *plan) record(line int) {
	self, known := readStat(os.Getpid())
	if line > 0 && known && ownProc() && unix.Getppid() == p.Parent {
		_, _ = unix.Pwrite(p.Files+planRecord, fmt.Appendf(nil, recordPID, os.Getpid(), self.start), int64(line)*recordSize)
	}
}

// Predecessor is what a master that was killed has recorded. It is nothing after
// a clean end.
type Predecessor struct {
	Master  Record
	Workers []Record // whose sockets count even where they live no more
}

// maxRecords bounds what is read of a file of records: more than a master with
// the most workers has, in the middle of a roll.
const maxRecords = 64 << 10 * recordSize

// ReadPredecessor reads a file of records. What was written before the last boot
// is of nobody who lives.
func ReadPredecessor(file *os.File) (p Predecessor) {
	text, _ := io.ReadAll(io.NewSectionReader(file, 0, maxRecords)) // what could be read counts
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

// Find returns the record of the worker that a process is or belongs to: by its
// pid and start time, by its session or process group, or by those of a process
// that it descends from. The number of a session or group is not given to another
// process while there is a member, so that a leader that lives must be the one
// that was recorded. Where it has ended, the process must have one of its sockets,
// or beside says that it stands where nobody else's can: in the unit's cgroup.
func (p *Predecessor) Find(pid int, beside bool) (worker Record, found bool) {
	if !ownProc() {
		return Record{}, false
	}
	for range maxAncestors {
		s, known := readStat(pid)
		if !known || pid <= 1 {
			return Record{}, false
		}
		for _, r := range p.Workers {
			if r.PID > 0 && r.has(pid, s, beside) {
				return r, true
			}
		}
		pid = s.parent
	}
	return Record{}, false
}

func (r Record) has(pid int, s stat, beside bool) bool {
	switch {
	case r.PID == pid:
		return r.Start == s.start
	case r.PID != s.session && r.PID != s.group:
		return false
	}
	leader, lives := readStat(r.PID)
	if lives {
		return leader.start == r.Start
	}
	return beside || slices.ContainsFunc(Sockets(pid), func(inode uint64) bool { return slices.Contains(r.Sockets, inode) })
}

// Add records a process that is known to be the predecessor's by its place, with
// its session and process group: whoever joins them is too.
func (p *Predecessor) Add(pid int) (worker Record, added bool) {
	s, known := readStat(pid)
	if !known {
		return Record{}, false
	}
	worker = Record{PID: pid, Start: s.start, Slot: -1, Sockets: Sockets(pid)}
	p.Workers = append(p.Workers, worker)
	for _, leader := range []int{s.group, s.session} {
		if leader != pid && leader > 0 {
			p.Workers = append(p.Workers, Record{PID: leader, Slot: -1}) // who has ended, or is no leftover
		}
	}
	return worker, true
}

// Members returns the processes that are in the session or process group of a
// worker, by the numbers alone.
func (p *Predecessor) Members() (pids []int) {
	for _, pid := range readPIDs() {
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
	s, known := readStat(pid)
	return known && ownProc() && pid == p.Master.PID && s.start == p.Master.Start
}

// Had reports whether one of the sockets was a worker's. Whoever holds such a one
// has it from the predecessor, directly or not. That is no reason to signal it: a
// descriptor can be sent to anybody.
func (p *Predecessor) Had(sockets []uint64) bool {
	return slices.ContainsFunc(p.Workers, func(r Record) bool {
		return slices.ContainsFunc(r.Sockets, func(inode uint64) bool { return slices.Contains(sockets, inode) })
	})
}

// bootID tells this boot of the machine from others.
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(text)), err
}
