package sockets

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

// store is a fd store: it has copies of its own, as systemd has.
type store struct {
	t     *testing.T
	fds   map[string][]int
	order []string // of Store
}

func newStore(t *testing.T) *store {
	s := &store{t: t, fds: map[string][]int{}}
	t.Cleanup(func() {
		for _, name := range s.names() {
			s.Remove(name)
		}
	})
	return s
}

func (s *store) Store(name string, fd int) {
	s.order = append(s.order, name)
	s.fds[name] = append(s.fds[name], dup(s.t, fd))
}

func (s *store) Remove(name string) {
	for _, fd := range s.fds[name] {
		unix.Close(fd)
	}
	delete(s.fds, name)
}

// names are those of the sockets in it.
func (s *store) names() []string { return slices.Sorted(maps.Keys(s.fds)) }

func (s *store) sockets() string {
	names := slices.DeleteFunc(s.names(), func(name string) bool { return name == recordName })
	return strings.Join(names, " ")
}

// want fails unless these sockets are stored.
func (s *store) want(t *testing.T, names string) {
	t.Helper()
	if got := s.sockets(); got != names {
		t.Errorf("stored %q, want %q", got, names)
	}
}

// passed is what a successor is started with.
func (s *store) passed() []Passed {
	var given []Passed
	for _, name := range s.names() {
		for _, fd := range s.fds[name] {
			given = append(given, Passed{FD: dup(s.t, fd), Name: name})
		}
	}
	return given
}

// recordOf is the record that an earlier master stored these sockets.
func recordOf(t *testing.T, given ...Passed) Passed {
	t.Helper()
	var r storeRecord
	for _, g := range given {
		r.Stored = append(r.Stored, cookie(g.FD))
	}
	text, err := json.Marshal(r)
	check(t, err)
	fd, err := unix.MemfdCreate(recordName, unix.MFD_CLOEXEC)
	check(t, err)
	_, err = unix.Pwrite(fd, text, 0)
	check(t, err)
	return Passed{FD: fd, Name: recordName}
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	check(t, err)
	return copied
}

// unitSockets binds and listens as a socket unit does: the test has copies until
// it ends, as systemd has.
func unitSockets(t *testing.T, name string, n int, at endpoint) (given []Passed, held []int) {
	t.Helper()
	for i := range n {
		var fd int
		var err error
		if fd, err = bindNth(at, i); n == 1 {
			check(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0))
		}
		check(t, err)
		err = unix.Listen(fd, 128)
		check(t, err)
		at.port, err = boundPort(fd)
		check(t, err)
		copied := dup(t, fd)
		t.Cleanup(func() { unix.Close(copied) })
		given, held = append(given, Passed{FD: fd, Name: name}), append(held, copied)
	}
	return given, held
}

// bindNth binds a socket of a group.
func bindNth(at endpoint, n int) (int, error) {
	how := first
	if n > 0 {
		how = joining
	}
	if at.port == 0 {
		port, release, err := ports.Take(1)
		if err != nil {
			return -1, err
		}
		defer release()
		at.port = port
	}
	return at.bind(Listener{Nonblocking: true}, how)
}

func portOf(t *testing.T, p Passed) int {
	t.Helper()
	port, err := boundPort(p.FD)
	check(t, err)
	return port
}

// openGiven opens one ListenerSet with passed sockets.
func openGiven(t *testing.T, given []Passed, keeper Keeper, slots int, ls ...Listener) *testApp {
	t.Helper()
	s, err := openPassed(given, keeper, ls, slots)
	check(t, err)
	t.Cleanup(s.Close)
	return s
}

func wantNotices(t *testing.T, s *Set, want ...string) {
	t.Helper()
	got := s.Notices()
	if len(got) != len(want) {
		t.Fatalf("notices %q, want %q", got, want)
	}
	for i, text := range want {
		if !strings.Contains(got[i], text) {
			t.Errorf("notice %q, want %q", got[i], text)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: sockets of another user are made")
	}
}
