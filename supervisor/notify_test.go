package supervisor

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
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

func TestParseNotification(t *testing.T) {
	for text, want := range map[string]notification{
		"":                                     {},
		"READY=1":                              {ready: true},
		"READY=1\nSTATUS=serving\n":            {ready: true, stated: true, status: "serving"},
		"STATUS=one\nSTATUS=":                  {stated: true},
		"STOPPING=1\nWATCHDOG=1":               {stopping: true, alive: true},
		"READY=0\nready=1\n READY=1\nREADY=1 ": {},
		"MAINPID=1\nFDSTORE=1\nBARRIER=1\nX_Y": {},
		"STATUS=\x1b[31mred\x00\xff":           {stated: true, status: " [31mred \uFFFD"},
		"STATUS=" + strings.Repeat("é", 400):   {stated: true, status: strings.Repeat("é", maxStatus/2)},
		"STATUS=" + strings.Repeat("x", 4000):  {stated: true, status: strings.Repeat("x", maxStatus)},
		"STATUS=x" + strings.Repeat("é", 400):  {stated: true, status: "x" + strings.Repeat("é", maxStatus/2-1)},
	} {
		if diff := cmp.Diff(want, parseNotification([]byte(text)), cmp.AllowUnexported(notification{})); diff != "" {
			t.Errorf("%.40q: %s", text, diff)
		}
	}
}

// Whatever a datagram holds, what it says is bounded and fit to be shown, and
// nothing is heard that is not a line of its own.
func FuzzNotify(f *testing.F) {
	for _, text := range []string{
		"READY=1", "READY=1\nSTATUS=serving\nMAINPID=7", "STATUS=\x1b]0;x\a\xff", "WATCHDOG=1\nSTOPPING=1\n", "\n\n=",
		"STATUS=" + strings.Repeat("\U0001F600", 200),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n := parseNotification(data)
		if len(n.status) > maxStatus || !utf8.ValidString(n.status) || strings.ContainsFunc(n.status, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("status %q", n.status)
		}
		lines := "\n" + string(data) + "\n"
		for word, said := range map[string]bool{"READY=1": n.ready, "STOPPING=1": n.stopping, "WATCHDOG=1": n.alive} {
			if said != strings.Contains(lines, "\n"+word+"\n") {
				t.Errorf("%s: %t", word, said)
			}
		}
		if n.stated != strings.Contains(lines, "\nSTATUS=") || !n.stated && n.status != "" {
			t.Errorf("stated %t %q", n.stated, n.status)
		}
	})
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
	return func(sender int) bool { return ofWorker(sender, workers[0], leads) }
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
	s, err := newNotifySocket(t.TempDir(), "notify.0.1", nil, new(closing.Closer))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()

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
	s.receive(countsFor(worker.pid, others.pid, other.pid), func(n notification) {
		got = append(got, n.status)
		if n.ready {
			s.close()
		}
	}, func(pid int) { ignored = append(ignored, pid) })
	if diff := cmp.Diff([]string{"an orphan", "gone", "worker", ""}, got); diff != "" {
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
			s, err := newNotifySocket(t.TempDir(), "n", nil, new(closing.Closer))
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			v := newVoice(t, script, s.address)
			v.says("READY=1")
			late := time.AfterFunc(enough, s.close)
			defer late.Stop()
			heard := false
			s.receive(countsFor(v.pid), func(n notification) { heard = n.ready; s.close() }, func(int) { s.close() })
			if !heard {
				t.Error("does not count")
			}
		})
	}
}

// What comes along is closed, and a datagram that was cut says nothing.
func TestNotifyDescriptorsAndLongDatagrams(t *testing.T) {
	s, err := newNotifySocket(t.TempDir(), "n", nil, new(closing.Closer))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
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
	err = withFD(conn, func(fd int) error { return unix.Sendmsg(fd, []byte("BARRIER=1"), unix.UnixRights(fds...), nil, 0) })
	if err != nil {
		t.Fatal(err)
	}
	write.Close()
	late := time.AfterFunc(enough, s.close)
	defer late.Stop()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		t.Fatal(err)
	}
	heard := 0
	s.receive(func(int) bool { return true }, func(notification) { heard++; s.close() }, func(int) {})
	if heard != 1 {
		t.Errorf("heard %d, want the last", heard)
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
		s := &notifySocket{address: filepath.Join(dir, name)}
		if _, err := s.give(nil); err == nil {
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
	s, err := newNotifySocket(dir, "notify.0.1", nil, new(closing.Closer))
	if err != nil {
		t.Fatal(err)
	}
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
	s, err := newNotifySocket(t.TempDir(), "notify.0.1", nil, new(closing.Closer))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	heard := make(chan string, 10)
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.receive(func(int) bool { return true }, func(n notification) { heard <- n.status }, func(pid int) { heard <- fmt.Sprint("of ", pid) })
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
