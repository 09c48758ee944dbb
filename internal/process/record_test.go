package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// recording starts Children that record.
func recording(t *testing.T) (*Children, *os.File) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	records, err := NewRecords(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newChildren(t)
	c.Remember(records)
	return c, file
}

// listener is a socket, and its inode.
func listener(t *testing.T) (fd int, inode uint64) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		t.Fatal(err)
	}
	return fd, stat.Ino
}

func wantKnown(t *testing.T, p Predecessor, who string, pid, worker int) {
	t.Helper()
	if r, found := p.Find(pid, false); found != (worker != 0) || r.PID != worker {
		t.Errorf("%s, pid %d: found %t, of worker %d; want %d", who, pid, found, r.PID, worker)
	}
}

// A worker is recorded before it runs, and found with all that it starts.
func TestRecord(t *testing.T) {
	foreign := startMember(t)
	c, file := recording(t)
	fd, inode := listener(t)
	spec := shell(`sleep 1000 & echo $!; setsid sleep 1000 & echo $!; read line`)
	spec.Files, spec.Slot = []int{fd}, 5
	w := start(t, c, spec)
	child, moved := w.pidLine(t), w.pidLine(t)

	p := ReadPredecessor(file)
	self, _ := procfs.ReadStat(os.Getpid())
	if !p.IsMaster(os.Getpid()) || p.Master.Start != self.Start {
		t.Errorf("the master is %+v", p.Master)
	}
	s, _ := procfs.ReadStat(w.PID())
	if len(p.Workers) != 1 || p.Workers[0].PID != w.PID() || p.Workers[0].Start != s.Start || p.Workers[0].Slot != 5 || !slices.Equal(p.Workers[0].Sockets, []uint64{inode}) {
		t.Fatalf("recorded %+v, want pid %d, start %d, socket %d", p.Workers, w.PID(), s.Start, inode)
	}
	wantKnown(t, p, "the worker", w.PID(), w.PID())
	wantKnown(t, p, "its child", child, w.PID())
	eventually(t, "the other child has a session of its own", func() bool {
		session, err := unix.Getsid(moved)
		return err == nil && session == moved
	})
	wantKnown(t, p, "its child in another session", moved, w.PID())
	wantKnown(t, p, "a foreign process", foreign.pid, 0)
	wantKnown(t, p, "the test", os.Getpid(), 0)
	if members := p.Members(); !slices.Contains(members, child) || slices.Contains(members, foreign.pid) {
		t.Errorf("members %v", members)
	}

	// The pid belongs to another process now.
	other := p
	other.Workers = []Record{p.Workers[0]}
	other.Workers[0].Start++
	wantKnown(t, other, "one with a worker's pid", w.PID(), 0)
	wantKnown(t, other, "the child of one with a worker's pid", child, 0)
}

// A group whose leader was reaped counts if it has a socket of the leader's, or is in the
// unit's cgroup.
func TestRecordOfADeadLeader(t *testing.T) {
	fd, inode := listener(t)
	with := startMember(t, fd)
	without := startMember(t)
	for _, c := range []struct {
		member
		beside, want bool
	}{{with, false, true}, {with, true, true}, {without, false, false}, {without, true, true}} {
		p := Predecessor{Workers: []Record{{PID: c.leader, Start: 1, Sockets: []uint64{inode}}}}
		if _, found := p.Find(c.pid, c.beside); found != c.want {
			t.Errorf("a member of a dead leader's group, %+v: found %t, want %t", c, found, c.want)
		}
	}
}

// A process added by its cgroup is found from then on, with its group.
func TestRecordByPlace(t *testing.T) {
	fd, _ := listener(t)
	o := startMember(t, fd)
	var p Predecessor
	wantKnown(t, p, "one of nobody's", o.pid, 0)
	if r, added := p.Add(o.pid); !added || r.PID != o.pid || r.Slot != -1 {
		t.Errorf("recorded %+v", r)
	}
	wantKnown(t, p, "one that was added", o.pid, o.pid)
	if !slices.Contains(p.Members(), o.pid) || !p.Had(procfs.Sockets(o.pid)) {
		t.Errorf("recorded %+v", p.Workers)
	}
}

// member is a process whose group's leader is gone and reaped.
type member struct{ leader, pid int }

