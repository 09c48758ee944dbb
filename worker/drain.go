package worker

import (
	"cmp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/forkd/forkd/ipc"
)

// defaultDrainTimeout is the drain time if no master has set a deadline: the
// default of drain.timeout.
const defaultDrainTimeout = 30 * time.Second

// Bits of drainState.flags.
const (
	flagDraining uint32 = 1 << iota
	flagShedding
)

// drain is one request to drain.
type drain struct {
	reason   string // "": none
	began    time.Time
	deadline time.Time
	idle     time.Duration
}

// drainState is whether the worker drains. A later request replaces an earlier
// one: a worker that drains for a roll may be told that the whole app stops.
type drainState struct {
	flags    atomic.Uint32 // read for every request
	begun    chan struct{} // closed with the first drain
	messages chan struct{} // a token per drain message, for the signal that follows it

	mu      sync.Mutex
	current drain
}

func newDrainState() drainState {
	return drainState{begun: make(chan struct{}), messages: make(chan struct{}, 4)}
}

func (s *drainState) active() bool { return s.flags.Load()&flagDraining != 0 }

func (s *drainState) get() drain {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// onMessage follows the master's drain message.
func (s *drainState) onMessage(m ipc.Drain) {
	s.mu.Lock()
	s.set(m)
	s.mu.Unlock()
	select {
	case s.messages <- struct{}{}:
	default:
	}
}

// begin starts a drain without a message, unless there is one.
func (s *drainState) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.reason == "" {
		s.set(ipc.Drain{
			Reason:   ipc.ReasonStop,
			Deadline: time.Now().Add(defaultDrainTimeout),
			Idle:     ipc.DefaultIdle,
		})
	}
}

// set begins or changes the drain. The deadline comes as wall clock time and is
// kept as monotonic time: it does not move when the clock is set.
func (s *drainState) set(m ipc.Drain) {
	now, first := time.Now(), s.current.reason == ""
	s.current = drain{
		reason:   cmp.Or(m.Reason, ipc.ReasonStop),
		began:    now,
		deadline: now.Add(time.Until(m.Deadline)),
		idle:     m.Idle,
	}
	if first {
		s.flags.Or(flagDraining)
		close(s.begun)
	}
}
