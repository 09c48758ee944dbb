package supervisor

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/sockets"
)

func TestCounts(t *testing.T) {
	marks, err := sockets.New("shop", nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := marks.MarkBy(0xf0); err != nil {
		t.Fatal(err)
	}
	marked := func(inode uint32, slot int) sockets.Connection {
		return sockets.Connection{Inode: inode, Mark: 0xf | sockets.Mark(0xf0, slot)}
	}
	unmarked := func(inode uint32) sockets.Connection { return sockets.Connection{Inode: inode, Mark: 0xf} }
	worker := func(pid, slot int, alone bool) countable {
		return countable{&control.Worker{PID: pid}, slot, alone}
	}
	for _, test := range []struct {
		name    string
		where   sockets.Counting
		all     []sockets.Connection
		workers []countable
		held    map[int][]uint32 // by pid
		looked  []int            // pids of which the processes are looked at
		want    map[int]string
	}{
		{
			"no marks",
			sockets.Counting{},
			[]sockets.Connection{unmarked(9), unmarked(7), unmarked(8)},
			[]countable{worker(1, 0, true), worker(2, 1, true)},
			map[int][]uint32{1: {7, 9}, 2: {8, 9999}},
			[]int{1, 2},
			map[int]string{1: "2 sampled", 2: "1 sampled"},
		},
		{
			"no marks, nothing open",
			sockets.Counting{},
			nil,
			[]countable{worker(1, 0, true)},
			nil, nil,
			map[int]string{1: "0 sampled"},
		},
		{
			"marks", marks.Counting(),
			[]sockets.Connection{marked(1, 0), marked(2, 1), marked(3, 1)},
			[]countable{worker(1, 0, true), worker(2, 1, true), worker(3, 2, true)},
			nil, nil,
			map[int]string{1: "1 kernel", 2: "2 kernel", 3: "0 kernel"},
		},
		{
			"two on a slot", marks.Counting(),
			[]sockets.Connection{marked(1, 0), marked(2, 1), marked(3, 1)},
			[]countable{worker(1, 0, true), worker(2, 1, false), worker(3, 1, false)},
			map[int][]uint32{2: {2}, 3: {3}},
			[]int{2, 3},
			map[int]string{1: "1 kernel", 2: "1 sampled", 3: "1 sampled"},
		},
		{
			"some were there before the marks", marks.Counting(),
			[]sockets.Connection{marked(1, 0), unmarked(2)},
			[]countable{worker(1, 0, true), worker(2, 1, true)},
			map[int][]uint32{1: {2}, 2: {}},
			[]int{1, 2},
			map[int]string{1: "2 sampled", 2: "0 sampled"},
		},
		{
			"one counts its own", marks.Counting(),
			[]sockets.Connection{marked(1, 0), marked(2, 1)},
			[]countable{worker(1, 0, true)},
			nil, nil,
			map[int]string{1: "1 kernel"},
		},
		{
			"one can't be seen",
			sockets.Counting{},
			[]sockets.Connection{unmarked(1)},
			[]countable{worker(1, 0, true), worker(2, 1, true)},
			map[int][]uint32{1: {1}},
			[]int{1, 2},
			map[int]string{1: "1 sampled"},
		},
	} {
		var looked []int
		found := counts(test.all, test.where, test.workers, func(leaders []int, inodes []uint32) map[int][]uint32 {
			looked = leaders
			if !slices.IsSorted(inodes) {
				t.Errorf("%s: %d do not ascend", test.name, inodes)
			}
			held := map[int][]uint32{}
			for _, pid := range leaders {
				if all, known := test.held[pid]; known {
					held[pid] = slices.DeleteFunc(slices.Clone(all), func(i uint32) bool { return !slices.Contains(inodes, i) })
				}
			}
			return held
		})
		got := map[int]string{}
		for pid, c := range found {
			got[pid] = fmt.Sprint(c.connections, " ", c.by)
		}
		if !maps.Equal(got, test.want) || !slices.Equal(looked, test.looked) {
			t.Errorf("%s: %v, want %v; looked at %v, want %v", test.name, got, test.want, looked, test.looked)
		}
	}
}

// held is an app whose workers, processes of an unmodified program, have accepted so many
// connections each.
type held struct {
	set     *sockets.Set
	app     control.App
	port    int
	workers []program
}

// then is what they do then.
func hold(tb testing.TB, mask uint32, workers, each int, then string) *held {
	tb.Helper()
	set, err := sockets.New("shop", func(sockets.Holder) bool { return false }, nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(set.Close)
	if err := set.MarkBy(mask); err != nil {
		tb.Fatal(err)
	}
	line, err := set.Open([]Listener{{Name: "one", Network: "tcp", Host: "127.0.0.1", Balance: sockets.BalanceHash, Backlog: 4096}}, workers)
	if err != nil {
		tb.Fatal(err)
	}
	h := &held{set: set, port: line.Listeners(0)[0].Port}
	for slot := range workers {
		files, err := line.Files(slot)
		if err != nil {
			tb.Fatal(err)
		}
		serving := make([]*sockets.ListenerSet, workers)
		serving[slot] = line
		if err := set.Steer(serving); err != nil {
			tb.Fatal(err)
		}
		copied, err := unix.Dup(files[0])
		if err != nil {
			tb.Fatal(err)
		}
		file := os.NewFile(uintptr(copied), "listener")
		worker := python(tb, "s = socket.socket(fileno=3); one = lambda: s.accept()[0]", each, then, file)
		file.Close()
		h.app.Slots = append(h.app.Slots, control.Slot{Slot: slot, Workers: []control.Worker{{PID: worker.pid, Counted: "no"}}})
		h.workers = append(h.workers, worker)
		h.connect(tb, each)
		worker.line()
	}
	return h
}

// program is a running one, in a session of its own.
type program struct {
	tb     testing.TB
	pid    int
	input  io.Writer
	output *bufio.Reader
}

// python starts a program that holds so many of what its function one returns, writes a line,
// and does something then.
func python(tb testing.TB, one string, n int, then string, files ...*os.File) program {
	tb.Helper()
	const text = `
import os, resource, signal, socket
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
%s
held = [one() for i in range(%d)]
os.write(1, b"up\n")
%s`
	cmd := exec.Command("/usr/bin/python3", "-c", fmt.Sprintf(text, one, n, then))
	cmd.ExtraFiles, cmd.Stderr, cmd.SysProcAttr = files, os.Stderr, &syscall.SysProcAttr{Setsid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return program{tb, cmd.Process.Pid, input, bufio.NewReader(output)}
}

func (p program) line() {
	p.tb.Helper()
	if _, err := p.output.ReadString('\n'); err != nil {
		p.tb.Fatal(err)
	}
}

// connect starts a client that has so many connections with the app.
func (h *held) connect(tb testing.TB, n int) {
	tb.Helper()
	python(tb, fmt.Sprintf("one = lambda: socket.create_connection(('127.0.0.1', %d))", h.port), n, "os.read(0, 1)").line()
}

// measure returns the app as a status at that time shows it.
func (h *held) measure(c *counter, now time.Time) (said []string) {
	app := h.app
	app.Slots = slices.Clone(app.Slots)
	for i := range app.Slots {
		app.Slots[i].Workers = slices.Clone(app.Slots[i].Workers)
	}
	c.measure(&app, h.set.Counting(), now)
	for w := range workers(&app) {
		if w.Connections == nil {
			said = append(said, w.Counted)
		} else {
			said = append(said, fmt.Sprint(*w.Connections, " ", w.Counted))
		}
	}
	return said
}

// sampled is measure, when the sample that is due has been taken, however long that takes.
func (h *held) sampled(c *counter, now time.Time) (said []string) {
	for said = h.measure(c, now); c.pending != nil; said = h.measure(c, now) {
	}
	return said
}

// Figures are kept until a sample is due, which says all of it again.
func TestCounter(t *testing.T) {
	h := hold(t, 0, 2, 3, "os.read(0, 1)")
	var c counter
	now := time.Unix(1000, 0)
	want := func(when, expected string) {
		t.Helper()
		if got := fmt.Sprint(h.sampled(&c, now)); got != expected {
			t.Errorf("%s: %s, want %s", when, got, expected)
		}
	}
	want("at first", "[3 sampled 3 sampled]")
	due := c.due
	if due.Sub(now) < measureInterval {
		t.Errorf("the next sample is due after %v", due.Sub(now))
	}
	restarted := &h.app.Slots[1].Workers[0]
	restarted.StartedAt = now
	now = due.Add(-1)
	want("of another worker with the pid", "[3 sampled no]")
	now = due
	want("when it is due", "[3 sampled 3 sampled]")
	restarted.Counted = "worker"
	want("of one that counts itself", "[3 sampled worker]")
	if err := h.set.MarkBy(0xff); err != nil {
		t.Fatal(err)
	}
	restarted.Counted, now = "no", c.due
	want("of connections without marks", "[3 sampled 3 sampled]")
}

func TestCounterByMarks(t *testing.T) {
	h := hold(t, 0xff00, 2, 3, "os.read(0, 1)")
	var c counter
	if got := fmt.Sprint(h.sampled(&c, time.Now())); got != "[3 kernel 3 kernel]" {
		t.Error(got)
	}
	h.app.Leftovers = make([]control.Leftover, 1) // of a killed master: they may have some
	c.due = time.Time{}
	if got := fmt.Sprint(h.sampled(&c, time.Now())); got != "[3 sampled 3 sampled]" {
		t.Error(got)
	}
}

// Those who ask while a sample takes long, one after the other, wait for it together.
func TestCounterIsNotWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c := counter{pending: make(chan map[int]count), began: began}
		h := held{set: new(sockets.Set)}
		h.app.Slots = []control.Slot{{Workers: []control.Worker{{PID: 1, Counted: "no"}}}}
		for range 100 {
			if got := fmt.Sprint(h.measure(&c, time.Now())); got != "[no]" {
				t.Error(got)
			}
		}
		if waited := time.Since(began); waited < counterPatience || waited > 2*counterPatience {
			t.Errorf("they waited %v", waited)
		}
	})
}

