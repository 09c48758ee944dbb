package worker

import (
	"errors"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/forkd/forkd/ipc"
)

const (
	// window is how many connections wait for a Reply. The kernel limits the descriptors
	// that a user has in flight (unix(7), ETOOMANYREFS).
	window = 32

	// replyTimeout is how long a successor may take for the next Reply.
	replyTimeout = time.Second
)

// outcome is what has become of a connection that was sent.
type outcome int

const (
	outcomeTaken    outcome = iota
	outcomeRefused          // the successor lives, and does not want it
	outcomeReturned         // the successor has died, or does not answer, or another one follows
	outcomeLost             // the successor has stopped and may own it: nobody else must serve it
)

// parcel is a connection that is being handed over.
type parcel struct {
	ipc.Transfer
	socket syscall.RawConn
	done   func(outcome) // called once
}

// end says what has become of it. What stays here does not block: until the successor has
// made a connection of its copy, it is a blocking one, and so is this one (open(2), O_NONBLOCK).
func (p *parcel) end(o outcome) {
	if o == outcomeRefused || o == outcomeReturned {
		_ = p.socket.Control(func(fd uintptr) { _ = syscall.SetNonblock(int(fd), true) })
	}
	p.done(o)
}

// sender hands connections over to one successor. It has a goroutine, run.
type sender struct {
	pair   pair
	onEnd  func(*sender) // before the outcomes of what is left
	onLate func() int    // after onEnd: the successor's end of another pair, for when it answers; -1: none

	replyWithin time.Duration // as replyTimeout

	room  chan struct{} // a token for each of unanswered
	ended chan struct{} // closed: nothing can be sent

	mu         sync.Mutex
	seq        uint64
	unanswered []*parcel // in order
	over       bool
	late       bool        // the successor did not answer in time
	stalled    *time.Timer // runs while something is unanswered
}

func newSender(p pair, replyWithin time.Duration, onEnd func(*sender), onLate func() int) *sender {
	s := &sender{
		pair: p, onEnd: onEnd, onLate: onLate, replyWithin: replyWithin,
		room: make(chan struct{}, window), ended: make(chan struct{}),
	}
	s.stalled = time.AfterFunc(time.Hour, s.giveUp)
	s.stalled.Stop()
	return s
}

// send sends a connection, and waits until there is room for it. false: nothing can be
// sent any more, and done is not called.
func (s *sender) send(p *parcel) bool {
	select {
	case s.room <- struct{}{}:
	case <-s.ended:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	p.Seq = s.seq + 1
	packet, err := p.Encode()
	if err == nil {
		if p.socket.Control(func(fd uintptr) { err = s.pair.send(packet, int(fd)) }) != nil {
			<-s.room
			p.done(outcomeRefused) // it has been closed here
			return true
		}
	}
	if err != nil {
		<-s.room
		s.over = true
		s.late = s.late || errors.Is(err, os.ErrDeadlineExceeded)
		s.withdraw()
		return false
	}
	s.seq = p.Seq
	s.unanswered = append(s.unanswered, p)
	if len(s.unanswered) == 1 {
		s.stalled.Reset(s.replyWithin)
	}
	return true
}

// withdraw ends the sender: what is not answered by now is returned.
func (s *sender) withdraw() { s.pair.closeRead() } // run reads what was answered, then EOF

// giveUp withdraws because the successor does not answer in time.
func (s *sender) giveUp() {
	s.mu.Lock()
	s.late = true
	s.mu.Unlock()
	s.withdraw()
}

// run handles the replies until the pair ends, then returns the rest.
func (s *sender) run() {
	for {
		r, err := receiveReply(s.pair)
		if err == nil {
			err = s.answered(r)
		}
		if err != nil {
			break
		}
	}
	s.finish()
}

func receiveReply(p pair) (r ipc.Reply, err error) {
	buf := make([]byte, 256)
	n, fd, err := p.receive(buf)
	closeDescriptor(fd) // not asked for
	if err == nil {
		r, err = ipc.ParseReply(buf[:n])
	}
	return r, err
}

// answered handles a reply. The error says that it is for nothing that was sent.
func (s *sender) answered(r ipc.Reply) error {
	s.mu.Lock()
	if len(s.unanswered) == 0 || s.unanswered[0].Seq != r.Seq {
		s.mu.Unlock()
		return errors.New("a reply to what was not sent")
	}
	p := s.unanswered[0]
	s.unanswered = slices.Delete(s.unanswered, 0, 1)
	if len(s.unanswered) == 0 {
		s.stalled.Stop()
	} else {
		s.stalled.Reset(s.replyWithin)
	}
	s.mu.Unlock()
	<-s.room
	if r.Taken {
		p.end(outcomeTaken)
	} else {
		p.end(outcomeRefused)
	}
	return nil
}

// finish ends the sender, and says what has become of everything that is unanswered.
func (s *sender) finish() {
	s.pair.closeRead() // no reply follows, whatever ended the loop
	s.mu.Lock()
	s.over = true
	s.stalled.Stop()
	rest, late := s.unanswered, s.late
	s.unanswered = nil
	s.mu.Unlock()
	s.onEnd(s)
	another := -1
	if late {
		another = s.onLate()
	}
	result := outcomeReturned
	if (len(rest) > 0 || late) && !s.sayWithdrawn(another) {
		result = outcomeLost
	}
	closeDescriptor(another)
	s.pair.close()
	close(s.ended)
	for _, p := range rest {
		p.end(result)
	}
}

// sayWithdrawn reports whether the successor will serve nothing that it has not answered:
// it is told, or has gone. fd is its end of another pair, or -1.
func (s *sender) sayWithdrawn(fd int) bool {
	packet, _ := ipc.Transfer{Withdrawn: true}.Encode() // short
	if p, ok := s.pair.(interface{ makeRoom() }); ok {
		p.makeRoom() // it may have stopped with its queue full
	}
	err := s.pair.send(packet, fd)
	return err == nil || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
