package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/test/load"
	"github.com/forkd/forkd/test/ports"
)

const (
	soakClients = 8
	// settleTime bounds how long an app may take to be as it should after a fault.
	settleTime = time.Minute
	// soakDrain is the app's drain.timeout: leftovers of a killed master live no longer.
	soakDrain = 5 * time.Second
)

// A soak is one app under load, one fault after the other from outside, and a
// judge of every request and, after each fault, of what is left. The faults
// follow from the seed; when exactly they fall does not.
type soak struct {
	bench  *bench
	dice   *rand.Rand
	app    *app
	port   int
	slots  int    // wanted
	shop   string // the configuration file
	run    string // the runtime directory, on a file system of its own where root may mount one
	tiny   bool   // and so small that it can be filled
	gone   int    // the worker that a fault has ended
	mixed  bool   // a rollback may have failed: slots may run different generations
	base   map[int]int
	most   maximum
	faults []window

	mu       sync.Mutex // over what the clients report
	requests int
	failures []lostRequest
}

// lostRequest is a failure, with the time that its request began.
type lostRequest struct {
	load.Failure
	began time.Time
}

// window is the time of one fault, which may cost requests of some kinds on the
// connections that were opened before its end.
type window struct {
	name     string
	from, to time.Time
	allows   func(load.Failure) bool
}

// maximum is what the masters needed at most, as far as it was seen.
type maximum struct{ files, threads, rss int }

// soakOnce makes what a soak needs, runs it and takes it away again.
func (b *bench) soakOnce(ctx context.Context, d time.Duration, seed uint64, out io.Writer) error {
	if seed == 0 {
		seed = rand.Uint64()
	}
	if err := b.open(); err != nil {
		return err
	}
	defer b.close()
	return b.soak(ctx, d, seed, out)
}

// soak runs for d, at least one fault, and returns an error that says what broke.
func (b *bench) soak(ctx context.Context, d time.Duration, seed uint64, out io.Writer) (err error) {
	s := &soak{bench: b, dice: rand.New(rand.NewPCG(seed, 1)), slots: 4, base: map[int]int{}, run: filepath.Join(b.dir, "run")}
	port, release, err := ports.Take(1)
	if err != nil {
		return err
	}
	defer release()
	s.port = port
	if err := os.Mkdir(s.run, 0o700); err != nil {
		return err
	}
	if unix.Mount("tmpfs", s.run, "tmpfs", 0, "size=256k,mode=0700") == nil {
		s.tiny = true
		defer func() { _ = unix.Unmount(s.run, unix.MNT_DETACH) }()
	} else {
		fmt.Fprintln(out, "soak: a full disk is left out: only root may mount one that is small")
	}
	s.shop = filepath.Join(b.dir, "soak.toml")
	if err := s.configure(goodRelease); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	defer func() { s.app.stop() }()
	fmt.Fprintf(out, "soak: %v, seed %d\n", d, seed)

	load, end := context.WithCancel(ctx)
	defer end()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer end()
	for i := range soakClients {
		clients.Go(func() { s.ask(load, rand.New(rand.NewPCG(seed, uint64(i)+2))) })
	}
	start := time.Now()
	for n := 1; n == 1 || time.Since(start) < d && ctx.Err() == nil; n++ {
		f := soakFaults()[s.dice.IntN(len(soakFaults()))]
		at := time.Since(start).Round(time.Millisecond)
		said, err := s.inflict(ctx, f)
		if err != nil {
			return fmt.Errorf("seed %d, after %v, fault %d, %s: %w\n%s", seed, at, n, f.name, err, s.app.tail())
		}
		fmt.Fprintf(out, "%8.1fs  %4d  %-22s %s\n", at.Seconds(), n, f.name, said)
	}
	end()
	clients.Wait()
	if err := s.judgeRequests(); err != nil {
		return fmt.Errorf("seed %d: %w\n%s", seed, err, s.app.tail())
	}
	s.app.stop()
	if err := s.nothingLeft(ctx); err != nil {
		return fmt.Errorf("seed %d: %w", seed, err)
	}
	fmt.Fprintf(out, "soak: clean: %d faults, %s requests, master at most %d files, %d threads, %.1f MB resident\n",
		len(s.faults), thousands(float64(s.requests)), s.most.files, s.most.threads, float64(s.most.rss)/1e6)
	return ctx.Err()
}

// inflict does one fault, in a roll or not, waits until the app is as it should be, and judges.
func (s *soak) inflict(ctx context.Context, f soakFault) (said string, err error) {
	from := time.Now()
	rolling := s.dice.IntN(3) == 0
	if rolling {
		if err := s.signal(syscall.SIGUSR2); err != nil {
			return "", err
		}
		load.Pause(ctx, time.Duration(s.dice.IntN(150))*time.Millisecond)
	}
	effect, err := f.do(s, ctx)
	if err != nil {
		return "", err
	}
	if err := s.settle(ctx); err != nil {
		return "", err
	}
	if effect.allows == nil {
		effect.allows = func(load.Failure) bool { return false }
	}
	s.mu.Lock()
	s.faults = append(s.faults, window{f.name, from, time.Now(), effect.allows})
	s.mu.Unlock()
	if rolling {
		effect.said = "in a roll; " + effect.said
	}
	return effect.said, s.judgeRequests()
}

