package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/redisconfig"
)

const (
	agentCheckInterval = time.Second           // of its memory
	agentSilentChecks  = 15                    // without a line from it, until it is replaced
	agentMemoryMax     = 128 << 20             // bytes that may be resident
	agentMemoryTarget  = "96MiB"               // for its garbage collector
	agentLineInterval  = 10 * time.Millisecond // between two of its lines
	minAgentBackoff    = time.Second           // before it is started again; doubles
	maxAgentBackoff    = 30 * time.Second
	agentHealthyAfter  = time.Minute // a longer life resets the backoff
	agentStopTimeout   = redisconfig.AgentLeaveWithin + time.Second
)

// fleetAgent starts, watches and replaces the process that reports the app to
// Redis: the fleet agent, a client of the control API. Its goroutine may block; the
// loop only passes it the settings of the generation that serves.
type fleetAgent struct {
	setup    redisconfig.Agent // without Settings
	command  []string
	children *process.Children
	log      *slog.Logger
	settings chan Redis // the newest, if it has not been taken yet
	leaving  chan struct{}
	done     chan struct{}

	listener *os.File // of the embedded Redis, kept for one address; nil: none
	address  string
	status   atomic.Pointer[control.Redis] // how the report fares; nil: no Redis is set
}

// agentProcess is a running agent.
type agentProcess struct {
	*process.Process

	channel *os.File      // a socket
	read    chan struct{} // closed when nothing more is read from it
	lines   atomic.Int64  // that it has sent
	checked int64         // lines at the last check
	silent  int           // checks since the last line
	began   time.Time
	ended   chan process.Exit // gets one
}

// startAgent begins to report, until leave. dir is the app's runtime directory.
func startAgent(cfg Config, dir string, l *loop, e *executor) *fleetAgent {
	a := &fleetAgent{
		setup:   redisconfig.Agent{App: cfg.Name, Boot: l.events.Boot(), StartedAt: e.startedAt, Metrics: cfg.Metrics, Directory: filepath.Dir(dir)},
		command: cfg.FleetAgent, children: e.children, log: e.log,
		settings: make(chan Redis, 1), leaving: make(chan struct{}), done: make(chan struct{}),
	}
	a.follow(cfg.Redis)
	e.agent = a
	go a.run()
	return a
}

// follow sets the settings to report by. Only the loop's goroutine calls it, and
// whoever starts it.
func (a *fleetAgent) follow(r Redis) {
	select {
	case <-a.settings: // never taken: this one is newer
	default:
	}
	a.settings <- r
}

// leave has the agent take the host out of Redis, and returns when it is gone.
func (a *fleetAgent) leave() {
	close(a.leaving)
	select {
	case <-a.done:
	case <-time.After(2 * agentStopTimeout):
		a.log.Error("the fleet agent does not end: the host may be seen in Redis until its time is over")
	}
}

func (a *fleetAgent) run() {
	defer close(a.done)
	var now Redis
	var p *agentProcess
	defer func() {
		a.stop(p)
		a.closeListener()
	}()
	backoff := minAgentBackoff
	var retry <-chan time.Time // nil: there is no need
	check := time.Tick(agentCheckInterval)
	failed := func(err error) {
		a.down(now, err)
		retry = time.After(backoff)
		backoff = min(2*backoff, maxAgentBackoff)
	}
	start := func() {
		var err error
		if p, err = a.start(now); err != nil {
			failed(err)
		}
	}
	for {
		var ended <-chan process.Exit
		if p != nil {
			ended = p.ended
		}
		select {
		case <-a.leaving:
			return
		case next := <-a.settings:
			if reflect.DeepEqual(now, next) {
				continue
			}
			a.stop(p)
			p, now, backoff = nil, next, minAgentBackoff
			a.status.Store(nil)
			retry = nil
			if now.URL != redisconfig.Embedded {
				a.closeListener()
			}
			if now.URL != "" {
				start()
			}
		case <-retry:
			start()
		case how := <-ended:
			if how.At.Sub(p.began) > agentHealthyAfter {
				backoff = minAgentBackoff
			}
			p.close()
			p = nil
			err := fmt.Errorf("the fleet agent has ended: %s", how)
			if h := a.status.Load(); how.Code == 1 && h != nil && h.State == control.RedisDown && h.Error != "" {
				err = errors.New(h.Error) // it has said why
			}
			failed(err)
		case <-check:
			if p == nil {
				continue
			}
			if used := resident(p.PID()); used > agentMemoryMax {
				a.log.Error("the fleet agent uses too much memory: it is replaced", "bytes", used, "max", agentMemoryMax)
				_ = p.Signal(syscall.SIGKILL)
			}
			p.silent++
			if n := p.lines.Load(); n != p.checked {
				p.checked, p.silent = n, 0
			}
			if p.silent >= agentSilentChecks {
				a.log.Error("the fleet agent hangs: it is replaced")
				_ = p.Signal(syscall.SIGKILL)
			}
		}
	}
}

