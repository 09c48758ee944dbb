package supervisor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/process"
)

// look is one look at a worker: what waits, what it has counted, what it holds.
type stallLook struct {
	queue   int
	accepts int      // -1: it does not count
	held    []uint32 // nil: can't be seen
}

// TestStall plays looks, one a second, with health.stall = 4s. What is wanted is a letter for
// each look: s for stalled, . for not; upper case where the connections were asked for.
func TestStall(t *testing.T) {
	const after = 4 * time.Second
	uncounted := func(held []uint32, queue ...int) (all []stallLook) {
		for _, q := range queue {
			all = append(all, stallLook{q, -1, held})
		}
		return all
	}
	counted := func(pairs ...int) (all []stallLook) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, stallLook{pairs[i], pairs[i+1], nil})
		}
		return all
	}
	some, more := []uint32{3, 5}, []uint32{3, 5, 7}
	for name, test := range map[string]struct {
		looks []stallLook
		want  string
	}{
		"nothing waits":                   {uncounted(some, 0, 0, 0, 0, 0, 0, 0), "......."},
		"it accepts none":                 {uncounted(some, 0, 2, 2, 2, 3, 3, 3, 3), "..AAAASS"},
		"it closes connections":           {append(uncounted(some, 2, 2), uncounted([]uint32{5}, 2, 2, 2, 2, 2)...), ".AAAASS"},
		"it begins with none":             {uncounted([]uint32{}, 2, 2, 2, 2, 2, 2), ".AAAAS"},
		"the queue gets shorter":          {uncounted(some, 5, 5, 5, 5, 4, 4, 4, 4), ".AAA..AA"},
		"it accepts what is replaced":     {append(uncounted(some, 9, 9, 9, 9), uncounted(more, 9, 9, 9, 9, 9)...), ".AAAAAAAS"},
		"it goes on":                      {append(uncounted(some, 9, 9, 9, 9, 9, 9), uncounted(more, 9, 9)...), ".AAAASAA"},
		"its queue is taken":              {uncounted(some, 9, 9, 9, 9, 9, 9, 8, 9), ".AAAAS.."},
		"it can't be seen":                {uncounted(nil, 9, 9, 9, 9, 9, 9, 9, 9), ".AAAAAAA"},
		"it can't be seen any more":       {append(uncounted(some, 9, 9, 9, 9, 9, 9), uncounted(nil, 9, 9)...), ".AAAASAA"},
		"it counts none":                  {counted(0, 5, 2, 5, 2, 5, 2, 5, 2, 5, 2, 5, 2, 5), ".....ss"},
		"it counts some":                  {counted(2, 5, 2, 6, 2, 7, 2, 8, 2, 9, 2, 10, 2, 11), "......."},
		"it counts none and goes on":      {counted(2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 1, 2, 1), "....s.."},
		"it counts some while none waits": {counted(2, 0, 0, 4, 2, 4, 2, 4, 2, 4, 2, 4, 2, 4), "......s"},
	} {
		var s stall
		now := time.Unix(1000, 0)
		var got strings.Builder
		for _, l := range test.looks {
			var accepts *uint64
			if l.accepts >= 0 {
				accepts = new(uint64(l.accepts))
			}
			ask := s.look(now, after, l.queue, accepts)
			if ask {
				s.holds(now, after, l.held, l.held != nil)
			}
			got.WriteString(map[[2]bool]string{{}: ".", {true, false}: "A", {false, true}: "s", {true, true}: "S"}[[2]bool{ask, s.stalled}])
			now = now.Add(time.Second)
		}
		if got.String() != test.want {
			t.Errorf("%s: %s, want %s", name, &got, test.want)
		}
	}
}

// Connections are asked for four times until a worker is taken for stalled, and an answer
// that comes after something was accepted changes nothing.
func TestStallAsksSeldom(t *testing.T) {
	const after = 10 * time.Second
	var s stall
	asked := 0
	began := time.Unix(1000, 0)
	for now := began; now.Before(began.Add(10 * time.Second)); now = now.Add(100 * time.Millisecond) {
		if s.look(now, after, 3, nil) {
			asked++
		}
	}
	if asked != stallLooks {
		t.Errorf("asked %d times", asked)
	}
	s.look(began.Add(11*time.Second), after, 0, nil)
	s.holds(began.Add(11*time.Second), after, nil, true)
	s.holds(began.Add(30*time.Second), after, nil, true)
	if s.stalled {
		t.Error("it is stalled without a queue")
	}
}

// Where the whole machine has been paused, the worker gets time to accept something.
func TestStallAfterAPause(t *testing.T) {
	const after = 10 * time.Second
	counts, accepts := stall{}, new(uint64(5))
	other := stall{}
	now := time.Unix(1000, 0)
	for i, next := range []time.Duration{time.Second, time.Second, time.Hour, 5 * time.Second} {
		counts.look(now, after, 3, accepts)
		if other.look(now, after, 3, nil) {
			other.holds(now, after, []uint32{7}, true)
		}
		if counts.stalled || other.stalled {
			t.Errorf("look %d: by its count %t, by its connections %t", i, counts.stalled, other.stalled)
		}
		now = now.Add(next)
	}
	counts.look(now, after, 3, accepts)
	if other.look(now, after, 3, nil) {
		other.holds(now, after, []uint32{7}, true)
	}
	if !counts.stalled || !other.stalled {
		t.Errorf("in the end: by its count %t, by its connections %t", counts.stalled, other.stalled)
	}
}

// What real processes do while connections wait. The queue is told to be the same at each
// look: that of a worker at its limit may be.
func TestStallOfProcesses(t *testing.T) {
	const after = 10 * time.Second
	const serve = "while os.read(0, 1): %s; os.write(1, b'served\\n')"
	for name, test := range map[string]struct {
		then    string // what the worker does when it has accepted three
		stalled bool
	}{
		"it computes":            {"while True: pass", true},
		"it is stopped":          {"os.kill(os.getpid(), signal.SIGSTOP)", true},
		"it waits for somebody":  {"os.read(0, 1)", true},
		"it serves one by one":   {fmt.Sprintf(serve, "one = s.accept()"), false},
		"it keeps what it takes": {fmt.Sprintf(serve, "held.append(s.accept())"), false},
	} {
		h := hold(t, 0, 1, 3, test.then)
		h.connect(t, 50)
		worker := h.workers[0]
		var s stall
		now := time.Unix(1000, 0)
		for range 30 {
			now = now.Add(time.Second)
			if !test.stalled {
				if _, err := worker.input.Write([]byte{1}); err != nil {
					t.Fatal(err)
				}
				worker.line()
			}
			if s.look(now, after, 50, nil) {
				all, err := h.set.Counting().Connections()
				if err != nil {
					t.Fatal(err)
				}
				held, known := process.Held([]int{worker.pid}, inodesOf(all))[worker.pid]
				s.holds(now, after, held, known)
			}
			if s.stalled && !test.stalled {
				t.Fatalf("%s: it is said to be stalled", name)
			}
		}
		if s.stalled != test.stalled {
			t.Errorf("%s: stalled: %t", name, s.stalled)
		}
	}
}
