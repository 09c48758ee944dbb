package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/load"
)

// A soakFault is something that happens to an app. do returns when it has happened.
type soakFault struct {
	name string
	do   func(*soak, context.Context) (effect, error)
}

// effect is what a fault may cost, nil for nothing, and words for the log.
type effect struct {
	allows func(load.Failure) bool
	said   string
}

func soakFaults() []soakFault {
	return []soakFault{
		{"kill a worker", (*soak).killWorker},
		{"kill a worker", (*soak).killWorker},
		{"signal a worker", (*soak).endWorker},
		{"freeze a worker", (*soak).freezeWorker},
		{"freeze the master", (*soak).freezeMaster},
		{"storm of signals", (*soak).storm},
		{"withdraw and return", (*soak).withdraw},
		{"reload, good", (*soak).reloadGood},
		{"reload, good", (*soak).reloadGood},
		{"reload, bad", (*soak).reloadBad},
		{"scale", (*soak).scale},
		{"stop and start", (*soak).restart},
		{"kill the master", (*soak).killMaster},
		{"full disk", (*soak).fullDisk},
		{"directory removed", (*soak).removeDirectory},
		{"no descriptors", (*soak).noDescriptors},
	}
}

// worker returns a random worker that is ready, as a handle that can't reach a stranger.
func (s *soak) worker(ctx context.Context) (*os.Process, error) {
	status, err := s.status(ctx)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, slot := range status.Slots {
		if pid := readyPID(slot); pid != 0 {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, errors.New("the app has no worker that is ready")
	}
	return os.FindProcess(pids[s.dice.IntN(len(pids))])
}

func (s *soak) killWorker(ctx context.Context) (e effect, err error) {
	p, err := s.worker(ctx)
	if err != nil {
		return e, err
	}
	return s.kill(ctx, p)
}

// kill stops a worker, asks which connections it has accepted, and ends it. It
// releases the handle.
func (s *soak) kill(ctx context.Context, p *os.Process) (e effect, err error) {
	defer func() { _ = p.Release() }()
	sig := []syscall.Signal{syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGABRT}[s.dice.IntN(3)]
	if err := send(p, syscall.SIGSTOP); err != nil {
		return e, err
	}
	var k kill
	err = untilAllStopped(ctx, p.Pid)
	if err == nil {
		k.had, err = connectionsOf(p.Pid, s.port)
	}
	if err != nil && errors.Is(p.Signal(syscall.SIGCONT), os.ErrProcessDone) {
		return effect{said: "which had just ended"}, nil
	}
	k.at = time.Now()
	// A process that stands still takes only SIGKILL: what comes with SIGCONT ends it.
	if err := errors.Join(err, send(p, sig), send(p, syscall.SIGCONT)); err != nil {
		return e, err
	}
	s.gone = p.Pid
	lost := k.explains
	if sig != syscall.SIGKILL {
		// Go's other threads go on while one writes the traces: they accept and answer
		// what was queued, half open or new. Nobody can say what the crash cost.
		lost = func(f load.Failure) bool { return f.At.After(k.at) && (f.Kind == load.Reset || f.Kind == load.EOF) }
	}
	return effect{lost, fmt.Sprintf("%v, which had accepted %d connections", sig, len(k.had.accepted))}, nil
}

// untilAllStopped waits until the kernel shows every thread of a process as stopped.
// Unlike untilStopped it is sure of it beside busy neighbours; the master may take
// longer to bury the process, which counts for nothing here.
func untilAllStopped(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for ; ctx.Err() == nil; load.Pause(ctx, time.Millisecond) {
		threads, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task/*/stat"))
		if err != nil || len(threads) == 0 {
			return errors.Join(err, os.ErrProcessDone)
		}
		running := slices.ContainsFunc(threads, func(thread string) bool {
			stat, err := os.ReadFile(thread)
			_, rest, _ := strings.Cut(string(stat), ") ")
			return err == nil && !strings.HasPrefix(rest, "T")
		})
		if !running {
			return nil
		}
	}
	return fmt.Errorf("worker %d does not stop", pid)
}

// endWorker sends a worker its stop signal from outside: it drains.
func (s *soak) endWorker(ctx context.Context) (e effect, err error) {
	p, err := s.worker(ctx)
	if err != nil {
		return e, err
	}
	defer func() { _ = p.Release() }()
	s.gone = p.Pid
	return effect{said: "SIGTERM"}, send(p, syscall.SIGTERM)
}

func (s *soak) freezeWorker(ctx context.Context) (e effect, err error) {
	p, err := s.worker(ctx)
	if err != nil {
		return e, err
	}
	defer func() { _ = p.Release() }()
	return s.freeze(ctx, p)
}

func (s *soak) freezeMaster(ctx context.Context) (effect, error) {
	return s.freeze(ctx, s.app.cmd.Process)
}

func (s *soak) freeze(ctx context.Context, p *os.Process) (effect, error) {
	d := time.Duration(s.dice.IntN(1500)) * time.Millisecond
	if err := send(p, syscall.SIGSTOP); err != nil {
		return effect{}, err
	}
	load.Pause(ctx, d)
	return effect{said: d.String()}, send(p, syscall.SIGCONT)
}

// send is for a process that may have ended meanwhile: a roll is under way.
func send(p *os.Process, sig syscall.Signal) error {
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// storm sends the master signals that ask for work, in any order.
func (s *soak) storm(context.Context) (effect, error) {
	n := 1 + s.dice.IntN(40)
	for range n {
		sig := []syscall.Signal{syscall.SIGUSR2, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGTTIN, syscall.SIGTTOU}[s.dice.IntN(5)]
		if s.slots >= 8 && sig == syscall.SIGTTIN || s.slots == 1 && sig == syscall.SIGTTOU {
			continue
		}
		if err := s.signal(sig); err != nil {
			return effect{}, err
		}
	}
	return effect{said: fmt.Sprintf("%d signals", n)}, nil
}

// withdraw takes all workers away for a moment: what connects waits for them.
func (s *soak) withdraw(ctx context.Context) (effect, error) {
	if err := s.signal(syscall.SIGWINCH); err != nil {
		return effect{}, err
	}
	load.Pause(ctx, time.Duration(s.dice.IntN(1000))*time.Millisecond)
	return effect{}, s.signal(syscall.SIGHUP)
}

func (s *soak) reloadGood(ctx context.Context) (e effect, err error) {
	if err := s.configure(goodRelease); err != nil {
		return e, err
	}
	code, said, err := s.forkdSays(ctx, "reload", s.app.name)
	if err == nil && code != 0 {
		err = fmt.Errorf("a good release was refused: exit %d: %s", code, said)
	}
	s.mixed = false
	return effect{said: lastLine(said)}, err
}

// reloadBad asks for a release that can't serve: the app goes back.
func (s *soak) reloadBad(ctx context.Context) (e effect, err error) {
	r := []release{deadRelease, lateRelease, silentRelease, missingRelease, brokenRelease, unknownRelease}[s.dice.IntN(6)]
	if err := s.configure(r); err != nil {
		return e, err
	}
	code, said, err := s.forkdSays(ctx, "reload", s.app.name)
	if err == nil && code != 1 {
		err = fmt.Errorf("a bad release, %s: exit %d: %s", r, code, said)
	}
	if back := s.configure(goodRelease); err == nil {
		err = back
	}
	return effect{said: lastLine(said)}, err
}

func lastLine(text string) string {
	return text[strings.LastIndexByte(text, '\n')+1:]
}

func (s *soak) scale(ctx context.Context) (e effect, err error) {
	n := 1 + s.dice.IntN(8)
	code, said, err := s.forkdSays(ctx, "scale", s.app.name, strconv.Itoa(n))
	if err == nil && code != 0 {
		err = fmt.Errorf("scale %d: exit %d: %s", n, code, said)
	}
	return effect{said: lastLine(said)}, err
}

// unserved allows what no worker had begun to serve, while there is nobody to
// serve it: refused, or cut with the closing socket's queue.
func unserved(f load.Failure) bool {
	return f.Kind == load.Refused || f.Kind == load.Reset && f.Answered == 0
}

// restart stops the app and starts it again: what a worker has accepted is
// answered.
func (s *soak) restart(ctx context.Context) (effect, error) {
	code, said, err := s.forkdSays(ctx, "stop", s.app.name)
	if err == nil && code != 0 {
		err = fmt.Errorf("stop: exit %d: %s", code, said)
	}
	if err == nil {
		<-s.app.ended
		if code := s.app.cmd.ProcessState.ExitCode(); code != 0 {
			err = fmt.Errorf("the master stopped with exit code %d", code)
		}
	}
	if err == nil {
		err = s.nothingLeft(ctx)
	}
	if err == nil {
		err = s.start(ctx)
	}
	return effect{allows: unserved}, err
}

// killMaster leaves the workers to drain, and a successor to serve after them.
func (s *soak) killMaster(ctx context.Context) (effect, error) {
	if err := s.signal(syscall.SIGKILL); err != nil {
		return effect{}, err
	}
	<-s.app.ended
	return effect{allows: unserved}, s.start(ctx)
}

// fullDisk fills the runtime directory's file system for a roll and a crash.
func (s *soak) fullDisk(ctx context.Context) (effect, error) {
	if !s.tiny {
		return effect{said: "left out"}, nil
	}
	filler := filepath.Join(s.run, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		return effect{}, fmt.Errorf("the disk is not full: %w", err)
	}
	defer os.Remove(filler)
	_, said, err := s.forkdSays(ctx, "reload", "--keep-config", s.app.name)
	if err != nil {
		return effect{}, err
	}
	e, err := s.killWorker(ctx)
	e.said = lastLine(said)
	return e, err
}

// removeDirectory takes the app's files away: it makes them again.
func (s *soak) removeDirectory(ctx context.Context) (effect, error) {
	if err := os.RemoveAll(filepath.Join(s.run, s.app.name)); err != nil {
		return effect{}, err
	}
	if err := s.settle(ctx); err != nil {
		return effect{}, err
	}
	return s.killWorker(ctx)
}

// noDescriptors lets the master open hardly any file for a while, in which a
// worker has to be replaced.
func (s *soak) noDescriptors(ctx context.Context) (e effect, err error) {
	pid := s.app.cmd.Process.Pid
	have, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if err != nil {
		return e, err
	}
	var before unix.Rlimit
	few := unix.Rlimit{Cur: uint64(len(have) + s.dice.IntN(6)), Max: 1 << 16}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		return e, err
	}
	few.Max = before.Max
	p, err := s.worker(ctx)
	if err != nil {
		return e, err
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		return e, err
	}
	s.mixed = true
	e, err = s.kill(ctx, p)
	_, said, reloaded := s.forkdSays(ctx, "reload", "--keep-config", s.app.name)
	e.said = lastLine(said)
	return e, errors.Join(err, reloaded, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil))
}
