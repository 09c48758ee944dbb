package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func connect(t *testing.T, at Location) *Client {
	t.Helper()
	c, err := Connect(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.wait = time.Minute
	return c
}

func TestStopWaitsUntilTheMasterIsGone(t *testing.T) {
	dir := t.TempDir()
	cmd := startMaster(t, dir)
	at := Location{Name: "shop", Dir: dir}
	c := connect(t, at)
	if c.PID() != cmd.Process.Pid {
		t.Errorf("pid %d, want %d", c.PID(), cmd.Process.Pid)
	}
	impatient, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Gone(impatient); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it was gone before it was asked to: %v", err)
	}
	if err := c.Stop(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := c.Gone(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "shop")); err == nil {
		t.Error("gone, and its directory is still there")
	}
	if _, err := Connect(at); !isNoApp(err) {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := c.Status(t.Context()); !isNoApp(err) {
		t.Errorf("afterwards, the old client: %v", err)
	}
}

// A user's app is no other user's, wherever links lead: root's forkd stop would stop that.
func TestLinksLeadToNoOtherApp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	const other = 65534
	dir, links := t.TempDir(), t.TempDir()
	cmd := startMaster(t, dir)
	shop, theirs := filepath.Join(dir, "shop"), filepath.Join(links, "theirs")
	if err := errors.Join(
		os.Mkdir(theirs, 0o755), os.Symlink(filepath.Join(shop, socketName), filepath.Join(theirs, socketName)), os.Chown(theirs, other, other),
		os.Symlink(shop, filepath.Join(links, "led")), os.Lchown(filepath.Join(links, "led"), other, other),
		os.Symlink(shop, filepath.Join(links, "mine")),
	); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"theirs", "led"} {
		if c, err := Connect(Location{Name: name, Dir: links}); err == nil || !strings.Contains(err.Error(), "a link leads to another app") {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	c := connect(t, Location{Name: "mine", Dir: links})
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
	c.uid = other // as if the link had been put there after Connect
	if err := c.Stop(t.Context(), false); err == nil || !strings.Contains(err.Error(), "another user answers there now") {
		t.Error(err)
	}
	c.uid = 0
	if err := c.Stop(t.Context(), false); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// A master that hangs is named with its pid, within the client's patience.
func TestHungMasterDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	cmd := startMaster(t, dir)
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Until the last of its threads has stopped it may still answer.
	if _, err := syscall.Wait4(cmd.Process.Pid, nil, syscall.WUNTRACED, nil); err != nil {
		t.Fatal(err)
	}
	c := connect(t, Location{Name: "shop", Dir: dir})
	c.wait = 50 * time.Millisecond
	_, statusErr := c.Status(t.Context())
	for _, err := range []error{statusErr, c.Stop(t.Context(), true)} {
		silent, ok := errors.AsType[*NoAnswerError](err)
		if !ok || silent.PID != cmd.Process.Pid || !strings.Contains(err.Error(), "nothing within 50ms: see what it does") {
			t.Errorf("%v", err)
		}
	}
	// Killed in the middle of an answer, it does not answer either.
	c.wait = time.Minute
	failed := make(chan error, 1)
	go func() {
		_, err := c.Status(t.Context())
		failed <- err
	}()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	err := <-failed
	if _, ok := errors.AsType[*NoAnswerError](err); !ok && !isNoApp(err) {
		t.Errorf("killed meanwhile: %v", err)
	}
}

func TestRefusalIsHandedOn(t *testing.T) {
	b := &fake{app: sample(), reload: func(context.Context, Reload) (Rolled, error) {
		return Rolled{}, &Error{Code: 409, Text: "the app is stopping"}
	}}
	c := connect(t, serving(t, b, patient(), os.Geteuid()))
	_, err := c.Reload(t.Context(), Reload{KeepConfig: true, Wait: true})
	refusal, ok := errors.AsType[*Error](err)
	if !ok || refusal.Code != 409 || refusal.Text != "the app is stopping" {
		t.Errorf("%v", err)
	}
	b.reload = func(context.Context, Reload) (Rolled, error) {
		return Rolled{Generation: 2, Result: "rolled_back", Error: "why"}, nil
	}
	rolled, err := c.Reload(t.Context(), Reload{KeepConfig: true, Wait: true})
	if err != nil || rolled != (Rolled{Generation: 2, Result: "rolled_back", Error: "why"}) {
		t.Errorf("%+v, %v", rolled, err)
	}
}

// hostile listens where clients look, and answers each connection with head, then
// with more until that is not taken any more. It returns how many bytes were.
func hostile(t *testing.T, head, more string) (Location, func() int64) {
	t.Helper()
	at := Location{Name: "shop", Dir: t.TempDir()}
	if err := os.Mkdir(at.Path(), 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", at.socket())
	if err != nil {
		t.Fatal(err)
	}
	var taken atomic.Int64
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				_, _ = conn.Read(make([]byte, 4096)) // Connect says nothing
				n, err := io.WriteString(conn, head)
				for taken.Add(int64(n)); err == nil && more != ""; taken.Add(int64(n)) {
					n, err = io.WriteString(conn, more)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close() })
	return at, func() int64 {
		ln.Close()
		all.Wait()
		return taken.Load()
	}
}

// Whoever can have a socket where clients look decides what they read, but not how
// much.
func TestAnswersAreBounded(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	long := strings.Repeat("x", 1<<16)
	for name, answer := range map[string]struct{ head, more, want string }{
		"status line": {"HTTP/1.1 200 ", long, "headers exceeded 16384 bytes"},
		"header":      {ok, "A: " + long[:1000] + "\r\n", "headers exceeded 16384 bytes"},
		"body":        {ok + "\r\n", long, "larger than 8388608 bytes"},
		"chunks":      {ok + "Transfer-Encoding: chunked\r\n\r\n", "10000\r\n" + long + "\r\n", "larger than 8388608 bytes"},
		"length":      {ok + "Content-Length: 9000000000\r\n\r\n", long, "larger than 8388608 bytes"},
		"refusal":     {"HTTP/1.1 500 No\r\n\r\n", long, "larger than 8388608 bytes"},
		"values":      {ok + "\r\n" + `{"slots":[` + strings.Repeat("{},", 1<<20) + `{}],"":"`, "", "more than 131072 values"},
	} {
		for call, do := range map[string]func(*Client) error{
			"status": func(c *Client) error { _, err := c.Status(t.Context()); return err },
			"reload": func(c *Client) error { _, err := c.Reload(t.Context(), Reload{Wait: true}); return err },
			"events": func(c *Client) error { return c.Events(t.Context(), "", false, nil) },
			"follow": func(c *Client) error { return c.Events(t.Context(), "", true, nil) },
		} {
			want := answer.want
			if call == "follow" && name != "refusal" && !strings.Contains(want, "headers") {
				want = "a line of more than 1048576 bytes"
			}
			t.Run(name+"/"+call, func(t *testing.T) {
				at, taken := hostile(t, answer.head, answer.more)
				c := connect(t, at)
				c.wait = time.Hour // it is not time that ends it
				err := do(c)
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("error %q, want %q", err, want)
				}
				if n := taken(); n > answerSize+1<<20 { // what the kernel has room for is taken too
					t.Errorf("%d bytes were taken", n)
				}
			})
		}
	}
}

// A large app's answer has room.
func TestValues(t *testing.T) {
	if n := values([]byte(`{"a":[1,2,"x,\",\\"],"b":{"c":null,"d":",,"}}`)); n != 5 {
		t.Errorf("%d values, want 5", n)
	}
	slot := Slot{Workers: make([]Worker, 2), LastExit: new(LastExit)}
	data, err := json.Marshal(App{Slots: slices.Repeat([]Slot{slot}, 1024)})
	if err != nil {
		t.Fatal(err)
	}
	if n := values(data); n > answerValues/2 || len(data) > answerSize/4 {
		t.Errorf("1024 slots with two workers each have %d values in %d bytes", n, len(data))
	}
}
