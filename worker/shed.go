package worker

import (
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/forkd/forkd/ipc"
)

const (
	// portionTime is the part of a shed's time that a portion of its connections
	// is for.
	portionTime = time.Second

	// ownersTime is how long the program has for a portion before the worker acts
	// on what is left of it.
	ownersTime = time.Second

	// afterTime is how long after its last portion a shed still counts what goes
	// by itself: time for those that are idle to have gone. Responses may take
	// hours, and the worker's other connections are not looked at for so long.
	afterTime = 5 * time.Second

	// lookTime is how often a shed looks after the connections that it has chosen.
	lookTime = 250 * time.Millisecond
)

// What a shed has done with a connection.
const (
	kept   int32 = iota
	chosen       // its next response is to be the last
	going        // has been told, or is being closed as idle: nothing takes that back
)

// shed closes the longest-lived connections of a worker: so many as it was asked
// for, of those that were open then. All that go meanwhile count, whoever closes
// them. It is its goroutine's alone, and made by Worker.ask.
//
// It repeats one decision: those that should have gone by now, less those that
// have, are the ones to choose, the oldest first. So what the program or clients
// close needs no case of its own: a connection that is not needed any more is
// spared.
type shed struct {
	random func() float64
	began  time.Time
	list   []*member // of those open when the shed came, oldest first
	spread []*spread
	owed   []portion
	until  time.Time // what goes by then counts, whether chosen or not

	count int // connections to go, in all
	asked int // of them, in portions that have come
	due   int // of them, those that the worker acts on
	cut   int // of them, those for which it closes the program's own too
	gone  int // connections that have gone
}

// member is a connection that was open when the shed came.
type member struct {
	*conn
	unserved bool // of a listener that nobody serves by Serve

	// As the last look found it.
	phase Phase
	sure  bool // it is going
}

// portion is one part of what a shed is to close.
type portion struct {
	n    int
	due  time.Time // the program's time for it is over; zero: was counted
	last time.Time // the program's own connections are cut
}

// add asks for n more connections, of those open now.
func (s *shed) add(now time.Time, n int, over time.Duration, open []*member) {
	for _, m := range open {
		if m.shed != s {
			m.shed = s
			s.list = append(s.list, m)
		}
	}
	slices.SortStableFunc(s.list, func(a, b *member) int { return a.accepted.Compare(b.accepted) })
	s.look()
	// What has gone beyond an earlier shed's count is none of this one's.
	s.gone = min(s.gone, s.count)
	n = min(n, len(s.list)-(s.count-s.gone))
	if n > 0 {
		s.count += n
		s.spread = append(s.spread, newSpread(now, n, over, s.random))
	}
}

// look drops the connections that have gone, counts them, and returns how many
// more are sure to go.
func (s *shed) look() (sure int) {
	before := len(s.list)
	s.list = slices.DeleteFunc(s.list, func(m *member) bool { return m.closed.Load() })
	s.gone += before - len(s.list)
	for _, m := range s.list {
		m.phase = m.load()
		m.sure = m.leaving.Load() == going && !m.owned()
		if m.sure {
			sure++
		}
	}
	return sure
}

// owned reports whether a connection is the program's own.
func (m *member) owned() bool { return m.phase == Hijacked || m.unserved && m.phase == fresh }

