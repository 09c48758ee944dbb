package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/test/load"
	"github.com/forkd/forkd/test/ports"
)

// startTime bounds how long any server may take to answer.
const startTime = 30 * time.Second

// A server is one program under test, serving on loopback. Its owner calls stop.
type server struct {
	address *net.TCPAddr
	cmd     *exec.Cmd
	said    bytes.Buffer // what it printed; to be read after ended
	ended   chan struct{}
}

// launch starts a program that will serve on port.
func launch(port int, env []string, program string, args ...string) (*server, error) {
	s := &server{
		address: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port},
		cmd:     exec.Command(program, args...),
		ended:   make(chan struct{}),
	}
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = &s.said, &s.said
	// Ctrl-C is for the benchmark, which then stops its servers one by one. A session, as
	// forkd's workers have: the kernel shares the processors among sessions (sched(7), the
	// autogroup feature), so one of the benchmark's own would compete with the clients alone.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s.cmd.WaitDelay = time.Second // of a grandchild that keeps the pipe
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", filepath.Base(program), err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.ended)
	}()
	return s, nil
}

// stop ends the server gracefully, and by force when that takes long.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// failed puts what the server printed into an error.
func (s *server) failed(what string) error {
	s.stop()
	return fmt.Errorf("%s %s\n%s", filepath.Base(s.cmd.Path), what, strings.TrimSpace(s.said.String()))
}

// firstAnswer waits until the server answers and says how it does.
func (s *server) firstAnswer(ctx context.Context) (body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	c := load.NewClient(s.address)
	for {
		answer, failure := c.Ask(true)
		if failure == nil {
			return string(answer), nil
		}
		select {
		case <-s.ended:
			return "", s.failed("ended before it answered:")
		case <-ctx.Done():
			return "", s.failed("did not answer in time:")
		default:
			load.Pause(ctx, 200*time.Microsecond)
		}
	}
}

// workers waits until n different processes have answered.
func (s *server) workers(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for pids := map[string]bool{}; len(pids) < n; {
		if ctx.Err() != nil {
			return s.failed(fmt.Sprintf("has not come up with %d workers:", n))
		}
		body, err := s.firstAnswer(ctx)
		if err != nil {
			return err
		}
		pid, _, _ := strings.Cut(body, " ")
		pids[pid] = true
	}
	return nil
}

// An app is a server under forkd, and the way to its master.
type app struct {
	*server
	forkd  string
	name   string
	env    []string
	client *control.Client
}

// runApp starts command under forkd with n workers and returns when all are
// ready. settings is TOML, after the keys that every app of the benchmark has.
func (b *bench) runApp(ctx context.Context, name string, n int, command []string, settings string) (*app, error) {
	port, release, err := ports.Take(1)
	if err != nil {
		return nil, err
	}
	defer release()
	file := filepath.Join(b.dir, name+".toml")
	quoted := make([]string, len(command))
	for i, word := range command {
		quoted[i] = fmt.Sprintf("%q", word)
	}
	text := fmt.Sprintf("name = %q\ncommand = [%s]\nworkers = %d\n%s\n[[listen]]\nname = \"http\"\naddress = \"tcp://:%d\"\n",
		name, strings.Join(quoted, ", "), n, settings, port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	a := &app{forkd: b.program("forkd"), name: name, env: []string{"FORKD_RUNTIME_DIR=" + b.dir, "FORKD_STATE_DIR=" + filepath.Join(b.dir, "state")}}
	if a.server, err = launch(port, a.env, a.forkd, "run", "-c", file); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for !a.up(ctx) {
		select {
		case <-a.ended:
			return nil, a.failed("ended before it was ready:")
		case <-ctx.Done():
			return nil, a.failed("was not ready in time:")
		default:
			load.Pause(ctx, 5*time.Millisecond)
		}
	}
	return a, nil
}

// up reports whether all workers are ready, and connects to the master first.
func (a *app) up(ctx context.Context) bool {
	if a.client == nil {
		at := control.Location{Dir: strings.TrimPrefix(a.env[0], "FORKD_RUNTIME_DIR="), Name: a.name}
		client, err := control.Connect(at)
		if err != nil {
			return false
		}
		a.client = client
	}
	status, err := a.client.Status(ctx)
	return err == nil && status.AllReady()
}

func (a *app) stop() {
	if a.client != nil {
		a.client.Close()
	}
	a.server.stop()
}

// command makes one call of the command line for this app.
func (a *app) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, a.forkd, args...)
	cmd.Env = append(os.Environ(), a.env...)
	return cmd
}

// reload rolls all workers once, as a user does, and waits for the end.
func (a *app) reload() error {
	if said, err := a.command(context.Background(), "reload", "--keep-config", a.name).CombinedOutput(); err != nil {
		return fmt.Errorf("forkd reload: %w: %s", err, bytes.TrimSpace(said))
	}
	return nil
}

// rolls reloads again and again until ctx ends, each time when the last roll is
// done, and returns when the last of them is: how many there were.
func (a *app) rolls(ctx context.Context) (n int, err error) {
	for ctx.Err() == nil {
		if err := a.reload(); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
