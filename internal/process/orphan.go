package process

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// Orphan is a process that has left its worker's group and lost its parent, so that this
// process, a subreaper, has become its parent. All but PID is the state when it was found,
// from the kernel; nothing is taken from its arguments or environment.
type Orphan struct {
	PID     int
	Session int
	Start   uint64    // clock ticks after boot; the greatest number if unknown
	Outputs [2]string // descriptors 1 and 2: "pipe:[4711]"; "" if unknown

	children *Children
	gone     bool // reaped: Children.mu
	line     int  // of its record; 0: none. Children.mu
}

// Orphans lists the orphans that live. An orphan listed before is the same pointer; a new
// one may be missed while another ends. Not for concurrent use.
func (c *Children) Orphans() []*Orphan {
	c.mu.Lock()
	var orphans, found []*Orphan
	among := slices.AppendSeq(childrenOfMain(), maps.Keys(c.orphans))
	slices.Sort(among)
	for _, pid := range c.adopted(slices.Compact(among)) {
		o := c.orphans[pid]
		if o == nil {
			o = &Orphan{PID: pid, children: c}
			found = append(found, o)
			c.orphans[pid] = o
		}
		orphans = append(orphans, o)
	}
	c.mu.Unlock()
	for _, o := range found { // without mu: there may be thousands
		o.look()
		c.recordOrphan(o)
	}
	return orphans
}

// recordOrphan records an orphan for the successor of a killed master, which can't find
// its worker by session or parent.
func (c *Children) recordOrphan(o *Orphan) {
	if c.shared || o.StartedAt().IsZero() {
		return
	}
	c.recording.RLock()
	defer c.recording.RUnlock()
	line, _ := c.takeLine(Record{PID: o.PID, Start: o.Start, Slot: -1, Sockets: procfs.Sockets(o.PID)})
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.gone {
		c.freeLine(line)
	} else {
		o.line = line
	}
}

// childrenOfMain lists the main thread's children, living and dead: the workers, and the
// orphans, which the kernel gives to the first living thread (find_new_reaper in
// kernel/exit.c). All processes with a kernel without CONFIG_PROC_CHILDREN, or another pid
// namespace's /proc.
func childrenOfMain() (pids []int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil {
		return procfs.PIDs()
	}
	for word := range strings.FieldsSeq(string(text)) {
		if child, err := strconv.Atoi(word); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// OrphanEnded receives when a listed orphan has ended.
func (c *Children) OrphanEnded() <-chan struct{} { return c.fewer }

// look fills in the rest. If the orphan is reaped meanwhile, this may be of another
// process; the orphan can't be signaled then.
func (o *Orphan) look() {
	o.Start = ^uint64(0)
	o.Session, _ = unix.Getsid(o.PID)
	if !procfs.IsOwn() {
		return
	}
	if s, err := procfs.ReadStat(o.PID); err == nil {
		o.Start = s.Start
	}
	for i := range o.Outputs {
		// Reading the link does not ask a file system, which might hang.
		o.Outputs[i], _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", o.PID, i+1))
	}
}

// StartedAt is when it began; zero if unknown.
func (o *Orphan) StartedAt() time.Time { return timeOf(o.Start) }

// Signal sends it a signal. os.ErrProcessDone: it has ended.
func (o *Orphan) Signal(sig syscall.Signal) error {
	o.children.mu.Lock()
	defer o.children.mu.Unlock()
	if o.gone {
		return os.ErrProcessDone
	}
	// Only this process can reap it, and only with mu.
	return os.NewSyscallError("kill", kill(o.PID, sig))
}
