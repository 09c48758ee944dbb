package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/test/load"
)

// An app is the program under forkd.
type app struct {
	*stage
	*process
	client *control.Client // nil: it does not answer yet
}

const appName = "compat"

// startTime bounds how long an app may take to have all workers ready.
const startTime = 20 * time.Second

// hopeless is how many restarts tell that an app will not be ready.
const hopeless = 4

// run starts forkd run with a command. The caller calls kill, if not stop.
func (s *stage) run(workers int, flags, command, env []string) (*app, error) {
	words := []string{"$BIN/forkd", "run", "--name", appName, "--workers", strconv.Itoa(workers), "--monitor", "300ms"}
	words = append(append(append(words, flags...), "--"), command...)
	p, err := s.start(words, env)
	if err != nil {
		return nil, err
	}
	return &app{stage: s, process: p}, nil
}

// ready waits until all workers are ready. It says why they are not.
func (a *app) ready(ctx context.Context) (control.App, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		status, err := a.status(ctx)
		switch {
		case err == nil && status.AllReady():
			return status, nil
		case a.endsIn(0):
			return status, errors.New(a.lastLine())
		case ctx.Err() != nil, status.Totals.Restarts >= hopeless:
			return status, errors.New(a.why(status))
		}
		load.Pause(ctx, 10*time.Millisecond)
	}
}

func (a *app) status(ctx context.Context) (status control.App, err error) {
	if a.client == nil {
		if a.client, err = control.Connect(control.Location{Dir: a.dir + "/run", Name: appName}); err != nil {
			a.client = nil
			return status, err
		}
	}
	return a.client.Status(ctx)
}

// why is the newest reason that a slot has not to be ready.
func (a *app) why(status control.App) string {
	for _, slot := range status.Slots {
		if exit := slot.LastExit; exit != nil {
			return exit.Reason + ": " + a.lastLine()
		}
		if slot.Reason != "" {
			return slot.Reason
		}
	}
	return "not ready in " + startTime.String()
}

// restarts is how often workers have ended by themselves.
func (a *app) restarts(ctx context.Context) int {
	status, err := a.status(ctx)
	if err != nil {
		return -1
	}
	return status.Totals.Restarts
}

func (a *app) reload(ctx context.Context) error {
	return a.forkd(ctx, "reload", "--keep-config", appName)
}

func (a *app) forkd(ctx context.Context, words ...string) error {
	said, err := a.command(ctx, append([]string{"$BIN/forkd"}, words...), nil).CombinedOutput()
	if err != nil {
		lines := bytes.Split(bytes.TrimSpace(said), []byte("\n"))
		return fmt.Errorf("%s: %s", words[0], bytes.TrimPrefix(lines[len(lines)-1], []byte("forkd: "+appName+": ")))
	}
	return nil
}

// settled waits until every slot has one worker, and it is ready, for as long as most
// programs take to drain.
func (a *app) settled(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		status, err := a.status(ctx)
		if err == nil && status.AllReady() && !slices.ContainsFunc(status.Slots, func(s control.Slot) bool { return len(s.Workers) > 1 }) {
			return
		}
		load.Pause(ctx, 20*time.Millisecond)
	}
}

// replaceTime bounds how long a killed worker may be missed: what it has left gets KILL
// after drain.timeout, 30 s, and some programs do not start beside it.
const replaceTime = 40 * time.Second

// killOne kills the worker of slot 0 and waits for its successor.
func (a *app) killOne(ctx context.Context) error {
	status, err := a.status(ctx)
	if err != nil {
		return err
	}
	pid := status.Slots[0].Workers[0].PID
	if err := send(pid, syscall.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, replaceTime)
	defer cancel()
	for ctx.Err() == nil {
		status, err := a.status(ctx)
		if err == nil && status.AllReady() && slices.ContainsFunc(status.Slots[0].Workers, func(w control.Worker) bool {
			return w.PID != pid && w.State == control.StateReady
		}) {
			return nil
		}
		load.Pause(ctx, 10*time.Millisecond)
	}
	return errors.New("no successor in " + replaceTime.String())
}

// stop stops the app as a user does, and says what it has left.
func (a *app) stop(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second) // more than drain.timeout
	defer cancel()
	start := time.Now()
	err := a.forkd(ctx, "stop", appName)
	took := time.Since(start)
	if err != nil || !a.endsIn(endTime) {
		a.kill()
		return fmt.Sprintf("does not stop: %v", err)
	}
	a.close()
	left := append(a.sweep(), socketFiles(a.dir)...)
	if code := a.cmd.ProcessState.ExitCode(); code != 0 {
		left = append(left, fmt.Sprintf("exit status %d", code))
	}
	if len(left) > 0 {
		return "left: " + strings.Join(left, ", ")
	}
	return fmt.Sprintf("nothing, %.1f s", took.Seconds())
}

// kill ends the app at once, with all that is left of it.
func (a *app) kill() {
	a.close()
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	if !a.endsIn(time.Second) {
		_ = a.cmd.Process.Signal(syscall.SIGTERM) // stop at once
		if !a.endsIn(endTime) {
			_ = a.cmd.Process.Kill()
			<-a.ended
		}
	}
	a.sweep()
}

func (a *app) close() {
	if a.client != nil {
		a.client.Close()
		a.client = nil
	}
}
