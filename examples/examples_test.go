// Package examples_test runs the examples under forkd itself, as their package
// comments say.
package examples_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait. It is reached only by what hangs.
const patience = 5 * time.Minute

// build compiles packages of the module into a directory, once for all tests.
func build(t *testing.T, packages ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, pkg := range packages {
		out, err := exec.CommandContext(t.Context(), "go", "build", "-o", dir+string(filepath.Separator), pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("go build %s: %v\n%s", pkg, err, out)
		}
	}
	return dir
}

// forkd is the command, in a runtime directory of the test's own.
func forkd(t *testing.T, bin string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "forkd"), args...).CombinedOutput()
	return string(out), err
}

// app is what the tests read of forkd status --json.
type app struct {
	State     string
	Listeners []struct{ Address string }
	Totals    struct{ Ready, Wanted int }
	Slots     []struct {
		Workers []struct {
			PID         int
			State       string
			Connections *int
			Requests    *int
		}
	}
}

func status(t *testing.T, bin, name string) (app, error) {
	t.Helper()
	out, err := forkd(t, bin, "status", "--json", name)
	if err != nil {
		return app{}, fmt.Errorf("%w: %s", err, out)
	}
	var apps []app
	if err := json.Unmarshal([]byte(out), &apps); err != nil || len(apps) != 1 {
		return app{}, fmt.Errorf("cannot read %s: %w", out, err)
	}
	return apps[0], nil
}

func TestExamplesUnderForkd(t *testing.T) {
	t.Setenv("FORKD_RUNTIME_DIR", filepath.Join(t.TempDir(), "run"))
	t.Setenv("FORKD_STATE_DIR", filepath.Join(t.TempDir(), "state"))
	bin := build(t, "../cmd/forkd", "./fasthttp", "./nethttp")
	for _, example := range []string{"fasthttp", "nethttp"} {
		t.Run(example, func(t *testing.T) { under(t, bin, example) })
	}
}

// under starts an example, rolls it three times while clients that never retry
// keep asking, and stops it.
func under(t *testing.T, bin, example string) {
	master := exec.Command(filepath.Join(bin, "forkd"), "run", "--name", example, "--workers", "2", "--monitor", "100ms",
		"--listen", "127.0.0.1:0", "--", filepath.Join(bin, example))
	var log strings.Builder
	master.Stdout, master.Stderr = &log, &log
	if err := master.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- master.Wait() }()
	t.Cleanup(func() { _ = master.Process.Kill() })

	up := ready(t, bin, example)
	address := up.Listeners[0].Address
	address = address[strings.LastIndex(address, "/")+1:]
	var clients sync.WaitGroup
	stop := make(chan struct{})
	failures := make(chan error, 8)
	for range 8 {
		clients.Go(func() {
			if err := ask(address, stop); err != nil {
				failures <- err
			}
		})
	}
	for range 3 {
		if out, err := forkd(t, bin, "reload", "--keep-config", example); err != nil {
			t.Errorf("reload: %v\n%s", err, out)
		}
	}
	after := ready(t, bin, example)
	for _, old := range up.Slots {
		waitFor(t, "the end of a worker that was rolled", func() error {
			if err := syscall.Kill(old.Workers[0].PID, 0); err == nil {
				return fmt.Errorf("%d is there", old.Workers[0].PID)
			}
			return nil
		})
	}
	for i, s := range after.Slots {
		if s.Workers[0].Requests == nil {
			t.Errorf("slot %d does not count its requests", i)
		}
	}
	close(stop)
	clients.Wait()
	close(failures)
	for err := range failures {
		t.Errorf("a client failed: %v", err)
	}
	if out, err := forkd(t, bin, "stop", example); err != nil {
		t.Errorf("stop: %v\n%s", err, out)
	}
	if err := <-ended; err != nil {
		t.Errorf("the master ended with %v", err)
	}
	if t.Failed() {
		t.Logf("the master said:\n%s", log.String())
	}
}

func ready(t *testing.T, bin, name string) app {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		a, err := status(t, bin, name)
		if err == nil && a.State == "ready" && a.Totals.Ready == a.Totals.Wanted {
			return a
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready: %+v, %v", name, a, err)
		}
	}
}

// ask is a client that keeps its connection, never retries, and opens a new one
// only when the answer told it to.
func ask(address string, stop <-chan struct{}) error {
	for {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		stopped, err := converse(c, stop)
		c.Close()
		if stopped || err != nil {
			return err
		}
	}
}

// converse asks on one connection until an answer closes it or it is to stop.
func converse(c net.Conn, stop <-chan struct{}) (stopped bool, err error) {
	in := bufio.NewReader(c)
	for {
		select {
		case <-stop:
			return true, nil
		default:
		}
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return false, err
		}
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return false, err
		}
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			return false, err
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return false, err
		}
		first, _, _ := strings.Cut(string(body), " ")
		if pid, err := strconv.Atoi(first); err != nil || pid < 2 || r.StatusCode != http.StatusOK {
			return false, errors.New("not an answer of a worker: " + r.Status + " " + string(body))
		}
		if r.Close {
			return false, nil
		}
	}
}

func TestExamplesAreShort(t *testing.T) {
	for _, file := range []string{"fasthttp/main.go", "go-static/main.go", "nethttp/main.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "\n"); n >= 60 {
			t.Errorf("%s has %d lines, want under 60", file, n)
		}
	}
}
