package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// embeddedChild starts the command on a listener as a child of a shell that says
// its pid, and ends when its standard input does.
func embeddedChild(t *testing.T) (address string, pid int, parent *exec.Cmd, end io.Closer) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// testscript's programs are known by the name that they are called by.
	forkd := t.TempDir() + "/forkd"
	if err := os.Symlink(self, forkd); err != nil {
		t.Fatal(err)
	}
	parent = exec.CommandContext(t.Context(), "/bin/sh", "-c", `"$0" embedded-redis </dev/null & exec 3<&-; echo $!; read -r line`, forkd)
	parent.ExtraFiles = []*os.File{file}
	parent.Stderr = os.Stderr
	end, err = parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscan(bufio.NewReader(out), &pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(pid, unix.SIGKILL)
		_ = parent.Wait()
		waitGone(t, pid) // it comes to this process, a subreaper
	})
	return ln.Addr().String(), pid, parent, end
}

// waitGone waits until a process is not there any more, and reaps it.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patienceOfScripts); ; time.Sleep(5 * time.Millisecond) {
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d lives on", pid)
		}
	}
}

func ping(t *testing.T, address string) {
	t.Helper()
	if ok, seen := pong(address); !ok {
		t.Error(seen)
	}
}

func TestEmbeddedRedisEndsWithItsParent(t *testing.T) {
	address, pid, parent, end := embeddedChild(t)
	ping(t, address)
	// What is sent to all is not for it.
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGTERM} {
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	ping(t, address)
	if err := end.Close(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // 1: read has found the end
	waitGone(t, pid)
}

func TestEmbeddedRedisIsForMasters(t *testing.T) {
	for args, want := range map[string]string{
		"embedded-redis x":          "forkd: wrong number of arguments: write forkd embedded-redis\n",
		"embedded-redis --parent 1": "forkd: the master, process 1, is gone\n",
	} {
		if code, out, err := forkd(t, strings.Fields(args)...); code == exitDone || out != "" || err != want {
			t.Errorf("%s: exit %d, %s, %s", args, code, out, err)
		}
	}
}