// step does what is due: it closes connections, and returns how many the program
// is to be told of (told: whether there is anybody to tell), and when to step
// again; zero when all is done.
func (s *shed) step(now time.Time, told bool) (tell int, next time.Time) {
	sure := s.look()
	before := s.asked
	for _, p := range s.spread {
		for p.left() && !now.Before(p.at) {
			one := portion{n: p.take(), due: now, last: now}
			if told {
				one.due, one.last = now.Add(ownersTime), now.Add(p.over+ownersTime)
			}
			s.asked += one.n
			s.owed = append(s.owed, one)
			if until := one.last.Add(afterTime); until.After(s.until) {
				s.until = until
			}
		}
	}
	s.spread = slices.DeleteFunc(s.spread, func(p *spread) bool { return !p.left() })
	if told {
		tell = max(0, s.asked-max(before, s.gone+sure))
	}
	s.collect(now)
	s.act(now, sure)
	over := s.gone >= s.count
	if over {
		s.spread, s.owed = nil, nil
	}
	if over || len(s.spread)+len(s.owed) == 0 && now.After(s.until) {
		// All is chosen that will be, and only those are waited for.
		s.list = slices.DeleteFunc(s.list, func(m *member) bool {
			rest := m.leaving.Load() == kept
			if rest {
				m.shed = nil
			}
			return rest
		})
	}
	return tell, s.next(now)
}

// collect counts what is due by now.
func (s *shed) collect(now time.Time) {
	for i := range s.owed {
		p := &s.owed[i]
		if !p.due.IsZero() && !now.Before(p.due) {
			s.due += p.n
			p.due = time.Time{}
		}
		if !now.Before(p.last) {
			s.cut += p.n
			p.n = 0
		}
	}
	s.owed = slices.DeleteFunc(s.owed, func(p portion) bool { return p.n == 0 })
}

// act chooses the connections that are due, spares the others, and closes those
// of the chosen that it may.
func (s *shed) act(now time.Time, sure int) {
	choose, cut := s.due-s.gone-sure, s.cut-s.gone-sure
	for _, m := range s.list {
		switch {
		case m.sure:
		case choose > 0:
			choose--
			m.leaving.CompareAndSwap(kept, chosen)
		default:
			m.leaving.CompareAndSwap(chosen, kept)
			continue
		}
		switch {
		case m.phase == closing:
			m.expire() // again: its server may have set a deadline since
		case !m.owned():
			s.rest(m, now)
		case cut > 0:
			cut--
			m.cut()
		}
	}
}

// rest closes a connection that has been idle for long enough: no client that
// speaks at all shall find it closed.
func (s *shed) rest(m *member, now time.Time) {
	since := int64(now.Sub(s.began)) + 1
	switch first := m.restful.Load(); {
	case !m.idle():
		m.restful.Store(0)
	case first == 0:
		m.restful.Store(since)
	case since-first >= int64(ipc.DefaultIdle):
		m.leaving.Store(going)
		m.expire()
	}
}

// next is when to step again.
func (s *shed) next(now time.Time) time.Time {
	var next time.Time
	at := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, p := range s.spread {
		at(p.at)
	}
	for _, p := range s.owed {
		at(p.due)
		at(p.last)
	}
	if slices.ContainsFunc(s.list, func(m *member) bool { return m.leaving.Load() != kept }) {
		at(now.Add(lookTime))
	}
	return next
}

// end forgets the connections that are left.
func (s *shed) end() {
	for _, m := range s.list {
		m.shed = nil
	}
}

// leaves is RequestOn's answer while a shed is under way.
func leaves(nc net.Conn) bool {
	c := tracked(nc)
	if c == nil || c.leaving.Load() == kept || !c.leaving.CompareAndSwap(chosen, going) && c.leaving.Load() != going {
		return false
	}
	c.restful.Store(0)
	return true
}

// spread is when the portions of a shed come: one in each of the equal parts of
// its time, at a random moment within. How the connections fall to the portions
// begins at a random place too, so that many workers which are to close one each
// do not do so in the same second.
type spread struct {
	n, parts  int
	over      time.Duration
	random    func() float64
	offset    float64 // in [0,1)
	part      int     // the next
	taken     int
	beginning time.Time
	at        time.Time // of the next
}

func newSpread(now time.Time, n int, over time.Duration, random func() float64) *spread {
	s := &spread{n: n, parts: max(1, int(over/portionTime)), over: over, random: random, offset: random(), beginning: now}
	s.place()
	return s
}

// place sets when the next portion comes.
func (s *spread) place() {
	width := s.over / time.Duration(s.parts)
	s.at = s.beginning.Add(time.Duration(s.part)*width + time.Duration(s.random()*float64(width)))
}

