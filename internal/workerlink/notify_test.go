package workerlink

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/internal/process"
)

// open makes a notify socket of the master's user.
func open(t *testing.T, dir string) *notifySocket {
	t.Helper()
	s, err := newNotifySocket(Config{Dir: dir, Name: "notify.0.1", UID: -1, GID: -1, Closer: new(closing.Closer)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// speaker sends each line of its input as a datagram. It says first that it is
// there.
const speaker = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(sys.argv[1])
print("there", os.getpid(), flush=True)
for line in sys.stdin:
    s.send(line.strip().encode())
    print("sent", flush=True)`

// voice is a process, or its descendant, that speaks to a notify socket.
type voice struct {
	t   *testing.T
	pid int // of the process that was started, which leads a session as a worker does
	in  io.WriteCloser
	out *bufio.Reader
	end func()
}

// newVoice starts a shell that runs the speaker: $0 -c $1 $2.
func newVoice(t *testing.T, script, socket string) *voice {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script, "/usr/bin/python3", speaker, socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v := &voice{t: t, pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	v.end = func() {
		in.Close() // the speaker ends, whoever its parent is
		_, _ = io.Copy(io.Discard, v.out)
		_ = cmd.Wait()
	}
	t.Cleanup(v.end)
	v.hears("there")
	return v
}

// countsFor is who may speak for the first of some workers.
func countsFor(workers ...int) func(sender int) bool {
	leads := func(pid int) bool { return slices.Contains(workers, pid) }
	return func(sender int) bool { return process.MaySpeakFor(sender, workers[0], leads) }
}

func (v *voice) hears(want string) {
	v.t.Helper()
	if line, err := v.out.ReadString('\n'); !strings.HasPrefix(line, want) {
		v.t.Fatalf("the speaker said %q, %v; want %q", line, err, want)
	}
}

func (v *voice) says(text string) {
	v.t.Helper()
	if _, err := fmt.Fprintln(v.in, text); err != nil {
		v.t.Fatal(err)
	}
	v.hears("sent")
}

// adopt makes this process the one that orphans are given to, as a master is.
func adopt(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for { // exec.Cmd has waited for its own
			if pid, err := unix.Wait4(-1, nil, 0, nil); err != nil || pid <= 0 {
				break
			}
		}
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	})
}

func TestNotifyCountsFromThisWorkerAlone(t *testing.T) {
	adopt(t)
	s := open(t, t.TempDir())

	const alone = `exec "$0" -c "$1" "$2"`
	other := newVoice(t, alone, s.address)
	worker := newVoice(t, alone, s.address)
	others := newVoice(t, `"$0" -c "$1" "$2"; exit`, s.address) // in the group of another worker
	orphan := newVoice(t, `exec 3<&0; (setsid "$0" -c "$1" "$2" <&3 &); exec sleep 1000 >/dev/null`, s.address)
	gone := newVoice(t, alone, s.address)

	other.says("STATUS=another worker")
	others.says("STATUS=another worker's child")
	orphan.says("STATUS=an orphan")
	gone.says("STATUS=gone")
	gone.end()
	worker.says("STATUS=worker\nMAINPID=1")
	worker.hears("sent") // two lines
	myself, err := net.Dial("unixgram", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer myself.Close()
	if _, err := io.WriteString(myself, "STATUS=a stranger"); err != nil {
		t.Fatal(err)
	}
	worker.says("READY=1")

	var got []string
	var ignored []int
	s.receive(countsFor(worker.pid, others.pid, other.pid), func(text string) {
		got = append(got, text)
		if text == "READY=1" {
			s.close()
		}
	}, func(pid int) { ignored = append(ignored, pid) })
	if diff := cmp.Diff([]string{"STATUS=an orphan", "STATUS=gone", "STATUS=worker", "MAINPID=1", "READY=1"}, got); diff != "" {
		t.Error(diff)
	}
	if len(ignored) != 3 || ignored[0] != other.pid || ignored[1] == others.pid || ignored[2] != os.Getpid() {
		t.Errorf("ignored %v; the others are %d, one of %d's, %d", ignored, other.pid, others.pid, os.Getpid())
	}
}

// A worker is a family: children in its group, in groups of their own, in
// sessions of their own.
func TestNotifyCountsFromAFamily(t *testing.T) {
	for name, script := range map[string]string{
		"child":           `"$0" -c "$1" "$2"; exit`,
		"grandchild":      `sh -c '"$0" -c "$1" "$2"; exit' "$0" "$1" "$2"; exit`,
		"own session":     `setsid "$0" -c "$1" "$2"; exit`,
		"below a session": `setsid sh -c '"$0" -c "$1" "$2"; exit' "$0" "$1" "$2"; exit`,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			v := newVoice(t, script, s.address)
			v.says("READY=1")
			late := time.AfterFunc(enough, s.close)
			defer late.Stop()
			heard := false
			s.receive(countsFor(v.pid), func(text string) { heard = text == "READY=1"; s.close() }, func(int) { s.close() })
			if !heard {
				t.Error("does not count")
			}
		})
	}
}

// What comes along is closed, and a datagram that was cut says nothing.
func TestNotifyDescriptorsAndLongDatagrams(t *testing.T) {
	s := open(t, t.TempDir())
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("READY=1\nSTATUS=" + strings.Repeat("x", maxDatagram))); err != nil {
		t.Fatal(err)
	}
	fds := make([]int, 253)
	for i := range fds {
		fds[i] = int(write.Fd())
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.Sendmsg(int(fd), []byte("BARRIER=1"), unix.UnixRights(fds...), nil, 0) })
	if err := errors.Join(err, cerr); err != nil {
		t.Fatal(err)
	}
	write.Close()
	late := time.AfterFunc(enough, s.close)
	defer late.Stop()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
	var heard []string
	s.receive(func(int) bool { return true }, func(text string) {
		if heard = append(heard, text); text == "READY=1" {
			s.close()
		}
	}, func(int) {})
	if diff := cmp.Diff([]string{"BARRIER=1", "READY=1"}, heard); diff != "" {
		t.Error(diff)
	}
	if err := read.SetReadDeadline(time.Now().Add(enough)); err != nil {
		t.Fatal(err)
	}
	if n, err := read.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the pipe is held: %d, %v", n, err)
	}
}

// Only the file that bind(2) has made becomes the worker's: whoever may write
// beside the runtime directory could put another in its place.
func TestNotifySocketGivesNoOther(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"victim", "link"} {
		s := &notifySocket{address: filepath.Join(dir, name), gid: -1}
		if _, err := s.chown(); err == nil {
			t.Errorf("%s was given away", name)
		}
	}
	if info, err := os.Stat(victim); err != nil || info.Mode() != 0o644 {
		t.Errorf("the victim's mode is %v, %v", info.Mode(), err)
	}
}

// A directory that somebody has removed keeps no worker from being started.
func TestNotifySocketWithoutADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	s := open(t, dir)
	if !s.abstract() {
		t.Errorf("its address is %s", s.address)
	}
	s.close()
	if err := s.renew(); err != nil {
		t.Error(err)
	}
}

// When its file is removed it is made again, and the worker heard.
func TestNotifySocketIsRenewed(t *testing.T) {
	s := open(t, t.TempDir())
	heard := make(chan string, 10)
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.receive(func(int) bool { return true }, func(text string) { heard <- strings.TrimPrefix(text, "STATUS=") }, func(pid int) { heard <- fmt.Sprint("of ", pid) })
	}()
	say := func(status string) {
		t.Helper()
		conn, err := net.Dial("unixgram", s.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "STATUS="+status); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-heard:
			if got != status {
				t.Errorf("heard %q, not %q", got, status)
			}
		case <-time.After(enough):
			t.Fatalf("%q was not heard", status)
		}
	}
	say("before")
	for _, lose := range []func() error{
		func() error { return nil },
		func() error { return os.Remove(s.address) },
		func() error { return os.Rename(s.address, s.address+".moved") },
		func() error { return errors.Join(os.Remove(s.address), os.WriteFile(s.address, nil, 0o600)) },
	} {
		if err := errors.Join(lose(), s.renew()); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(s.address); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Fatalf("%v, %v", info.Mode(), err)
		}
		say("after")
	}
	s.close()
	<-over
	if err := s.renew(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.address); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its file is there after the end: %v", err)
	}
}
