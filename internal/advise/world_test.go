package advise_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/advise"
)

const (
	step        = 2 * time.Second // between two reports, and how old one is
	limit       = 1000            // connections of a host
	vanishAfter = 8 * time.Second
	reconnect   = 30 * time.Second // within which clients that are cut off come back
)

// machine is a host of a world.
type machine struct {
	id          string
	state       string
	connections int
	ready       time.Time // of one that boots: when it serves
	dead        time.Time // when it lost power; zero: it lives
	shed        []shedding
}

type shedding struct {
	perStep, left float64
}

// world is a fleet with its clients and a balancer that sends a client to the host with
// the fewest connections. It does what it is advised to, at once or with a delay.
type world struct {
	t      testing.TB
	p      advise.Policy
	rand   *rand.Rand
	now    time.Time
	hosts  []*machine
	made   int
	bootIn time.Duration
	limit  int
	soft   bool // a host takes more than its limit

	target   float64 // connections that clients want
	returns  []int   // clients that come back, by the step
	refused  int
	cut      int // of hosts that were removed
	moved    int // by shedding
	m        advise.Memory
	a        advise.Advice
	reported []advise.Host
	outs     []time.Time
	ins      []time.Time
	open     []*machine // for place
	levels   []int
	broken   map[string]bool // hosts that never become ready
}

func newWorld(t testing.TB, p advise.Policy, seed uint64, hosts int) *world {
	w := &world{
		t: t, p: p, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_700_000_000, 0).UTC(),
		bootIn: 90 * time.Second, limit: limit, returns: make([]int, int(reconnect/step)+1), broken: map[string]bool{},
	}
	for range hosts {
		w.add().state = advise.StateReady
	}
	w.m = advise.Start(w.now)
	w.reported = w.report()
	return w
}

// add starts a machine.
func (w *world) add() *machine {
	w.made++
	m := &machine{id: fmt.Sprintf("host-%04d", w.made), state: "", ready: w.now.Add(w.bootIn)}
	w.hosts = append(w.hosts, m)
	return m
}

// clients is how many there are, with those that are about to come back.
func (w *world) clients() int {
	n := 0
	for _, h := range w.hosts {
		n += h.connections
	}
	for _, r := range w.returns {
		n += r
	}
	return n
}

// comeBack has n clients come back, spread over a time, with full jitter.
func (w *world) comeBack(n int, within time.Duration) {
	slots := max(1, int(within/step))
	each, rest := n/slots, n%slots
	for i := range slots {
		w.returns[i%len(w.returns)] += each
		if i < rest {
			w.returns[i%len(w.returns)]++
		}
	}
}

// step lets the time of a step pass: clients come, go and come back; hosts boot, drain and
// die; then the advice is asked for, and is followed.
func (w *world) step() {
	w.now = w.now.Add(step)
	for _, h := range w.hosts {
		if h.state == "" && !h.ready.After(w.now.Add(10*time.Second)) {
			h.state = advise.StateStarting
		}
		if h.state == advise.StateStarting && !h.ready.After(w.now) && !w.broken[h.id] {
			h.state = advise.StateReady
		}
		kept := h.shed[:0]
		for _, s := range h.shed {
			n := min(int(math.Ceil(min(s.perStep, s.left))), h.connections)
			h.connections -= n
			w.moved += n
			w.comeBack(n, 10*time.Second)
			if s.left -= s.perStep; s.left > 0 {
				kept = append(kept, s)
			}
		}
		h.shed = kept
	}
	arriving := w.returns[0]
	copy(w.returns, w.returns[1:])
	w.returns[len(w.returns)-1] = 0
	if more := int(w.target) - w.clients() - arriving; more > 0 {
		arriving += more
	} else {
		w.leave(-more)
	}
	w.place(arriving)
	last := w.reported
	w.reported = w.report()
	w.advise(last)
}

// leave has so many clients go, from all hosts alike.
func (w *world) leave(n int) {
	all := 0
	for _, h := range w.hosts {
		all += h.connections
	}
	if all == 0 || n <= 0 {
		return
	}
	part := min(1, float64(n)/float64(all))
	for _, h := range w.hosts {
		share := part * float64(h.connections)
		gone := int(share)
		if w.rand.Float64() < share-float64(gone) {
			gone++
		}
		h.connections -= min(gone, h.connections)
	}
}

// place sends clients to the hosts that serve, always to the emptiest.
func (w *world) place(n int) {
	w.open, w.levels = w.open[:0], w.levels[:0]
	room, most := 0, w.most()
	for _, h := range w.hosts {
		if h.serves() {
			w.open, w.levels = append(w.open, h), append(w.levels, h.connections)
			room += max(0, most-h.connections)
		}
	}
	if n > room {
		w.refused += n - room
		w.comeBack(n-room, reconnect)
		n = room
	}
	if n <= 0 {
		return
	}
	low := slices.Min(w.levels) // the level to which they are filled up
	high := min(most, low+n)
	for low < high {
		level, filled := (low+high)/2, 0
		for _, c := range w.levels {
			filled += max(0, level-c)
		}
		if filled >= n {
			high = level
		} else {
			low = level + 1
		}
	}
	for _, h := range w.open {
		more := min(n, max(0, low-h.connections))
		h.connections += more
		n -= more
	}
}

