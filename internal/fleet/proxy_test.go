package fleet_test

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A proxy stands between a client and a server, and treats each command as the
// test wants it.
type proxy struct {
	address string
	to      *server
	treat   atomic.Pointer[treatment]
	beats   atomic.Int64 // scripts that the server has been given
	opened  atomic.Int64 // connections
}

// A treatment is asked about each command.
type treatment func(command []string) fate

// fate is what becomes of a command.
type fate struct {
	delay time.Duration // before it reaches the server
	lose  bool          // the server does it, the reply is lost and the connection with it
	cut   bool          // the connection ends after the reply
	text  string        // instead of the server's reply, which is not asked
}

func startProxy(t testing.TB, to *server) *proxy {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: listener.Addr().String(), to: to}
	p.behave(func([]string) fate { return fate{} })
	over := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.opened.Add(1)
			running.Go(func() { p.serve(conn, over) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		close(over)
		running.Wait()
	})
	return p
}

func (p *proxy) url() string { return "redis://" + p.address }

func (p *proxy) behave(how treatment) { p.treat.Store(&how) }

// serve passes one command after the other.
func (p *proxy) serve(conn net.Conn, over <-chan struct{}) {
	defer conn.Close()
	client := newWire(conn)
	server, err := p.to.dial()
	if err != nil {
		return
	}
	defer server.conn.Close()
	_ = server.conn.SetDeadline(time.Time{})
	done := make(chan struct{})
	var watch sync.WaitGroup
	defer watch.Wait()
	defer close(done)
	watch.Go(func() {
		select {
		case <-over:
			conn.Close()
			server.conn.Close()
		case <-done:
		}
	})
	for {
		command, err := client.readCommand()
		if err != nil {
			return
		}
		f := (*p.treat.Load())(command)
		if f.delay > 0 {
			late := time.NewTimer(f.delay)
			select {
			case <-late.C:
			case <-over:
			}
			late.Stop()
		}
		answer := []byte(f.text)
		if f.text == "" {
			if isBeat(command) {
				p.beats.Add(1)
			}
			if _, err := server.conn.Write(encode(command)); err != nil {
				return
			}
			if _, err := server.read(); err != nil || f.lose {
				return
			}
			answer = server.raw
		}
		if _, err := conn.Write(answer); err != nil || f.cut {
			return
		}
	}
}

// isBeat reports whether a command runs a script.
func isBeat(command []string) bool {
	return strings.HasPrefix(strings.ToUpper(command[0]), "EVAL")
}
