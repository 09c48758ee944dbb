package control

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
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
	c.wait = answerTime
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
	c := connect(t, serving(t, b, quick(), os.Geteuid()))
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
