package control

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// ServeAgentCheck answers HAProxy's agent checks (its configuration manual, 5.2,
// agent-check) until ctx ends: whoever connects gets one line, and nothing that it sends is
// read. Then it closes the listener. The supervisor runs it beside the loop, which it asks
// for figures now and then, however many ask.
func ServeAgentCheck(ctx context.Context, ln net.Listener, b Backend) error {
	l := newListener(ctx, ln, standard())
	defer func() { l.spare.Close() }() // or nothing, if it is nil
	s := agentServer{backend: b, figures: figures{lock: make(chan struct{}, 1)}, held: make(chan *net.TCPConn, agentHeld)}
	defer func() {
		for len(s.held) > 0 {
			(<-s.held).Close()
		}
	}()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		c, err := l.next()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case err != nil:
			return fmt.Errorf("cannot serve %s: %v", ln.Addr(), err)
		}
		s.answer(ctx, c.(*net.TCPConn))
	}
}

const (
	agentFresh   = 250 * time.Millisecond // how old figures may be
	agentTimeout = 500 * time.Millisecond // for others; then the last ones must do
	agentHeld    = 64                     // connections that have their line and are not closed yet
	agentLinger  = time.Second            // how long one of these may stay
)

type agentServer struct {
	backend Backend
	figures figures
	held    chan *net.TCPConn // the oldest first, those that have been closed too
}

// answer writes the line. It does not block: the connection's buffer is empty.
func (s *agentServer) answer(ctx context.Context, c *net.TCPConn) {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	f, err := s.figures.get(ctx, s.backend, agentFresh)
	if err != nil {
		f = s.figures.last // no worker is ready before there are any
	}
	_ = c.SetDeadline(time.Now().Add(agentLinger))
	_, err = c.Write([]byte(agentLine(&f) + "\n"))
	if err != nil || c.CloseWrite() != nil {
		c.Close()
		return
	}
	s.hold(c)
}

// hold closes a connection once its client has, or it is in the way: closed at once, it
// would be reset if the client had sent something, and the line might be lost.
func (s *agentServer) hold(c *net.TCPConn) {
	if len(s.held) == cap(s.held) {
		(<-s.held).Close()
	}
	s.held <- c
	go func() {
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			return
		}
		_ = raw.Read(func(fd uintptr) bool { // until the deadline, or a Close
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, 0)
			return n > 0 || err != nil
		})
	}()
}

func agentLine(f *Figures) string {
	t := f.App.Totals
	switch {
	case f.App.State == StateStopping:
		return "stopped # the app stops"
	case t.Ready == 0 || t.Wanted == 0 || f.App.State == StateStarting:
		return "down # no worker is ready"
	}
	most := f.Capacity
	if f.Limit != nil { // of this the workers that are not ready have their shares
		most = new(max(1, int64(share(int64(t.Ready), int64(t.Wanted))*float64(*f.Limit))))
	}
	maxconn := ""
	if most != nil {
		maxconn = fmt.Sprintf(" maxconn:%d", *most)
	}
	if f.App.State == StateDraining {
		return "up drain 0%" + maxconn
	}
	return fmt.Sprintf("up ready %d%%%s", Weight(int64(t.Ready), int64(t.Wanted), t.Connections, f.Capacity), maxconn)
}

// Weight is the share of a host's whole capacity that its ready workers have free, in
// percent; without a capacity, or with unknown connections, the share of workers that are
// ready. wanted is more than 0. It is 1 at least: whether a full host gets nobody new is for
// a limit of connections to say.
func Weight(ready, wanted int64, connections, capacity *int64) int {
	free := share(ready, wanted)
	if capacity != nil && connections != nil {
		free -= float64(*connections) / float64(*capacity)
	}
	return max(1, int(100*free+0.5))
}

// share of workers that are ready. More are than are wanted while a slot leaves.
func share(ready, wanted int64) float64 { return min(1, float64(ready)/float64(wanted)) }
