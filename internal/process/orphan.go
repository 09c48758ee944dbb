package process

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Orphan is a process that has left its worker's group, lost its parent and fallen
// to this process as subreaper. All but PID is what was seen when it was found, and
// what the kernel says: arguments and environment are the process's own words.
type Orphan struct {
	PID     int
	Session int
	Start   uint64    // clock ticks after boot; the greatest number where not known
	Outputs [2]string // what descriptors 1 and 2 are, "pipe:[4711]"; "" where not known

	children *Children
	gone     bool // reaped: Children.mu
	line     int  // of its record; 0: none. Children.mu
}

// Orphans lists those that live. One that was listed before is the same again, a new
// one may be missed while another ends. Not for more than one goroutine.
func (c *Children) Orphans() []*Orphan {
	c.mu.Lock()
	var orphans, found []*Orphan
	among := c.childrenOfMain()
	for pid := range c.orphans {
		if !slices.Contains(among, pid) {
			among = append(among, pid)
		}
	}
	for _, pid := range c.adopted(among) {
		o := c.orphans[pid]
		if o == nil {
			o = &Orphan{PID: pid, children: c}
			found = append(found, o)
			c.orphans[pid] = o
		}
		orphans = append(orphans, o)
	}
	c.mu.Unlock()
	for _, o := range found { // not with mu held: there may be thousands
		o.look()
		c.recordOrphan(o)
	}
	return orphans
}

// recordOrphan has the successor of a killed master know it: no session or parent
// leads back to a worker.
func (c *Children) recordOrphan(o *Orphan) {
	if c.shared || o.StartedAt().IsZero() {
		return
	}
	line, fd, err := c.takeLine(Record{PID: o.PID, Start: o.Start, Slot: -1, Sockets: Sockets(o.PID)})
	if err != nil {
		return // it is without a record, as a worker would be
	}
	unix.Close(fd)
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.gone {
		c.freeLine(line)
	} else {
		o.line = line
	}
}

// openChildren opens the list of the main thread's children: the workers, and the
// orphans, which the kernel gives to the first thread that lives (find_new_reaper in
// kernel/exit.c). It is kept open, so that a look costs little. nil: a kernel without
// CONFIG_PROC_CHILDREN, or another pid namespace's /proc.
func openChildren() *os.File {
	if !ownProc() {
		return nil
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), "children")
}

func (c *Children) childrenOfMain() (pids []int) {
	const most = 1 << 20 // bytes: more pids than there can be
	text, err := io.ReadAll(io.NewSectionReader(c.listed, 0, most))
	if err != nil {
		return readPIDs()
	}
	for word := range strings.FieldsSeq(string(text)) {
		if child, err := strconv.Atoi(word); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// OrphanEnded receives when one of the orphans that were listed has ended.
func (c *Children) OrphanEnded() <-chan struct{} { return c.fewer }

// look fills in what is known of it. Should it be reaped meanwhile, what is read
// may be another's: then nobody asks any more, as it can't be signaled.
func (o *Orphan) look() {
	o.Start = ^uint64(0)
	o.Session, _ = unix.Getsid(o.PID)
	if !ownProc() {
		return
	}
	if s, known := readStat(o.PID); known {
		o.Start = s.start
	}
	for i := range o.Outputs {
		// Reading the link asks no file system, which might hang.
		o.Outputs[i], _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", o.PID, i+1))
	}
}

// StartedAt is when it began, by the clock as it goes now; zero where not known.
func (o *Orphan) StartedAt() time.Time {
	now := ticksNow()
	if o.Start > now {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(now-o.Start) * time.Second / clockTicks)
}

// Signal sends it a signal. os.ErrProcessDone: it has ended.
func (o *Orphan) Signal(sig syscall.Signal) error {
	o.children.mu.Lock()
	defer o.children.mu.Unlock()
	if o.gone {
		return os.ErrProcessDone
	}
	// Only this process can reap it, and not while mu is held.
	return os.NewSyscallError("kill", kill(o.PID, sig))
}

// ticksNow is the time since boot in clock ticks.
func ticksNow() uint64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return uint64(t.Sec)*clockTicks + uint64(t.Nsec)/(uint64(time.Second)/clockTicks)
}
