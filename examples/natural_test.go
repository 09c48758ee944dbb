package examples_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/forkd/forkd/test/ports"
)

// natural is an example that knows nothing of forkd, with the command that its users
// type. PORT stands for a free port.
type natural struct {
	name    string
	command []string
	env     []string
	drains  bool // it finishes all that it has accepted: a roll costs no request
}

// node-express, whose module is npm's, is run by make compat.
func TestNaturalCommands(t *testing.T) {
	t.Setenv("FORKD_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
	t.Setenv("FORKD_STATE_DIR", filepath.Join(t.TempDir(), "state"))
	bin := build(t, "../cmd/forkd", "./go-static")
	for _, n := range []natural{
		{name: "python-gunicorn", command: []string{"gunicorn", "-b", "127.0.0.1:$PORT", "app:app"}, drains: true},
		{name: "python-uvicorn", command: []string{"uvicorn", "--port", "$PORT", "app:app"}, drains: true},
		// It cuts one now and then, in its own phased restart too.
		{name: "ruby-puma", command: []string{"puma", "-p", "$PORT"}},
		{name: "node-http", command: []string{"node", "server.js"}, env: []string{"PORT=$PORT"}, drains: true},
		{name: "php", command: []string{"php", "-S", "127.0.0.1:$PORT"}},
		{name: "go-static", command: []string{filepath.Join(bin, "go-static"), "127.0.0.1:$PORT"}},
	} {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			n.under(t, bin)
		})
	}
	t.Run("job", func(t *testing.T) {
		t.Parallel()
		underJobs(t, bin)
	})
}

// text is a buffer that is read while it is written to.
type text struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// A master is one forkd run, and the sessions of the workers that it was seen to have.
type master struct {
	bin, name string
	cmd       *exec.Cmd
	ended     chan error
	said      text
	sessions  []string
}

// start runs a command in the example's directory, without saying more than a user has to.
func start(t *testing.T, bin, name string, env []string, command ...string) *master {
	t.Helper()
	return run(t, bin, name, name, env, append([]string{"--name", name, "--workers", "2", "--"}, command...)...)
}

// run starts an app in a directory, by the arguments of forkd run.
func run(t *testing.T, bin, name, dir string, env []string, args ...string) *master {
	t.Helper()
	m := &master{bin: bin, name: name, ended: make(chan error, 1)}
	m.cmd = exec.Command(filepath.Join(bin, "forkd"), append([]string{"run", "--monitor", "100ms"}, args...)...)
	m.cmd.Dir = dir
	m.cmd.Env = append(os.Environ(), append(env, "PYTHONDONTWRITEBYTECODE=1")...)
	m.cmd.Stdout, m.cmd.Stderr = &m.said, &m.said
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { m.ended <- m.cmd.Wait() }()
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		if t.Failed() {
			<-m.ended
			t.Logf("the master said:\n%s", m.said.String())
		}
	})
	return m
}

// ready waits until both workers are, and returns their pids.
func (m *master) ready(t *testing.T) (pids []int) {
	t.Helper()
	for _, slot := range ready(t, m.bin, m.name).Slots {
		pid := slot.Workers[len(slot.Workers)-1].PID
		pids = append(pids, pid)
		m.sessions = append(m.sessions, strconv.Itoa(pid))
	}
	return pids
}

func (m *master) reload(t *testing.T) {
	t.Helper()
	if out, err := forkd(t, m.bin, "reload", "--keep-config", m.name); err != nil {
		t.Errorf("reload: %v\n%s", err, out)
	}
}

// kill kills the worker of slot 0, and waits for the next one.
func (m *master) kill(t *testing.T) {
	t.Helper()
	killed := m.ready(t)[0]
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); m.ready(t)[0] == killed; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the killed worker has no successor")
		}
	}
}

// stop stops the app and looks for what it has left: processes and files.
func (m *master) stop(t *testing.T) {
	t.Helper()
	if out, err := forkd(t, m.bin, "stop", m.name); err != nil {
		t.Errorf("stop: %v\n%s", err, out)
	}
	err := <-m.ended
	m.ended <- err
	if err != nil {
		t.Errorf("the master ended with %v", err)
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		stat, _ := os.ReadFile(file)
		_, rest, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(rest); len(fields) > 3 && slices.Contains(m.sessions, fields[3]) {
			t.Errorf("a worker's process is left: %s", stat)
		}
	}
	left, _ := filepath.Glob(filepath.Join(os.Getenv("FORKD_RUNTIME_DIR"), m.name, "*.sock"))
	if len(left) > 0 {
		t.Errorf("left in the runtime directory: %v", left)
	}
}

// under starts an example, asks both workers, rolls them under requests, kills one and
// stops them.
func (n natural) under(t *testing.T, bin string) {
	port := strconv.Itoa(ports.Free(t, 1))
	replaced := func(words []string) []string {
		words = slices.Clone(words)
		for i, word := range words {
			words[i] = strings.ReplaceAll(word, "$PORT", port)
		}
		return words
	}
	address := "127.0.0.1:" + port
	m := start(t, bin, n.name, replaced(n.env), replaced(n.command)...)
	before := m.ready(t)
	both(t, address)

	stop, failures := make(chan struct{}), make(chan error, 4)
	var clients sync.WaitGroup
	for range cap(failures) {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := askOnce(address); err != nil && n.drains {
					failures <- err
					return
				}
			}
		})
	}
	m.reload(t)
	after := m.ready(t)
	close(stop)
	clients.Wait()
	close(failures)
	for err := range failures {
		t.Errorf("a client failed during the roll: %v", err)
	}
	for i := range before {
		if before[i] == after[i] {
			t.Errorf("slot %d was not rolled", i)
		}
	}

	m.kill(t)
	both(t, address)
	m.stop(t)
	if _, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port is still held: %v", err)
	}
}

// both asks until two workers have answered: forkd has given each a socket.
func both(t *testing.T, address string) {
	t.Helper()
	pids := map[string]bool{}
	for deadline := time.Now().Add(patience); len(pids) < 2; {
		pid, err := askOnce(address)
		if err != nil {
			t.Fatalf("ready, and %v", err)
		}
		pids[pid] = true
		if time.Now().After(deadline) {
			t.Fatalf("only %v has answered", pids)
		}
	}
}

// askOnce makes one request on a connection of its own and returns the pid that answered.
func askOnce(address string) (pid string, err error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	pid, _, _ = strings.Cut(string(body), " ")
	if _, nerr := strconv.Atoi(pid); nerr != nil || r.StatusCode != http.StatusOK {
		return "", errors.Join(err, fmt.Errorf("not an answer of a worker: %s %s", r.Status, body))
	}
	return pid, err
}

// underJobs has two workers do all jobs once, through a roll and a kill.
func underJobs(t *testing.T, bin string) {
	const jobs = 300
	dir := t.TempDir()
	for _, sub := range []string{"new", "done"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range jobs {
		if err := os.WriteFile(filepath.Join(dir, "new", fmt.Sprintf("%03d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := start(t, bin, "job", nil, "python3", "job.py", dir)
	m.ready(t)
	m.reload(t)
	m.kill(t)
	count := func(pattern string) int {
		files, _ := filepath.Glob(filepath.Join(dir, pattern))
		return len(files)
	}
	for deadline := time.Now().Add(patience); count("new/*") > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d jobs are left", count("new/*"))
		}
	}
	m.stop(t)
	if done, lost := count("done/*"), count("of-*/*"); done+lost != jobs || lost > 1 {
		t.Errorf("%d jobs done and %d with the killed worker, of %d", done, lost, jobs)
	}
}
