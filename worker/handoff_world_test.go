package worker

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/forkd/forkd/ipc"
)

// queue is one direction of a fake pair.
type queue struct {
	packets []packet
	shut    bool // nothing can be put in: its reader has shut it, or is gone
	ended   bool // its writer is gone
}

type packet struct {
	bytes []byte
	fd    int
}

// fakeProcess is what a pair's end belongs to.
type fakeProcess struct {
	dead, stopped bool
	serves        map[int]bool // connections
}

// fakePair is a pair in memory. An operation takes a random time, but for those that the
// sender does under its lock: time does not go on while somebody waits for a mutex.
type fakePair struct {
	w    *world
	fast bool
	mine *fakeProcess
	in   *queue
	out  *queue
}

// world is two workers and the connections that one hands to the other.
type world struct {
	mu     sync.Mutex
	change sync.Cond
	random *rand.Rand
	sent   map[int]bool // that are in the successor's queue or beyond
	pairs  []*fakePair  // ends of further pairs
	later  int          // connections that went over these
	back   bool         // the successor has been told of a withdrawal
	errors []string
}

func (w *world) pause() {
	w.mu.Lock()
	d := time.Duration(0)
	if w.random.IntN(4) == 0 {
		d = time.Duration(w.random.IntN(700)) * time.Millisecond
	}
	w.mu.Unlock()
	time.Sleep(d)
}

// enter begins an operation of a process: it holds the lock. false: the process is dead.
func (p *fakePair) enter() bool {
	p.w.pause()
	p.w.mu.Lock()
	for p.mine.stopped && !p.mine.dead {
		p.w.change.Wait()
	}
	return !p.mine.dead
}

func (p *fakePair) send(bytes []byte, fd int) error {
	alive := false
	if p.fast {
		p.w.mu.Lock()
		alive = !p.mine.dead
	} else {
		alive = p.enter()
	}
	defer p.w.mu.Unlock()
	if !alive || p.out.shut {
		return syscall.EPIPE
	}
	p.out.packets = append(p.out.packets, packet{append([]byte(nil), bytes...), fd})
	switch {
	case p.fast && (fd < 0 || fd >= pairFD):
		p.w.back = true
	case fd >= 0:
		p.w.sent[fd] = true
	}
	p.w.change.Broadcast()
	return nil
}

func (p *fakePair) receive(buf []byte) (n, fd int, err error) {
	alive := p.enter()
	defer p.w.mu.Unlock()
	for alive && len(p.in.packets) == 0 && !p.in.ended && !p.in.shut {
		p.w.change.Wait()
		alive = !p.mine.dead
	}
	if !alive || len(p.in.packets) == 0 {
		return 0, -1, io.EOF
	}
	got := p.in.packets[0]
	p.in.packets = p.in.packets[1:]
	return copy(buf, got.bytes), got.fd, nil
}

func (p *fakePair) closeRead() {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if !p.mine.dead {
		p.in.shut = true
		p.w.change.Broadcast()
	}
}

func (p *fakePair) close() {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if !p.mine.dead {
		p.shut()
	}
}

// shut is what the kernel does when the end is closed. The caller holds the lock.
func (p *fakePair) shut() {
	p.in.shut, p.in.packets, p.out.ended = true, nil, true
	p.w.change.Broadcast()
}

func (p *fakePair) kill() {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.mine.dead = true
	p.shut()
	for _, more := range p.w.pairs {
		if more.mine == p.mine {
			more.shut()
		}
	}
}

func (p *fakePair) setStopped(stopped bool) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.mine.stopped = stopped
	p.w.change.Broadcast()
}

// fakeSocket is a connection's descriptor.
type fakeSocket int

func (f fakeSocket) Control(do func(fd uintptr)) error { do(uintptr(f)); return nil }
func (fakeSocket) Read(func(uintptr) bool) error       { return nil }
func (fakeSocket) Write(func(uintptr) bool) error      { return nil }

// serve has a process serve a connection, and notes when another does.
func (w *world) serve(who, other *fakeProcess, conn int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if who.dead {
		return
	}
	if who.serves[conn] || other.serves[conn] && !other.dead {
		w.errors = append(w.errors, fmt.Sprintf("connection %d is served twice", conn))
	}
	who.serves[conn] = true
}

// pairFD is the first number of the descriptors of pairs. No process has so many.
const pairFD = 1 << 30