// ask sends requests until ctx ends: each client keeps some connections and
// closes others, and is silent for up to half a second now and then, less than drain.idle.
func (s *soak) ask(ctx context.Context, dice *rand.Rand) {
	c := load.NewClient(newAddress(s.port))
	c.Timeout = 20 * time.Second
	defer c.Close()
	for ctx.Err() == nil {
		began := time.Now()
		_, failed := c.Ask(dice.IntN(4) == 0)
		s.mu.Lock()
		s.requests++
		if failed != nil {
			s.failures = append(s.failures, lostRequest{*failed, began})
		}
		s.mu.Unlock()
		rest := time.Duration(1+dice.IntN(20)) * time.Millisecond
		if dice.IntN(100) == 0 {
			rest = time.Duration(dice.IntN(500)) * time.Millisecond
		}
		load.Pause(ctx, rest)
	}
}

// judgeRequests says which failed request no fault explains.
func (s *soak) judgeRequests() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == 0 {
		return nil
	}
	ended := s.faults[len(s.faults)-1].to
	var rest []lostRequest
	for _, f := range s.failures {
		switch {
		case f.began.After(ended): // the next fault is under way
			rest = append(rest, f)
		case !s.explained(f):
			return fmt.Errorf("a request was lost: %v: %w: connection opened %v, %d requests answered on it, asked %v, lost %v",
				f.Kind, f.Err, clock(f.Opened), f.Answered, clock(f.began), clock(f.At))
		}
	}
	s.failures = rest
	return nil
}

func (s *soak) explained(f lostRequest) bool {
	for _, w := range s.faults {
		if w.from.Before(f.At) && w.to.After(f.Opened) && w.allows(f.Failure) {
			return true
		}
	}
	return false
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

// start runs the master and waits until all its workers are ready.
func (s *soak) start(ctx context.Context) (err error) {
	s.app = &app{forkd: s.bench.program("forkd"), name: "soak", env: []string{"FORKD_RUNTIME_DIR=" + s.run, "FORKD_STATE_DIR=" + filepath.Join(s.run, "state")}}
	if s.app.server, err = launch(s.port, s.app.env, s.app.forkd, "run", "-c", s.shop); err != nil {
		return err
	}
	return s.settle(ctx)
}

// A release is what the configuration file says of the program.
type release string

const (
	goodRelease    release = "good"
	deadRelease    release = `command = ["sh", "-c", "exit 3"]`
	lateRelease    release = `command = ["sh", "-c", "sleep 0.3; exit 4"]`
	silentRelease  release = `command = ["sleep", "1000"]`
	missingRelease release = `command = ["./no-such-program"]`
	brokenRelease  release = `command = [`
	unknownRelease release = "commands = [\"true\"]"
)

// configure writes the configuration file, by rename as a deployment does.
func (s *soak) configure(r release) error {
	command := string(r)
	if r == goodRelease {
		command = fmt.Sprintf("command = [%q]\nenv = { RELEASE = \"%d\", GOTRACEBACK = \"none\" }", s.bench.example()[0], s.dice.Uint32())
	}
	text := fmt.Sprintf(`name = "soak"
workers = %d
%s
[[listen]]
name = "http"
address = "tcp://127.0.0.1:%d"
[ready]
timeout = "3s"
[update]
monitor = "200ms"
parallelism = %d
[drain]
timeout = %q
idle = "1s"
`, s.slots, command, s.port, s.dice.IntN(3), soakDrain)
	next := s.shop + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(next, s.shop)
}

// status asks the master, by a connection of its own each time.
func (s *soak) status(ctx context.Context) (control.App, error) {
	client, err := control.Connect(control.Location{Dir: s.run, Name: s.app.name})
	if err != nil {
		return control.App{}, err
	}
	defer client.Close()
	return client.Status(ctx)
}

// settle waits until the app is as it should be: the judge's last word is the
// error.
func (s *soak) settle(ctx context.Context) error {
	until, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		wrong := s.judgeApp(ctx)
		if wrong == nil {
			return nil
		}
		select {
		case <-s.app.ended:
			return errors.New("the master has ended")
		case <-until.Done():
			return fmt.Errorf("not settled within %v: %w", settleTime, wrong)
		default:
			load.Pause(ctx, 20*time.Millisecond)
		}
	}
}

// forkdSays runs a command of the command line and returns its exit code and
// what it said.
func (s *soak) forkdSays(ctx context.Context, args ...string) (code int, said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	out, err := s.app.command(ctx, args...).CombinedOutput()
	if exit, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		code, err = exit.ExitCode(), nil
	}
	return code, strings.TrimSpace(string(out)), err
}

// signal sends the master a signal.
func (s *soak) signal(signals ...syscall.Signal) error {
	for _, sig := range signals {
		if err := s.app.cmd.Process.Signal(sig); err != nil {
			return fmt.Errorf("cannot send %v to the master: %w", sig, err)
		}
	}
	return nil
}
