package sockets

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

// heldError opens a listener on a port that is held.
func heldError(t *testing.T, l Listener) *HeldError {
	t.Helper()
	sameFiles(t)
	s, err := openApp([]Listener{l}, 2)
	if err == nil {
		s.Close()
		t.Fatal("two share the port in silence")
	}
	held := (*HeldError)(nil)
	if !errors.As(err, &held) {
		t.Fatalf("error %v", err)
	}
	if len(held.Holders) != 1 {
		t.Fatalf("holders %+v", held.Holders)
	}
	return held
}

// The holder is of the same user and has SO_REUSEPORT on: it is a stranger all
// the same, on its own address and on every one that contains it.
func TestHeldByStranger(t *testing.T) {
	h := startHolder(t)
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", h.pid))
	check(t, err)
	name := string(comm[:len(comm)-1])
	for _, host := range []string{"", "127.0.0.1", "0.0.0.0"} {
		held := heldError(t, tcp("http", host, h.port))
		wantError(t, held, fmt.Sprintf("cannot listen on %s:%d: the port is held by %s (pid %d): stop it or choose another port", host, h.port, name, h.pid))
		has := held.Holders[0]
		if has.PID != h.pid || has.UID != uint32(os.Getuid()) || has.Comm != name || has.App != "" || len(has.Sockets) != 1 {
			t.Errorf("holder %+v, want pid %d (%s) of uid %d with one socket", has, h.pid, name, os.Getuid())
		}
	}
	open(t, 1, tcp("http", "127.0.0.2", h.port))
}

// What a holder says of itself counts for nothing.
func TestHeldByOneWhoSaysItIsOurs(t *testing.T) {
	h := startHolder(t, "FORKD_APP=shop")
	held := heldError(t, tcp("http", "", h.port))
	wantError(t, held, fmt.Sprintf("(pid %d): stop it or choose another port", h.pid))
	if held.Only(strangers) || !held.Only(workerAt(h.pid)) {
		t.Error("the holder is not asked about, or not believed in")
	}
}

// A live master is named as such.
func TestHeldByMaster(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shop")
	check(t, os.Mkdir(dir, 0o700))
	h := startHolder(t, "HOLD_LOCK="+dir)
	held := heldError(t, tcp("http", "", h.port))
	wantError(t, held, fmt.Sprintf(`held by app "shop" (forkd, pid %d)`, h.pid))
}

// A stranger who looks like a master keeps nobody waiting.
func TestHeldByOneWithAPipe(t *testing.T) {
	dir := t.TempDir()
	h := startHolder(t, "HOLD_LOCK="+dir)
	pipe := filepath.Join(dir, "pid")
	check(t, os.Remove(pipe))
	check(t, unix.Mkfifo(pipe, 0o600))
	late := time.AfterFunc(waitTimeout, func() {
		t.Error("the pipe is waited for")
		if end, err := os.OpenFile(pipe, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			end.Close() // which ends the wait
		}
	})
	defer late.Stop()
	wantError(t, heldError(t, tcp("http", "", h.port)), fmt.Sprintf("(pid %d): stop it or choose another port", h.pid))
}

// A listener that was removed comes back while workers that drain have its socket.
func TestHeldByOurOwnDraining(t *testing.T) {
	sameFiles(t)
	h := startHolder(t)
	s, err := openOwn(workerAt(h.pid), nil, nil, []Listener{tcp("http", "127.0.0.1", ports.Free(t, 1))}, 1)
	check(t, err)
	t.Cleanup(s.Close)
	_, err = s.Open([]Listener{tcp("http", "127.0.0.1", s.port("http")), tcp("again", "127.0.0.1", h.port)}, 1)
	wantError(t, err, fmt.Sprintf("cannot listen on 127.0.0.1:%d: the port is held by draining workers of this app (", h.port),
		fmt.Sprintf("pid %d): try again when they are gone, after drain.timeout at the latest", h.pid))
	other := startHolder(t)
	_, err = s.Open([]Listener{tcp("again", "127.0.0.1", other.port)}, 1)
	wantError(t, err, fmt.Sprintf("pid %d): stop it or choose another port", other.pid))
}

func TestHeldErrorText(t *testing.T) {
	l := tcp("http", "::1", 80)
	for want, holders := range map[string][]Holder{
		"cannot listen on [::1]:80: the port is held by a process of uid 33: stop it or choose another port":                {{UID: 33}},
		"cannot listen on [::1]:80: the port is held by nginx (pid 7) and 2 more: stop it or choose another port":           {{PID: 7, Comm: "nginx"}, {PID: 8}, {PID: 9}},
		"cannot listen on [::1]:80: the port is held: stop its holder (`ss -tanp` shows it to root) or choose another port": nil,
	} {
		if got := (&HeldError{Listener: l, Holders: holders}).Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// A holder of another user cannot be seen by one without privilege: its user
// can.
func TestHeldByUnseen(t *testing.T) {
	h := startHolder(t)
	runHelper(t, helperCommand(t, "held", fmt.Sprint("HELD_PORT=", h.port), fmt.Sprint("HELD_PID=", h.pid)))
}

func helpHeld() error {
	user := os.Getuid()
	want := fmt.Sprintf("held by a process of uid %d: ", user)
	if user != 0 {
		want = "pid " + os.Getenv("HELD_PID")
	}
	if err := becomeNobody(); err != nil {
		return err
	}
	port, err := strconv.Atoi(os.Getenv("HELD_PORT"))
	if err != nil {
		return err
	}
	if _, err := openApp([]Listener{tcp("http", "", port)}, 1); err == nil || !strings.Contains(err.Error(), want) {
		return fmt.Errorf("got %v, want %q", err, want)
	}
	return nil
}

// A pipe that somebody holds open and never fills.
func TestFirstBytesOfAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	check(t, unix.Mkfifo(path, 0o600))
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	if text := firstBytes(path); text != "" {
		t.Errorf("read %q", text)
	}
}
