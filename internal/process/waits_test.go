package process

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// lookJob in the environment makes the test binary say what it sees of a worker: a
// *watched as JSON.
const lookJob = "PROCESS_TEST_LOOK"

type watched struct {
	Leader int
	Inodes []uint64
	UID    int
}

func beLooking(text string) int {
	var w watched
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		fmt.Println(err)
		return 2
	}
	fmt.Printf("%t %q %v", Waits(w.Leader, w.Inodes), CanSee(w.UID), Held([]int{w.Leader}, nil))
	return 0
}

// listenTCP returns a listening socket and its inode.
func listenTCP(t testing.TB) (fd int, inode uint64) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		t.Fatal(err)
	}
	return fd, stat.Ino
}

// python is a program that is given a listening socket, s, and says when it has come to
// where it stays.
func python(script string, fd int) Spec {
	const begin = `
import ctypes, mmap, os, select, socket, struct, sys, threading, time
s = socket.socket(fileno=3)
def up(): os.write(1, b"up\n")
def stay():
  while True: time.sleep(1000)
def set(events):
  e = select.epoll()
  for pair in [os.pipe() for i in range(50)]: e.register(pair[0], select.EPOLLIN)
  e.register(s, events)
  return e
def accept_in_ring():
  libc, p = ctypes.CDLL(None), (ctypes.c_uint32 * 30)()
  ring = libc.syscall(425, 8, p)
  array, tail = p[16], p[11]
  queue = mmap.mmap(ring, array + 4 * p[0])
  entries = mmap.mmap(ring, 64 * p[0], offset=0x10000000)
  struct.pack_into("BBHi", entries, 0, 13, 0, 0, s.fileno())
  struct.pack_into("I", queue, tail, 1)
  return lambda new, done: libc.syscall(426, ring, new, done, 1, None, 0)
`
	return Spec{Path: "/usr/bin/python3", Args: []string{"python3", "-c", begin + script}, Env: []string{"PATH=/usr/bin:/bin"}, Umask: -1, Files: []int{fd}}
}

func TestWaits(t *testing.T) {
	scripts := map[string]string{
		"accept":                     "up(); s.accept()",
		"select":                     "up(); select.select([s] + list(os.pipe()), [], [])",
		"poll":                       "p = select.poll(); [p.register(f, select.POLLIN) for f in (os.pipe()[0], s)]; up(); p.poll()",
		"epoll":                      "e = set(select.EPOLLIN); up(); e.poll()",
		"epoll, with a timeout":      "e = set(select.EPOLLIN | select.EPOLLET | select.EPOLLEXCLUSIVE); up()\nwhile True: e.poll(timeout=30)",
		"poll of an epoll set":       "p = select.poll(); e = set(select.EPOLLIN); p.register(e, select.POLLIN); up(); p.poll()",
		"io_uring":                   "enter = accept_in_ring(); up(); enter(1, 1)",
		"a thread":                   "threading.Thread(target=s.accept).start(); up(); stay()",
		"a child":                    "os.fork() and stay(); up(); s.accept()",
		"a child in another session": "os.fork() and stay(); os.setsid(); os.fork() and stay(); up(); s.accept()",
		"an orphan":                  "if os.fork(): os.wait(); stay()\nos.fork() and os._exit(0); up(); s.accept()",
		"one of many threads":        "[threading.Thread(target=stay).start() for i in range(600)]; threading.Thread(target=s.accept).start(); up(); stay()",
	}
	workers := startAll(t, scripts)
	for name, w := range workers {
		eventually(t, name+": it waits", func() bool { return Waits(w.PID(), []uint64{1, w.inode}) })
	}
}

// holding is a worker that has a listening socket.
type holding struct {
	*worker
	inode uint64
}

// startAll starts programs, each with a socket of its own, and waits until they are up.
func startAll(t *testing.T, scripts map[string]string) map[string]holding {
	t.Helper()
	c, workers := newChildren(t), map[string]holding{}
	for name, script := range scripts {
		fd, inode := listenTCP(t)
		workers[name] = holding{start(t, c, python(script, fd)), inode}
	}
	for name, w := range workers {
		if line := w.line(t); line != "up" {
			t.Fatalf("%s: %s\n%s", name, line, w.rest(t))
		}
	}
	return workers
}

