package sockets

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing/closingtest"
)

func unixAt(path string) Listener {
	return Listener{Name: "app", Network: "unix", Path: path, Perm: 0o660, Mode: ModeShared, Backlog: 64, Nonblocking: true}
}

func socketPath(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "app.sock")
}

// wantServed connects to the path and fails unless it arrives in the app.
func wantServed(t *testing.T, s *testApp, path string) {
	t.Helper()
	conn, err := net.DialTimeout("unix", path, waitTimeout)
	check(t, err)
	defer conn.Close()
	accept(t, s, 1)
}

func wantFiles(t *testing.T, path string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	check(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
}

func TestUnix(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	blocking := unixAt(path)
	blocking.Nonblocking = false
	s := open(t, 2, blocking)
	wantServed(t, s, path)
	wantFiles(t, path, ".app.sock.forkd", "app.sock")
	if l := s.listeners()[0]; l.Mode != ModeShared || l.Port != 0 || l.String() != "unix://"+path {
		t.Errorf("listener %+v", l)
	}
	first, err := s.files(0)
	check(t, err)
	second, err := s.files(7)
	check(t, err)
	if !slices.Equal(first, second) {
		t.Errorf("files %v and %v", first, second)
	}
	name, err := unix.Getsockname(first[0])
	check(t, err)
	if got := name.(*unix.SockaddrUnix).Name; got != path {
		t.Errorf("the socket says that it is at %q", got)
	}
	if changed, err := s.RestoreAll(); len(changed) != 0 || err != nil {
		t.Errorf("restored %v, %v", changed, err)
	}

	conn, err := net.Dial("unix", path)
	check(t, err)
	defer conn.Close()
	if n, known := s.Queue(0); n != 1 || !known {
		t.Errorf("queue %d, %v", n, known)
	}
	for _, slot := range []int{0, 1, 7} {
		check(t, s.CloseSlot(slot))
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("what was queued is neither served nor closed")
	}
	wantFiles(t, path)
	_, err = s.files(1)
	check(t, err)
	wantServed(t, s, path)
	s.Close()
	wantFiles(t, path)
}

// The mode is what was asked for, whatever the umask, and follows a new one.
func TestUnixMode(t *testing.T) {
	path := socketPath(t)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	mode := func() fs.FileMode {
		info, err := os.Stat(path)
		check(t, err)
		return info.Mode().Perm()
	}
	s := open(t, 1, unixAt(path))
	if mode() != 0o660 {
		t.Errorf("mode %v", mode())
	}
	wider := unixAt(path)
	wider.Perm = 0o666
	line, err := s.Open([]Listener{wider}, 1)
	check(t, err)
	if mode() != 0o666 {
		t.Errorf("mode %v after a new set", mode())
	}
	plain := unixAt(path)
	plain.Perm = 0
	without, err := s.Open([]Listener{plain}, 1)
	check(t, err)
	if mode() != 0o700 {
		t.Errorf("mode %v without one, with umask 077", mode())
	}
	s.Release(without)
	if mode() != 0o666 {
		t.Errorf("mode %v after its release", mode())
	}
	s.Release(line)
	if mode() != 0o660 {
		t.Errorf("mode %v after its release", mode())
	}
	wantNotices(t, s.Set)
	s.Close()
	open(t, 1, plain)
	if mode() != 0o700 {
		t.Errorf("mode %v with umask 077", mode())
	}
}

func TestUnixStale(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	for _, name := range []string{path, fileAt(path).second} {
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		check(t, err)
		ln.SetUnlinkOnClose(false)
		ln.Close()
	}
	s := open(t, 1, unixAt(path))
	wantServed(t, s, path)
}

func TestUnixHeld(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	h := startHolder(t, "HOLD_PATH="+path)
	held := (*HeldError)(nil)
	_, err := openApp([]Listener{unixAt(path)}, 2)
	if !errors.As(err, &held) {
		t.Fatalf("error %v", err)
	}
	wantError(t, err, "cannot listen on unix://"+path+": the path is held by ", sprint("(pid %d): stop it or choose another path", h.pid))
	conn, err := net.Dial("unix", path)
	check(t, err)
	conn.Close()
}

// The socket of workers that a killed master of this app has left is replaced;
// that of one who only says so is not.
func TestUnixLeftover(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	h := startHolder(t, "HOLD_PATH="+path, "FORKD_APP=shop")
	_, err := openApp([]Listener{unixAt(path)}, 2)
	wantError(t, err, sprint("pid %d): stop it or choose another path", h.pid))

	s, err := openOwn(workerAt(h.pid), nil, nil, []Listener{unixAt(path)}, 2)
	check(t, err)
	t.Cleanup(s.Close)
	wantServed(t, s, path)
}

func TestUnixRefused(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	dir := filepath.Dir(path)
	check(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	check(t, os.Mkdir(filepath.Join(dir, "dir"), 0o700))
	check(t, os.Symlink(path, filepath.Join(dir, "link")))
	check(t, os.WriteFile(filepath.Join(dir, ".taken.forkd"), nil, 0o600))
	for _, c := range []struct{ path, says string }{
		{filepath.Join(dir, "file"), "there is a regular file, and no socket: remove it or choose another path"},
		{filepath.Join(dir, "dir"), "there is a directory"},
		{filepath.Join(dir, "link"), "there is a symbolic link"},
		{filepath.Join(dir, "taken"), ".taken.forkd, and there is a regular file"},
		{filepath.Join(dir, "none", "app.sock"), "there is no directory " + filepath.Join(dir, "none") + ": make it"},
		{filepath.Join(dir, "file", "app.sock"), "is no directory"},
	} {
		_, err := openApp([]Listener{unixAt(c.path)}, 1)
		wantError(t, err, "cannot listen on unix://"+c.path, c.says)
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		t.Error(err)
	}
	longest := open(t, 1, unixAt(dir+"/"+strings.Repeat("x", 106-len(dir))))
	wantServed(t, longest, longest.listeners()[0].Path)

	two := unixAt(path)
	two.Name = "two"
	_, err := openApp([]Listener{unixAt(path), two}, 1)
	wantError(t, err, `listeners "app" and "two" overlap: give one another address`)
}

// A worker unlinks the path: it comes back, and the socket is the same.
func TestUnixUnlinked(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	s := open(t, 2, unixAt(path))
	before, err := s.files(0)
	check(t, err)
	check(t, os.Remove(path))
	wantRestored(t, s.Set, 0, "unix path bound again: "+path+" was unlinked")
	wantServed(t, s, path)
	after, err := s.files(0)
	check(t, err)
	if !slices.Equal(before, after) {
		t.Error("it is another socket")
	}

	// Somebody else has the path since: it is theirs, and said once.
	check(t, os.Remove(path))
	check(t, os.WriteFile(path, nil, 0o600))
	for range 2 {
		if changed, err := s.RestoreAll(); len(changed) != 0 || err != nil {
			t.Errorf("restored %v, %v", changed, err)
		}
	}
	wantNotices(t, s.Set, "somebody else has put a file at "+path)
	check(t, os.Remove(path))
	if undone, err := s.Restore(1); undone == "" || err != nil {
		t.Errorf("restored %v, %v", undone, err)
	}
	wantServed(t, s, path)

	// Both names gone: another socket, for workers to come.
	s.Notices()
	check(t, os.Remove(path))
	check(t, os.Remove(fileAt(path).second))
	wantRestored(t, s.Set, 0, "workers that run have the old one: `forkd reload shop` starts others")
	wantServed(t, s, path)
}

func TestUnixRestored(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	s := open(t, 2, unixAt(path))
	files, err := s.files(0)
	check(t, err)
	check(t, unix.Listen(files[0], 3))
	if undone, err := s.Restore(0); undone == "" || err != nil {
		t.Errorf("restored %v, %v", undone, err)
	}
	if state, err := inspectUnix(inode(files[0])); err != nil || state.backlog != 64 {
		t.Errorf("state %+v, %v", state, err)
	}
	check(t, unix.Shutdown(files[0], unix.SHUT_RDWR))
	if _, known := s.Queue(0); known {
		t.Error("a queue of a socket that was shut down")
	}
	wantRestored(t, s.Set, 0, "a worker has shut the socket down")
	wantServed(t, s, path)
	if changed, err := s.RestoreAll(); len(changed) != 0 || err != nil {
		t.Errorf("restored %v, %v", changed, err)
	}
}

// The directory goes: the old socket stays with its workers and what is queued
// there, and another is bound when the directory is back.
func TestUnixDirectoryGone(t *testing.T) {
	sameFiles(t)
	dir := filepath.Join(t.TempDir(), "run")
	check(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "app.sock")
	keeper := newStore(t)
	s := openGiven(t, nil, keeper, 2, unixAt(path))
	before, err := s.files(0)
	check(t, err)
	queued, err := net.Dial("unix", path)
	check(t, err)
	defer queued.Close()
	check(t, os.RemoveAll(dir))
	for range 3 {
		if changed, err := s.RestoreAll(); len(changed) != 0 || err != nil {
			t.Errorf("restored %v, %v", changed, err)
		}
	}
	wantNotices(t, s.Set, "no other can be bound yet: cannot listen on unix://"+path+": there is no directory "+dir)
	if n, known := s.Queue(0); n != 1 || !known {
		t.Errorf("queue %d, %v", n, known)
	}
	if after, err := s.files(0); err != nil || !slices.Equal(before, after) {
		t.Errorf("files %v, were %v; %v", after, before, err)
	}
	worker := dup(t, before[0])
	defer unix.Close(worker)

	check(t, os.Mkdir(dir, 0o700))
	wantRestored(t, s.Set, 0, "the path was unlinked, and workers that run have the old one")
	wantServed(t, s, path)
	if got := keeper.sockets(); got != "app.0" || len(keeper.fds["app.0"]) != 1 {
		t.Errorf("stored %q, %v", got, keeper.fds)
	}
	conn, _, err := unix.Accept4(worker, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatalf("what was queued in the old one: %v", err)
	}
	unix.Close(conn)
	if hungUp(worker) {
		t.Error("the workers' socket has been shut down")
	}
}

// A worker has shut systemd's socket down: only systemd can make another.
func TestUnixOfSystemdShutDown(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	file, err := ln.File()
	check(t, err)
	ln.SetUnlinkOnClose(false)
	ln.Close()
	given := []Passed{{FD: dup(t, int(file.Fd())), Name: "shop.socket"}}
	file.Close()
	s := openGiven(t, given, nil, 2, unixAt(path))
	check(t, unix.Shutdown(given[0].FD, unix.SHUT_RDWR))
	for range 3 {
		if changed, err := s.RestoreAll(); len(changed) != 0 || err != nil {
			t.Errorf("restored %v, %v", changed, err)
		}
	}
	wantNotices(t, s.Set, `a worker has shut the socket down that systemd passed as "shop.socket", which nothing undoes`)
	wantFiles(t, path, "app.sock")
}

// A client's first message may carry what holds close(2) up: TCP sockets that
// linger. The loop is not held, however the socket ends.
func TestUnixClosesWhatClientsSend(t *testing.T) {
	silent := closingtest.Silent(t)
	for name, end := range map[string]func(*testApp) error{
		"slot":     func(s *testApp) error { return s.CloseSlot(0) },
		"listener": func(s *testApp) error { s.Release(s.sets[0]); return nil },
		"app":      func(s *testApp) error { s.Close(); return nil },
		"shut down": func(s *testApp) error {
			if err := unix.Shutdown(s.bound[0].user(0).fd, unix.SHUT_RD); err != nil {
				return err
			}
			_, err := s.RestoreAll()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			sameFiles(t)
			path := socketPath(t)
			s := open(t, 1, unixAt(path))
			client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			check(t, err)
			defer unix.Close(client)
			check(t, unix.Connect(client, &unix.SockaddrUnix{Name: path}))
			check(t, closingtest.Send(client, 3, "x", silent))
			closingtest.Returns(t, "the loop", func() { check(t, end(s)) })
			closingtest.Returns(t, "the close(2)", func() { s.closer.Run(func() {}) })
			closingtest.Returns(t, "the client's connection", func() {
				if n, err := unix.Read(client, make([]byte, 1)); n > 0 {
					t.Errorf("read %d, %v", n, err)
				}
			})
		})
	}
}