// BenchmarkCounter counts 20,000 connections of 8 workers. It fails by what is this program's
// own: the kernel alone may take longer than the whole should.
func BenchmarkCounter(b *testing.B) {
	for name, c := range map[string]struct {
		mask      uint32
		want      string
		most, own time.Duration // of CPU, a sample
	}{
		"marks":       {0xff00, "2500 kernel", 15 * time.Millisecond, 3 * time.Millisecond},
		"descriptors": {0, "2500 sampled", 100 * time.Millisecond, 85 * time.Millisecond},
	} {
		b.Run(name, func(b *testing.B) {
			h := hold(b, c.mask, 8, 2500, "os.read(0, 1)")
			var used, kernels time.Duration
			for b.Loop() {
				began := cpuTime(b)
				fresh := counter{}
				got := h.measure(&fresh, time.Now())
				if late := fresh.pending; late != nil { // on a busy machine
					late <- <-late
					got = h.measure(&fresh, time.Now())
				}
				used += cpuTime(b) - began
				if slices.ContainsFunc(got, func(one string) bool { return one != c.want }) {
					b.Fatal(got)
				}
				began = cpuTime(b)
				bareDump(b, h.port)
				kernels += cpuTime(b) - began
			}
			used, kernels = used/time.Duration(b.N), kernels/time.Duration(b.N)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(used.Nanoseconds()), "cpu-ns/op")
			b.ReportMetric(float64(kernels.Nanoseconds()), "kernel-cpu-ns/op")
			if used > c.most && used-kernels > c.own {
				b.Errorf("%v of CPU, more than %v; without the kernel's dump %v, more than %v", used, c.most, used-kernels, c.own)
			}
		})
	}
}

// bareDump has the kernel dump the established connections of a port (sock_diag(7)), and
// reads no answer but the last.
func bareDump(tb testing.TB, port int) {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(fd)
	const byFamily, header, request = 20, unix.SizeofNlMsghdr, 56 // SOCK_DIAG_BY_FAMILY, struct inet_diag_req_v2
	ask := make([]byte, header+request)
	binary.NativeEndian.PutUint32(ask, header+request)
	binary.NativeEndian.PutUint16(ask[4:], byFamily)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	ask[header], ask[header+1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(ask[header+4:], 1<<unix.BPF_TCP_ESTABLISHED)
	binary.BigEndian.PutUint16(ask[header+8:], uint16(port))
	if _, err := unix.Write(fd, ask); err != nil {
		tb.Fatal(err)
	}
	answer := make([]byte, 32<<10)
	for kind := uint16(0); kind != unix.NLMSG_DONE; kind = binary.NativeEndian.Uint16(answer[4:]) {
		if _, err := unix.Read(fd, answer); err != nil {
			tb.Fatal(err)
		}
	}
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
