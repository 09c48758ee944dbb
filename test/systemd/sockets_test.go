package systemd_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// States of /proc/net/tcp (linux/tcp_states.h).
const (
	established = "01"
	listen      = "0A"
)

// listening are the inodes of the TCP sockets that listen on a port, sorted.
func listening(t *testing.T, port int) []string { return sockets(t, port, listen) }

// connected counts the server's ends of the connections to a port.
func connected(t *testing.T, port int) int { return len(sockets(t, port, established)) }

func sockets(t *testing.T, port int, state string) (inodes []string) {
	t.Helper()
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
			fields := strings.Fields(lines.Text())
			if len(fields) > 9 && strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) && fields[3] == state {
				inodes = append(inodes, fields[9])
			}
		}
	}
	slices.Sort(inodes)
	return inodes
}

// holds are the inodes of the sockets that a process has open.
func holds(t *testing.T, pid int) (inodes []string) {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "socket:[") {
			inodes = append(inodes, strings.Trim(target, "socket:[]"))
		}
	}
	return inodes
}

// socket starts a socket unit of this text for the app.
func (a *app) socket(text string) {
	a.t.Helper()
	a.write(unitDir+"/forkd@"+a.name+".socket", text)
	a.must("systemctl", "daemon-reload")
	a.must("systemctl", "start", "forkd@"+a.name+".socket")
}

// exampleSocket starts the socket unit that is shipped, on the app's port.
func (a *app) exampleSocket() {
	a.t.Helper()
	text, err := os.ReadFile("../../systemd/forkd@.socket")
	if err != nil {
		a.t.Fatal(err)
	}
	const shipped = "ListenStream=8080\n"
	if !strings.Contains(string(text), shipped) {
		a.t.Fatalf("the example does not say %s", shipped)
	}
	a.socket(strings.Replace(string(text), shipped, fmt.Sprintf("ListenStream=127.0.0.1:%d\n", a.port), 1))
}

// The first connection starts the service, on systemd's socket; the other
// slot's is bound beside it.
func TestPassedSocket(t *testing.T) {
	a := newApp(t, settings{})
	a.exampleSocket()
	passed := listening(t, a.port)
	if len(passed) != 1 {
		t.Fatalf("systemd listens on %v", passed)
	}
	if _, err := a.get("/"); err != nil {
		t.Fatalf("the connection that starts it: %v", err)
	}
	s := a.ready(0)
	if now := listening(t, a.port); len(now) != 2 || !slices.Contains(now, passed[0]) {
		t.Errorf("it listens on %v, systemd passed %v", now, passed)
	}
	if first := s.Slots[0].Workers[0].PID; !slices.Contains(holds(t, first), passed[0]) {
		t.Errorf("slot 0 has %v, systemd passed %v", holds(t, first), passed)
	}
	a.expectJournal(`http.*passed 1 `)
	l := newLoad(t, a.port, 4)
	kill(t, s.PID)
	a.ready(s.PID)
	if now := listening(t, a.port); len(now) != 2 || !slices.Contains(now, passed[0]) {
		t.Errorf("the successor listens on %v, systemd passed %v", now, passed)
	}
	l.none()
	a.must("systemctl", "stop", a.unit)
	// It is systemd's, and starts the service again.
	if now := listening(t, a.port); !slices.Equal(now, passed) {
		t.Errorf("after the stop %v listens, systemd passed %v", now, passed)
	}
	if _, err := a.get("/"); err != nil {
		t.Errorf("the connection that starts it again: %v", err)
	}
}

func TestPassedSocketForEachSlot(t *testing.T) {
	a := newApp(t, settings{})
	line := fmt.Sprintf("ListenStream=127.0.0.1:%d\n", a.port)
	a.socket("[Socket]\nReusePort=yes\n" + line + line) // found by its address
	passed := listening(t, a.port)
	a.start()
	a.ready(0)
	if now := listening(t, a.port); len(now) != 2 || !slices.Equal(now, passed) {
		t.Errorf("it listens on %v, systemd passed %v", now, passed)
	}
}

// Another user can't bind beside root's socket: the workers share it.
func TestPassedSocketIsShared(t *testing.T) {
	a := newApp(t, settings{})
	a.shipped("hardened.conf")
	a.exampleSocket()
	passed := listening(t, a.port)
	a.start()
	s := a.ready(0)
	if now := listening(t, a.port); !slices.Equal(now, passed) {
		t.Errorf("it listens on %v, systemd passed %v", now, passed)
	}
	for _, slot := range s.Slots {
		if !slices.Contains(holds(t, slot.Workers[0].PID), passed[0]) {
			t.Errorf("worker %d has %v, systemd passed %v", slot.Workers[0].PID, holds(t, slot.Workers[0].PID), passed)
		}
	}
	a.expectJournal(`http.*shared`)
}

func TestPassedSocketThatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct{ listen, socket, says string }{
		"unix for tcp":      {"tcp://127.0.0.1:%d", "ListenStream=/run/misfit.sock", "unix"},
		"tcp6 for tcp4":     {"tcp4://127.0.0.1:%d", "ListenStream=[::1]:%d", "tcp4"},
		"udp for tcp":       {"tcp://127.0.0.1:%d", "ListenDatagram=127.0.0.1:%d", "ListenDatagram="},
		"fifo for tcp":      {"tcp://127.0.0.1:%d", "ListenFIFO=/run/misfit.fifo", ""},
		"seqpacket for tcp": {"tcp://127.0.0.1:%d", "ListenSequentialPacket=/run/misfit.seq", "ListenSequentialPacket="},
		"tcp for unix":      {"unix:///run/misfit-other.sock", "ListenStream=127.0.0.1:%d", "unix"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, settings{})
			insert := func(text string) string { return strings.ReplaceAll(text, "%d", fmt.Sprint(a.port)) }
			a.configure(settings{listen: insert(c.listen)})
			a.socket("[Socket]\nFileDescriptorName=http\nRemoveOnStop=yes\n" + insert(c.socket) + "\n")
			if out, err := a.run("systemctl", "start", a.unit); err == nil {
				t.Errorf("systemctl start has succeeded\n%s", out)
			}
			a.is("failed")
			if code, n := a.show("ExecMainStatus"), a.show("NRestarts"); code != "2" || n != "0" {
				t.Errorf("status %s, %s restarts; want 2 and none", code, n)
			}
			// One line, that names what was passed and what was wanted.
			complaint := regexp.MustCompile(`(?m)^forkd: .*$`).FindString(a.journal())
			if !strings.Contains(complaint, "http") || !strings.Contains(complaint, c.says) {
				t.Errorf("the journal says %q, and should name http and %q", complaint, c.says)
			}
		})
	}
}

// What was meant for another process is not taken, and not handed on.
func TestListenPIDOfSomebodyElse(t *testing.T) {
	a := newApp(t, settings{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, forkdPath, "run", "-c", "/etc/forkd/"+a.name+".toml")
	cmd.Env = append(os.Environ(), "LISTEN_PID=1", "LISTEN_FDS=5", "LISTEN_FDNAMES=a:b:c:d:e")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := a.ready(0)
	if n := len(listening(t, a.port)); n != 2 {
		t.Errorf("it listens on %d sockets", n)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", s.workers()[0]))
	if err != nil || !strings.Contains(string(environ), fmt.Sprintf("LISTEN_PID=%d\x00", s.workers()[0])) || strings.Contains(string(environ), "a:b") {
		t.Errorf("the worker's environment: %q, %v", environ, err)
	}
	a.must(forkdPath, "stop", a.name)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, said.String())
	}
}