// handOver has one process hand connections to another. If that does not answer in time and
// does later, what is left follows over another pair. ended has all of it end.
func (w *world) handOver(from, to *fakeProcess, p pair, conns []int) (ended func()) {
	var senders []*sender
	var start func(p pair, conns []int)
	late := func() (fd int) {
		there, back := &queue{}, &queue{}
		own := &fakePair{w: w, fast: true, mine: from, in: back, out: there}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pairs = append(w.pairs, own, &fakePair{w: w, mine: to, in: there, out: back})
		for _, end := range w.pairs {
			if end.mine.dead {
				end.shut()
			}
		}
		go func() {
			if _, err := receiveReply(own); err != nil {
				return
			}
			var again []int
			w.mu.Lock()
			for conn := range from.serves {
				again = append(again, conn)
				delete(w.sent, conn)
			}
			clear(from.serves)
			w.later += len(again)
			w.mu.Unlock()
			start(own, again)
		}()
		return pairFD + len(w.pairs) - 1
	}
	start = func(p pair, conns []int) {
		s := newSender(p, replyTimeout, func(*sender) {}, late)
		w.mu.Lock()
		senders = append(senders, s)
		w.mu.Unlock()
		go s.run()
		for _, conn := range conns {
			go func() {
				w.pause()
				p := &parcel{socket: fakeSocket(conn), done: func(o outcome) {
					if o == outcomeRefused || o == outcomeReturned {
						w.serve(from, to, conn)
					}
				}}
				if !s.send(p) {
					w.serve(from, to, conn)
				}
			}()
		}
	}
	start(p, conns)
	return func() {
		w.mu.Lock()
		all := slices.Clone(senders)
		w.mu.Unlock()
		for _, s := range all {
			s.withdraw()
		}
	}
}

// In thousands of rolls either side dies or stops at any time, or another successor
// comes: no connection is served by two, and none is lost but by the death of a worker
// that had it.
func TestWorldsOfHandoff(t *testing.T) {
	const rolls = 10_000
	seed := uint64(time.Now().UnixNano())
	moved, returned, died, later := 0, 0, 0, 0
	for i := range uint64(rolls) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{random: rand.New(rand.NewPCG(seed, i)), sent: map[int]bool{}}
			w.change.L = &w.mu
			from, to := &fakeProcess{serves: map[int]bool{}}, &fakeProcess{serves: map[int]bool{}}
			there, back := &queue{}, &queue{}
			a := &fakePair{w: w, fast: true, mine: from, in: back, out: there}
			b := &fakePair{w: w, mine: to, in: there, out: back}
			refuses, conns := w.random.IntN(10) == 0, 1+w.random.IntN(40)
			fault, when := w.random.IntN(8), time.Duration(w.random.IntN(1500))*time.Millisecond
			stopFor := time.Duration(w.random.IntN(4000)) * time.Millisecond
			r := &receiver{pair: b, prepare: func(t ipc.Transfer, fd int) (serve, drop func()) {
				if refuses && fd%2 == 0 {
					return nil, nil
				}
				return func() { w.serve(to, from, fd) }, func() {}
			}, open: func(fd int) (pair, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.pairs[fd-pairFD], nil
			}}
			go r.run()
			var all []int
			for conn := range conns {
				all = append(all, conn)
			}
			end := w.handOver(from, to, a, all)
			time.AfterFunc(when, func() {
				switch fault {
				case 0, 1:
					a.kill()
				case 2, 3:
					b.kill()
				case 4:
					b.setStopped(true)
					time.AfterFunc(stopFor, func() { b.setStopped(false) })
				case 5:
					a.setStopped(true)
					time.AfterFunc(stopFor, func() { a.setStopped(false) })
				case 6:
					end()
				}
			})
			time.Sleep(time.Hour)
			end() // as when the worker ends
			time.Sleep(time.Hour)
			w.mu.Lock()
			defer w.mu.Unlock()
			for conn := range conns {
				here, there := from.serves[conn], to.serves[conn]
				switch {
				case there:
					moved++
				case here:
					returned++
				case from.dead && (!w.sent[conn] || w.back || refuses && conn%2 == 0) || to.dead:
					died++
				default:
					w.errors = append(w.errors, fmt.Sprintf("connection %d is lost", conn))
				}
			}
			later += w.later
			for _, e := range w.errors {
				t.Errorf("seed %d, roll %d, fault %d after %v: %s", seed, i, fault, when, e)
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("of the connections of %d rolls %d moved, %d went again over another pair, %d came back, %d died with a worker", rolls, moved, later, returned, died)
	if moved == 0 || later == 0 || returned == 0 || died == 0 {
		t.Error("not all of it has happened")
	}
}
