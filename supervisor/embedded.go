package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/process"
)

// again is how soon a small Redis that has ended is started anew.
const again = time.Second

// embedded is a small Redis of the master's own: another process, so that what
// goes wrong in it stays there, on a socket that the master keeps, so that it is
// found under one address for as long as the master lives. It dies with the
// master.
type embedded struct {
	children *process.Children
	command  []string
	log      *slog.Logger
	listener *os.File
	address  string

	ended chan struct{} // closed by close: nothing is started any more
	gone  chan struct{} // closed when the process has been reaped

	mu      sync.Mutex
	process *process.Process
}

// embed starts a small Redis on a free port of the loopback.
func embed(children *process.Children, command []string, log *slog.Logger) (*embedded, error) {
	if len(command) == 0 {
		return nil, errors.New("this program has no Redis of its own: set redis.url to the URL of one")
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot listen for the embedded Redis: %w", err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("cannot keep the socket of the embedded Redis: %w", err)
	}
	e := &embedded{
		children: children, command: command, log: log, listener: file, address: ln.Addr().String(),
		ended: make(chan struct{}), gone: make(chan struct{}),
	}
	if err := e.start(); err != nil {
		file.Close()
		return nil, err
	}
	return e, nil
}

func (e *embedded) url() string { return "redis://" + e.address }

// start runs the process once, and again when it has ended.
func (e *embedded) start() error {
	null, err := openNull()
	if err != nil {
		return err
	}
	defer unix.Close(null)
	p, err := e.children.Start(process.Spec{
		Path:        "/proc/self/exe",
		Args:        e.command,
		Env:         inherited(nil),
		Dir:         "/",
		Files:       []int{null, null, 2, int(e.listener.Fd())},
		Umask:       -1,
		ParentDeath: syscall.SIGKILL,
	})
	if err != nil {
		return fmt.Errorf("cannot start the embedded Redis: %w", err)
	}
	e.mu.Lock()
	e.process = p
	e.mu.Unlock()
	exited := make(chan process.Exit, 1)
	p.Watch(func(x process.Exit) { exited <- x }, func() {})
	go e.mind(exited)
	return nil
}

// mind waits for the process's end.
func (e *embedded) mind(exited <-chan process.Exit) {
	how := <-exited
	select {
	case <-e.ended:
		close(e.gone)
		return
	default:
	}
	e.log.Error("the embedded Redis has ended: what it knew is lost, and is reported again", "why", how)
	wait := time.NewTimer(again)
	defer wait.Stop()
	for {
		select {
		case <-e.ended:
			close(e.gone)
			return
		case <-wait.C:
		}
		err := e.start()
		if err == nil {
			return
		}
		e.log.Error("cannot start the embedded Redis again", "why", err)
		wait.Reset(again)
	}
}

// close ends the process and returns when it is gone.
func (e *embedded) close() {
	close(e.ended)
	for waiting := true; waiting; {
		e.mu.Lock()
		_ = e.process.Signal(syscall.SIGKILL) // gone already is as good
		e.mu.Unlock()
		look := time.NewTimer(again) // it may have been started a moment ago
		select {
		case <-e.gone:
			waiting = false
		case <-look.C:
		}
		look.Stop()
	}
	e.listener.Close()
}
