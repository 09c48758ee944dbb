package supervisor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
)

// serverTimeout bounds every wait for a program. It is reached only by what hangs.
const serverTimeout = 60 * time.Second

// server is a program with the preload, as a worker.
type server struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *bufio.Scanner
	page int
	port string
	end  error // of cmd, once it has ended
}

// startServer runs a command with the preload, in a session of its own. It finds the files in
// its working directory; its descriptor 3 is the page, the others
// follow.
func startServer(t *testing.T, drain time.Duration, files map[string]string, env, command []string, more ...*os.File) *server {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	page, err := ipc.NewPage()
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(page), "page")
	ctx, cancel := context.WithTimeout(t.Context(), serverTimeout)
	s := &server{t: t, cmd: exec.CommandContext(ctx, command[0], command[1:]...), page: page}
	s.cmd.Dir = dir
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s.cmd.ExtraFiles = append([]*os.File{file}, more...)
	s.cmd.Stderr = os.Stderr
	s.cmd.Env = append(os.Environ(), "FORKD_STOP_SIGNAL=TERM", "FORKD_PAGE_FD=3",
		fmt.Sprintf("FORKD_DRAIN_TIMEOUT=%v", drain.Seconds()), "FORKD_DRAIN_IDLE=0.2")
	s.cmd.Env = append(s.cmd.Env, env...)
	stdout, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewScanner(stdout)
	t.Cleanup(func() {
		cancel()
		s.wait()
		file.Close()
	})
	return s
}

// says is its next line.
func (s *server) says() string {
	s.t.Helper()
	if !s.out.Scan() {
		s.t.Fatal("it has ended: ", s.wait())
	}
	return s.out.Text()
}

// wait waits until it has ended, and says how: "exit status 0" is "".
func (s *server) wait() string {
	if s.cmd.ProcessState == nil {
		for s.out.Scan() { // to the end of its output
			continue
		}
		s.end = s.cmd.Wait()
	}
	if s.end != nil {
		return s.end.Error()
	}
	return ""
}

func (s *server) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
}

// refuses waits until it accepts no more.
func (s *server) refuses() {
	s.t.Helper()
	for deadline := time.Now().Add(serverTimeout); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+s.port)
		if err != nil {
			return
		}
		c.Close()
		if time.Now().After(deadline) {
			s.t.Fatal("it still accepts")
		}
	}
}

// client is a connection to it that never tries again.
type client struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (s *server) dial() *client {
	s.t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+s.port)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(serverTimeout))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return &client{s.t, conn, bufio.NewReader(conn)}
}

func (c *client) ask(path string) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		c.t.Fatal(err)
	}
}

// answer is the body, with " close" where the connection ends.
func (c *client) answer() string {
	c.t.Helper()
	r, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	if r.Close {
		return string(body) + " close"
	}
	return string(body)
}

func (c *client) expect(want string) {
	c.t.Helper()
	if got := c.answer(); got != want {
		c.t.Errorf("the answer is %q, not %q", got, want)
	}
}

// ends waits for the end of the connection.
func (c *client) ends() {
	c.t.Helper()
	if _, err := c.in.ReadByte(); err != io.EOF {
		c.t.Errorf("the connection ends with %v", err)
	}
}