// most is how many connections a host takes.
func (w *world) most() int {
	if w.soft {
		return 100 * w.limit
	}
	return w.limit
}

func (m *machine) serves() bool { return m.state == advise.StateReady && m.dead.IsZero() }

// report is what the hosts say now.
func (w *world) report() []advise.Host {
	reports, counts, capacity := make([]advise.Host, 0, len(w.hosts)), make([]int64, len(w.hosts)), new(int64(w.limit))
	for i, h := range w.hosts {
		counts[i] = int64(h.connections)
		r := advise.Host{ID: h.id, Boot: "b", State: h.state, Connections: &counts[i], Capacity: capacity}
		switch {
		case h.state == "":
			continue // it does not run forkd yet
		case !h.dead.IsZero():
			r.Vanished = w.now.Sub(h.dead) >= vanishAfter
			r.Stale = !r.Vanished && w.now.Sub(h.dead) > 5*time.Second
		}
		reports = append(reports, r)
	}
	return reports
}

// advise asks for the advice on reports, and follows it.
func (w *world) advise(reports []advise.Host) {
	m, a := w.p.Advise(w.now, w.m, reports)
	if m.Out.Equal(w.now) {
		w.outs = append(w.outs, w.now)
	}
	if m.In.Equal(w.now) {
		w.ins = append(w.ins, w.now)
	}
	if w.p.News(m, a) {
		for range a.Add {
			w.add()
		}
		m.Told = m.Telling(a)
	}
	w.m, w.a = m, a
	w.each(a.Drain, func(h *machine) { h.state = advise.StateDraining })
	w.each(a.Resume, func(h *machine) { h.state = advise.StateReady })
	w.each(a.Remove, w.remove)
	for _, s := range a.Shed {
		w.each([]string{s.Host}, func(h *machine) {
			h.shed = append(h.shed, shedding{float64(s.Count) * step.Seconds() / float64(s.Seconds), float64(s.Count)})
		})
	}
}

// each calls f for the named hosts that are still there: reports are a step old.
func (w *world) each(ids []string, f func(*machine)) {
	for _, id := range ids {
		if i := slices.IndexFunc(w.hosts, func(h *machine) bool { return h.id == id }); i >= 0 {
			f(w.hosts[i])
		}
	}
}

// remove takes a machine away; its clients come back.
func (w *world) remove(h *machine) {
	w.cut += h.connections
	w.comeBack(h.connections, reconnect)
	w.hosts = slices.DeleteFunc(w.hosts, func(other *machine) bool { return other == h })
}

// crash takes a host's power. Its entry expires later.
func (w *world) crash(h *machine) {
	w.comeBack(h.connections, reconnect)
	h.connections, h.dead = 0, w.now
}

// run lets time pass; each is called before each step.
func (w *world) run(d time.Duration, each func()) {
	for end := w.now.Add(d); w.now.Before(end); {
		if each != nil {
			each()
		}
		w.step()
	}
}

// ramp changes the number of clients over a time.
func (w *world) ramp(to float64, over time.Duration) {
	from, began := w.target, w.now
	w.run(over, func() {
		w.target = from + (to-from)*min(1, float64(w.now.Sub(began)+step)/float64(over))
	})
	w.target = to
}

// serving is how many hosts serve.
func (w *world) serving() int {
	n := 0
	for _, h := range w.hosts {
		if h.serves() {
			n++
		}
	}
	return n
}

// best is the number of hosts that the policy leads to from so many: the same, where
// the utilization is not out of its bounds.
func (w *world) best(hosts int) int {
	s := float64(w.clients())
	u := 100 * s / float64(hosts*w.limit)
	if u >= w.p.MinUtilization-w.p.UnderTolerance && u <= w.p.MaxUtilization+w.p.OverTolerance {
		return hosts
	}
	best := int(math.Ceil(s / (float64(w.limit) * w.p.MaxUtilization / 100)))
	return min(max(best, w.p.MinHosts), w.p.MaxHosts)
}

// checkPlateau fails where the fleet is more than one host off.
func (w *world) checkPlateau(what string) {
	w.t.Helper()
	if n := w.serving(); n < w.best(n)-1 || n > w.best(n)+1 {
		w.t.Errorf("%s: %d hosts serve %d clients, %d would be best: %s", what, n, w.clients(), w.best(n), w.a.Reason)
	}
}

// checkCooldowns fails where decisions followed each other too soon.
func (w *world) checkCooldowns() {
	w.t.Helper()
	after := func(t time.Time, times []time.Time) time.Duration {
		least := time.Duration(math.MaxInt64)
		for _, other := range times {
			if d := t.Sub(other); d > 0 {
				least = min(least, d)
			}
		}
		return least
	}
	for _, t := range w.outs {
		if d := min(after(t, w.outs), after(t, w.ins)); d < w.p.OutCooldown {
			w.t.Errorf("an out comes %s after the decision before", d)
		}
	}
	for _, t := range w.ins {
		if d := min(after(t, w.outs), after(t, w.ins)); d < w.p.InCooldown {
			w.t.Errorf("an in comes %s after the decision before", d)
		}
	}
}