// What holds a listening socket and does not accept.
func TestWaitsForOthers(t *testing.T) {
	scripts := map[string]string{
		"sleeps":                 "up(); stay()",
		"computes":               "up()\nwhile True: pass",
		"has it in a set":        "e = set(select.EPOLLIN); up(); stay()",
		"has it in another set":  "e, o = set(select.EPOLLIN), select.epoll(); up(); o.poll()",
		"is not registered":      "e = set(0); up(); e.poll()",
		"has had its event":      "e = set(select.EPOLLIN | select.EPOLLONESHOT); socket.create_connection(s.getsockname()); e.poll(); up(); e.poll()",
		"polls for output":       "p = select.poll(); p.register(s, select.POLLERR); up(); p.poll()",
		"selects others":         "up(); select.select(list(os.pipe()), [], [s])",
		"waits in an empty ring": "enter = accept_in_ring(); c = socket.create_connection(s.getsockname()); enter(1, 1); up(); enter(0, 2)",
		"accepts on another":     "o = socket.socket(); o.listen(); up(); o.accept()",
		"polls too many":         "import resource; n = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 100000); resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)); f = (ctypes.c_uint64 * n)(*[0xffffffff] * n); up(); ctypes.CDLL(None).poll(f, n, -1)",
	}
	for name, w := range startAll(t, scripts) {
		if name != "computes" {
			eventually(t, name+": it is where it stays", func() bool { return state(w.PID()) == "S" })
		}
		for range 20 {
			if Waits(w.PID(), []uint64{w.inode}) {
				t.Fatalf("%s: it waits", name)
			}
		}
		if now := state(w.PID()); now != "S" && now != "R" {
			t.Errorf("%s: it has ended: %q", name, now)
		}
	}
}

// Go's runtime waits for it from listen(2) on.
func TestWaitsOfGo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	eventually(t, "this process waits", func() bool { return Waits(os.Getpid(), []uint64{stat.Ino}) })
}

func TestWaitsWithoutPrivilege(t *testing.T) {
	c := newChildren(t)
	fd, inode := listenTCP(t)
	other := start(t, c, python("up(); s.accept()", fd))
	other.line(t)
	look := func(leader, uid int) string {
		spec := master(t, job{}, &Credential{UID: nobody, GID: nobody})
		text, err := json.Marshal(watched{leader, []uint64{inode}, uid})
		if err != nil {
			t.Fatal(err)
		}
		spec.Env = []string{lookJob + "=" + string(text), "GORACE=atexit_sleep_ms=0"}
		return start(t, c, spec).rest(t)
	}
	if said := look(other.PID(), 0); !strings.HasPrefix(said, "false") || !strings.Contains(said, "another user") {
		t.Errorf("of root's: %s", said)
	}
	spec := python("up(); s.accept()", fd)
	spec.User = &Credential{UID: nobody, GID: nobody}
	own := start(t, c, spec)
	own.line(t)
	eventually(t, "it waits", func() bool { return strings.HasPrefix(look(own.PID(), nobody), `true ""`) })
}

func TestWaitsOfNobody(t *testing.T) {
	if Waits(os.Getpid(), nil) {
		t.Error("it waits without sockets")
	}
	if Waits(1<<30, []uint64{1}) {
		t.Error("nobody waits")
	}
}

func TestCanSee(t *testing.T) {
	if why := CanSee(os.Geteuid()); why != "" {
		t.Error(why)
	}
}

// What a thread has passed to a call may be gone, or never have been there.
func TestWaitsInBadArguments(t *testing.T) {
	dir, err := procfs.Dir(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	calls := []int{
		unix.SYS_ACCEPT, unix.SYS_ACCEPT4, sysEpollWait, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2,
		sysPoll, unix.SYS_PPOLL, sysSelect, unix.SYS_PSELECT6, unix.SYS_IO_URING_ENTER,
	}
	texts := []string{"", "running\n", "-1 0x7ffc 0x7f\n", "232 0x", "7 0x1 0x1 zz 0 0 0 0 0"}
	for _, call := range calls {
		for _, first := range []string{"0x0", "0x1", "0xffffffffffffffff", "0x7fffffff", "0x100000000"} {
			for _, second := range []string{"0x0", "0x8", "0xffffffffffffffff", "0x7fffffffffff"} {
				texts = append(texts, fmt.Sprintf("%d %s %s 0x0 0x0 0x0 0x0 0x7ffc 0x7f\n", call, first, second))
			}
		}
	}
	for _, text := range texts {
		p := process{&look{inodes: []uint64{1}, threads: 10, polled: 10, setText: 1 << 10}, os.Getpid(), dir}
		if p.waitsIn([]byte(text)) {
			t.Errorf("%q: it waits", text)
		}
	}
}

// BenchmarkWaits looks at a worker of three processes, 100 threads and an epoll set of
// 200 descriptors, which does not wait.
func BenchmarkWaits(b *testing.B) {
	const most = 4 * time.Millisecond
	fd, inode := listenTCP(b)
	w := start(b, newChildren(b), python(`
e = select.epoll()
for i in range(100): [e.register(f, select.EPOLLIN) for f in os.pipe()]
os.fork() and os.fork()
for i in range(33): threading.Thread(target=stay).start()
up(); e.poll()`, fd))
	for range 3 {
		w.line(b)
	}
	before := cpuTime(b)
	for b.Loop() {
		if Waits(w.PID(), []uint64{inode}) {
			b.Fatal("it waits")
		}
	}
	each := (cpuTime(b) - before) / time.Duration(b.N)
	b.ReportMetric(float64(each.Nanoseconds()), "cpu-ns/op")
	if each > most {
		b.Errorf("%v of CPU, more than %v", each, most)
	}
}

// cpuTime is what this process has used.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
