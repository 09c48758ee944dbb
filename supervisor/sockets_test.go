package supervisor

import (
	"io/fs"
	"os"
	"reflect"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/sockets"
)

func TestListenerOwner(t *testing.T) {
	plain := Listener{Network: "unix", Path: "/run/app.sock"}
	for _, c := range []struct {
		l     Listener
		cfg   Config
		perm  fs.FileMode
		owner *sockets.Owner
	}{
		{plain, Config{Umask: -1}, 0, nil},
		{plain, Config{Umask: 0o027}, 0o750, nil},
		{Listener{Network: "unix", Perm: 0o666}, Config{Umask: 0o027}, 0o666, nil},
		{plain, Config{Umask: -1, User: &User{UID: 33, GID: 44}}, 0, &sockets.Owner{UID: 33, GID: 44}},
		{Listener{Network: "tcp"}, Config{Umask: 0o027, User: &User{UID: 33}}, 0, nil},
	} {
		got := c.l
		giveTo(&got, c.cfg)
		if got.Perm != c.perm || !reflect.DeepEqual(got.Owner, c.owner) {
			t.Errorf("%+v: mode %v, owner %+v", c, got.Perm, got.Owner)
		}
	}
}

// store is systemd's fd store.
type store struct{ passed []sockets.Passed }

func (s *store) Store(name string, fd int) {
	if fd, err := unix.Dup(fd); err == nil {
		s.passed = append(s.passed, sockets.Passed{FD: fd, Name: name})
	}
}

func (*store) Remove(string) {}

// What a killed master had learned from another user's workers is not learned again: the
// sockets are that user's.
func TestImplyOfAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a socket of another user's is made")
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(passed []sockets.Passed, keeper sockets.Keeper) *sockets.Set {
		t.Helper()
		s, err := sockets.New("shop", func(sockets.Holder) bool { return false }, passed, keeper)
		check(err)
		t.Cleanup(s.Close)
		return s
	}
	keeper := new(store)
	killed := open(nil, keeper)
	listeners, err := killed.Open(nil, 1)
	check(err)
	runtime.LockOSThread()
	_ = unix.Setfsuid(65534)
	program, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	_ = unix.Setfsuid(0)
	runtime.UnlockOSThread()
	check(err)
	defer unix.Close(program)
	check(unix.Bind(program, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	_, err = listeners.Learn(1, sockets.Program{Network: "tcp", Socket: program})
	check(err)

	e := &executor{sockets: open(keeper.passed, nil), slots: 1}
	for _, c := range []struct {
		user *User
		want int
	}{{nil, 0}, {&User{UID: 33}, 0}, {&User{UID: 65534}, 1}} {
		e.learned = nil
		e.imply(&release{cfg: Config{User: c.user}})
		if len(e.learned) != c.want || len(e.implied) > 0 {
			t.Errorf("user %+v: learned %+v, implied %+v", c.user, e.learned, e.implied)
		}
	}
}
