package process

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inodesOf returns those of descriptors, ascending.
func inodesOf(t testing.TB, fds ...int) (inodes []uint32) {
	t.Helper()
	for _, fd := range fds {
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil {
			t.Fatal(err)
		}
		inodes = append(inodes, uint32(stat.Ino))
	}
	slices.Sort(inodes)
	return inodes
}

func TestHeld(t *testing.T) {
	c := newChildren(t)
	var fds [3]int
	for i := range fds {
		fds[i], _ = listenTCP(t)
	}
	all := inodesOf(t, fds[:]...)
	spec := func(script string, files ...int) Spec {
		s := python(script, files[0])
		s.Files = files
		return s
	}
	first := start(t, c, spec("os.fork(); up(); stay()", fds[0], fds[1])) // both have both
	second := start(t, c, spec("os.fork() or s.close(); up(); stay()", fds[2]))
	third := start(t, c, spec("s.close(); up(); stay()", fds[2]))
	for _, w := range []*worker{first, first, second, second, third} {
		w.line(t)
	}
	dead := 1 << 30
	got := Held([]int{first.PID(), second.PID(), third.PID(), dead}, all)
	_, known := got[dead]
	if !slices.Equal(got[first.PID()], inodesOf(t, fds[0], fds[1])) || !slices.Equal(got[second.PID()], inodesOf(t, fds[2])) ||
		len(got[third.PID()]) != 0 || known || len(got) != 3 {
		t.Errorf("%v of %v, in %d, %d, %d", got, all, first.PID(), second.PID(), third.PID())
	}
	if got := Held([]int{first.PID()}, nil); len(got) != 1 || len(got[first.PID()]) != 0 {
		t.Errorf("without sockets: %v", got)
	}
	if got := Held(nil, all); len(got) != 0 {
		t.Errorf("without workers: %v", got)
	}
	text, err := json.Marshal(watched{Leader: first.PID()})
	if err != nil {
		t.Fatal(err)
	}
	look := master(t, job{}, &Credential{UID: nobody, GID: nobody})
	look.Env = []string{lookJob + "=" + string(text), "GORACE=atexit_sleep_ms=0"}
	if said := start(t, c, look).rest(t); !strings.HasSuffix(said, " map[]") {
		t.Errorf("without privilege: %s", said)
	}
}

// A process in a session of its own has a socket that its leader has closed.
func TestHeldOutside(t *testing.T) {
	workers := startAll(t, map[string]string{
		"a child in another session": "if os.fork(): s.close(); os.wait()\nos.setsid(); up(); stay()",
		"nobody":                     "s.close(); up(); stay()",
	})
	var leaders []int
	for _, w := range workers {
		leaders = append(leaders, w.PID())
	}
	for name, w := range workers {
		eventually(t, name+": the leader has closed it", func() bool {
			held, known := Held([]int{w.PID()}, []uint32{uint32(w.inode)})[w.PID()]
			return known && len(held) == 0
		})
		if has := HeldOutside(leaders, uint32(w.inode)); has != (name != "nobody") {
			t.Errorf("%s: has it: %t", name, has)
		}
	}
}

// A worker that has more descriptors than are looked at has no figure, and costs no more.
func TestHeldByTooMany(t *testing.T) {
	fd, _ := listenTCP(t)
	w := start(t, newChildren(t), python("[os.pipe() for i in range(200)]; up(); stay()", fd))
	w.line(t)
	for budget, want := range map[int]bool{100: false, 500: true} {
		if found, known := heldBy([]int{w.PID()}, inodesOf(t, fd), budget); known != want || known != (len(found) == 1) {
			t.Errorf("of %d: %v, known: %t", budget, found, known)
		}
	}
	if _, known := heldBy([]int{w.PID(), w.PID()}, nil, 500); known {
		t.Error("two processes have as many each")
	}
}