// down puts an error into the status, until an agent reports.
func (a *fleetAgent) down(r Redis, err error) {
	h := control.Redis{State: control.RedisDown, Since: time.Now(), Error: err.Error(), URL: redisconfig.MaskURL(r.URL)}
	if was := a.status.Load(); was != nil {
		h.URL, h.Host = was.URL, was.Host
		if was.State == control.RedisDown {
			h.Since = was.Since
		}
	}
	a.status.Store(&h)
	a.log.Error("no report to Redis: it is tried again", "why", err)
}

func (a *fleetAgent) start(r Redis) (*agentProcess, error) {
	if len(a.command) == 0 {
		return nil, errors.New("this program has no fleet agent: forkd run has one")
	}
	setup := a.setup
	if setup.Embedded = r.URL == redisconfig.Embedded; setup.Embedded {
		if err := a.listen(); err != nil {
			return nil, err
		}
		r.URL = "redis://" + a.address
	}
	setup.Settings = r
	null, err := openNull()
	if err != nil {
		return nil, err
	}
	defer unix.Close(null)
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make the channel of the fleet agent: %w", os.NewSyscallError("socketpair", err))
	}
	defer unix.Close(ends[1])
	p := &agentProcess{
		channel: os.NewFile(uintptr(ends[0]), "agent"), read: make(chan struct{}),
		began: time.Now(), ended: make(chan process.Exit, 1),
	}
	files := []int{null, null, 2, ends[1]}
	if setup.Embedded {
		files = append(files, int(a.listener.Fd()))
	}
	p.Process, err = a.children.Start(process.Spec{
		Path: "/proc/self/exe", Args: a.command, Dir: "/", Files: files, Umask: -1,
		Env:         append(inherited(nil), "GOMEMLIMIT="+agentMemoryTarget),
		ParentDeath: syscall.SIGKILL,
	})
	if err != nil {
		_ = p.channel.Close()
		return nil, fmt.Errorf("cannot start the fleet agent: %w", err)
	}
	p.Watch(func(x process.Exit) { p.ended <- x }, func() {})
	text, err := json.Marshal(setup)
	if err != nil || p.write(string(text)) != nil {
		_ = p.Signal(syscall.SIGKILL) // ended follows
	}
	go a.readLines(p)
	return p, nil
}

// listen makes the embedded Redis's socket, which outlives the agent.
func (a *fleetAgent) listen() error {
	if a.listener != nil {
		return nil
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("cannot listen for the embedded Redis: %w", err)
	}
	defer ln.Close()
	a.address = ln.Addr().String()
	if a.listener, err = ln.(*net.TCPListener).File(); err != nil {
		return fmt.Errorf("cannot keep the socket of the embedded Redis: %w", err)
	}
	return nil
}

func (a *fleetAgent) closeListener() {
	if a.listener != nil {
		a.listener.Close()
		a.listener = nil
	}
}

func (p *agentProcess) write(line string) error {
	_ = p.channel.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := p.channel.Write([]byte(line + "\n"))
	return err
}

// close ends the channel. What the agent has said is in the status, or never will be.
func (p *agentProcess) close() {
	_ = p.channel.Close()
	<-p.read
}

// readLines takes the agent's lines: its health, and what it logs.
func (a *fleetAgent) readLines(p *agentProcess) {
	defer close(p.read)
	lines := bufio.NewScanner(p.channel)
	lines.Buffer(nil, redisconfig.AgentLineMax)
	for ; lines.Scan(); time.Sleep(agentLineInterval) {
		var line struct {
			Health *control.Redis
			Level  slog.Level
			Msg    string
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			a.log.Error("the fleet agent sends what is no JSON: it is replaced")
			break
		}
		p.lines.Add(1)
		if line.Health != nil {
			a.status.Store(line.Health)
			continue
		}
		var all map[string]any
		_ = json.Unmarshal(lines.Bytes(), &all) // an object, as line was
		var attrs []slog.Attr
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if key != slog.TimeKey && key != slog.LevelKey && key != slog.MessageKey {
				attrs = append(attrs, slog.Any(key, all[key]))
			}
		}
		a.log.LogAttrs(context.Background(), line.Level, line.Msg, attrs...)
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		a.log.Error("the fleet agent sends too long a line: it is replaced", "max", redisconfig.AgentLineMax)
	}
	_ = p.Signal(syscall.SIGKILL) // it may have ended
}

// stop has the agent take the host out of Redis, and kills it when it takes too long.
func (a *fleetAgent) stop(p *agentProcess) {
	if p == nil {
		return
	}
	defer p.close()
	_ = p.write(redisconfig.AgentLeave)
	select {
	case <-p.ended:
		return
	case <-time.After(agentStopTimeout):
	}
	a.log.Warn("the fleet agent does not end: it is killed")
	_ = p.Signal(syscall.SIGKILL)
	<-p.ended
}

// resident is a process's resident memory in bytes; 0: not known (proc_pid_statm(5)).
func resident(pid int) int64 {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	var size, pages int64
	_, _ = fmt.Sscan(string(text), &size, &pages)
	return pages * int64(os.Getpagesize())
}