// left reports whether there are portions to come.
func (s *spread) left() bool { return s.taken < s.n }

// take is the portion whose time has come.
func (s *spread) take() (n int) {
	s.part++
	upTo := s.n
	if s.part < s.parts {
		upTo = min(s.n, int(float64(s.n)*float64(s.part)/float64(s.parts)+s.offset))
	}
	n = upTo - s.taken
	s.taken = upTo
	s.place()
	return n
}

// shedding is what a worker has of sheds.
type shedding struct {
	mu      sync.Mutex
	f       func(n int) // OnShed's
	asked   []ipc.Shed  // by the master, for the shed under way to take
	running bool
	more    chan struct{} // a token for asked
	owed    int           // connections that the program is to be told of
	telling bool
}

// ask follows the master's request to shed. One that comes during a drain
// (drain.shed_per_second) is the program's alone: the drain closes connections in
// its own way.
func (w *Worker) ask(m ipc.Shed) {
	s := &w.shedding
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case m.Count == 0:
	case w.orders.draining():
		if s.f != nil {
			go inPortions(s.f, m)
		}
	case s.running:
		s.asked = append(s.asked, m)
		select {
		case s.more <- struct{}{}:
		default:
		}
	default:
		s.running = true
		s.asked = append(s.asked, m)
		w.orders.state.Or(sheds)
		go w.shed()
	}
}

// shed is the goroutine of a shed, with those that are asked for while it runs,
// until all is done or a drain begins.
func (w *Worker) shed() {
	s := &shed{random: rand.Float64, began: time.Now()}
	defer s.end()
	for {
		if w.orders.draining() {
			w.shedOver(true)
			return
		}
		asked, told := w.asked()
		now := time.Now()
		for _, m := range asked {
			s.add(now, m.Count, m.Over, w.open())
		}
		tell, next := s.step(now, told)
		w.tell(tell)
		if next.IsZero() {
			if w.shedOver(false) {
				return
			}
			continue
		}
		wake := time.NewTimer(next.Sub(now))
		select {
		case <-w.orders.begun:
		case <-w.shedding.more:
		case <-wake.C:
		}
		wake.Stop()
	}
}

// asked takes what the master has asked for, and reports whether the program
// wants to be told.
func (w *Worker) asked() (asked []ipc.Shed, told bool) {
	s := &w.shedding
	s.mu.Lock()
	defer s.mu.Unlock()
	asked, s.asked = s.asked, nil
	return asked, s.f != nil
}

// shedOver ends the shed, unless the master has asked for another; drained, that
// goes with it, and so does what the program has not been told yet.
func (w *Worker) shedOver(drained bool) bool {
	s := &w.shedding
	s.mu.Lock()
	defer s.mu.Unlock()
	if drained {
		s.asked, s.owed = nil, 0
	}
	if len(s.asked) > 0 {
		return false
	}
	s.running = false
	w.orders.state.And(^sheds)
	return true
}

// tell tells the program to let go of n connections, without waiting for it. What
// comes while it is still busy with others is added up.
func (w *Worker) tell(n int) {
	s := &w.shedding
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owed += n
	if s.owed == 0 || s.telling {
		return
	}
	s.telling = true
	go func() {
		for {
			s.mu.Lock()
			n, f := s.owed, s.f
			s.owed = 0
			s.telling = n > 0 && f != nil
			more := s.telling
			s.mu.Unlock()
			if !more {
				return
			}
			f(n)
		}
	}()
}

// inPortions calls f with a portion per second until the whole count is asked
// for. Nothing but the end of the process ends it.
func inPortions(f func(int), m ipc.Shed) {
	seconds := max(1, int(m.Over/time.Second))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for left := m.Count; left > 0; seconds-- {
		n := (left + seconds - 1) / seconds
		left -= n
		f(n)
		if left > 0 {
			<-tick.C
		}
	}
}