func startMember(t *testing.T, files ...int) member {
	t.Helper()
	r, w := pipe(t)
	attr := &os.ProcAttr{Files: []*os.File{nil, w, nil}, Sys: &syscall.SysProcAttr{Setsid: true}}
	for _, fd := range files {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(dup), "listener")
		defer file.Close()
		attr.Files = append(attr.Files, file)
	}
	leader, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "sleep 1000 >/dev/null & echo $!"}, attr)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	o := member{leader: leader.Pid}
	if _, err := fmt.Fscan(r, &o.pid); err != nil {
		t.Fatal(err)
	}
	if _, err := leader.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(o.pid, syscall.SIGKILL)
		_, _ = unix.Wait4(o.pid, nil, 0, nil) // ours, where this process is a subreaper
	})
	return o
}

// A worker has a line with its sockets before the fork: the child of a master killed at
// that moment is not foreign, but must not be signaled.
func TestRecordBeforeTheFork(t *testing.T) {
	c, file := recording(t)
	fd, inode := listener(t)
	line, _ := c.takeLine(recordOf(&Spec{Files: []int{0, 1, 2, fd}, Slot: 3}))
	p := ReadPredecessor(file)
	if !p.Had([]uint64{1, inode}) || p.Had([]uint64{1}) {
		t.Errorf("recorded %+v", p.Workers)
	}
	wantKnown(t, p, "nobody", 0, 0)

	// The line is free again for the next, and no other is taken.
	c.mu.Lock()
	c.freeLine(line)
	c.mu.Unlock()
	for range 3 {
		w := start(t, c, shell("exit 0"))
		receive(t, w.exited, "the worker's end")
		receive(t, w.gone, "its reaping")
	}
	if info, err := file.Stat(); err != nil || info.Size() != 2*recordSize {
		t.Errorf("%v, %v: want two lines", info.Size(), err)
	}
}

// Records from before a reboot and invalid ones are ignored.
func TestRecordsOfNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	self, _ := procfs.ReadStat(os.Getpid())
	own := line(os.Getpid(), self.Start, "0 77")
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":        "",
		"another boot": string(line(1, 1, strings.Repeat("0", len(boot)))) + string(own),
		"no head":      string(own),
		"garbage":      strings.Repeat("\x00-1 99999999999999999999 \n", 1000),
		"bad lines":    string(line(1, 1, boot)) + "x\n-5 3 1\n1\n99999999999999999999 1\n" + strings.Repeat(" ", 300) + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if p := ReadPredecessor(file); len(p.Workers) != 0 {
			t.Errorf("%s: %+v", name, p.Workers)
		}
		file.Close()
	}
	// Living workers are kept.
	text := slices.Concat(line(1, 1, boot), own, line(0, 0, "4 78 79"))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := ReadPredecessor(file)
	wantKnown(t, p, "the test", os.Getpid(), os.Getpid())
	if !p.Had([]uint64{79}) {
		t.Errorf("%+v", p.Workers)
	}
	if _, err := NewRecords(file, p.Workers[:1]); err != nil {
		t.Fatal(err)
	}
	if now := ReadPredecessor(file); len(now.Workers) != 1 || now.Workers[0].PID != os.Getpid() || !now.IsMaster(os.Getpid()) {
		t.Errorf("%+v", now)
	}
}

// The records move to the new file of the lock.
func TestRecordsMove(t *testing.T) {
	c, file := recording(t)
	first := start(t, c, shell("read line"))
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		t.Helper()
		to, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	for range 2 { // the second time there is nothing to move
		if err := c.MoveRecords(open()); err != nil {
			t.Fatal(err)
		}
	}
	second := start(t, c, shell("read line"))
	p := ReadPredecessor(open())
	wantKnown(t, p, "who was started before", first.PID(), first.PID())
	wantKnown(t, p, "who was started after", second.PID(), second.PID())
	if !p.IsMaster(os.Getpid()) || len(p.Workers) != 2 {
		t.Errorf("%+v", p)
	}
	if _, err := file.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the old file: %v", err)
	}
}

// Records that could not be written at the start begin later.
func TestRecordsBegin(t *testing.T) {
	c := newChildren(t)
	start(t, c, shell("read line"))
	file, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MoveRecords(file); err != nil {
		t.Fatal(err)
	}
	w := start(t, c, shell("read line"))
	wantKnown(t, ReadPredecessor(file), "who was started after", w.PID(), w.PID())
}
