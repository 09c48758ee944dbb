package supervisor

import (
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/ipc"
)

// lives is a slot's worker that counts.
func lives(pid int, accepted int64) control.Worker {
	return control.Worker{
		PID: pid, State: control.StateReady, StartedAt: time.Unix(int64(pid), 0),
		Connections: new(int64(1)), Accepted: &accepted, Requests: &accepted, Refused: new(int64(0)),
	}
}

// A slot's counters are of all its workers, and no lower when one has ended, or the slot.
func TestFiguresOutliveWorkers(t *testing.T) {
	silent, starting := lives(8, 0), control.Worker{State: control.StateStarting}
	silent.Accepted, silent.Requests, silent.Refused = nil, nil, nil
	ended := past{counted: true, counters: ipc.Counters{Accepts: 100, Requests: 100}}
	for name, test := range map[string]struct {
		workers []control.Worker
		past    past
		want    int64 // -1: not known
	}{
		"nobody has counted":               {nil, past{}, -1},
		"the first one":                    {[]control.Worker{lives(1, 5)}, past{}, 5},
		"one after another":                {[]control.Worker{lives(2, 5)}, ended, 105},
		"beside its predecessor":           {[]control.Worker{lives(2, 5), lives(3, 2)}, ended, 107},
		"between two":                      {nil, ended, 100},
		"one that starts":                  {[]control.Worker{starting}, ended, 100},
		"only one that starts":             {[]control.Worker{starting}, past{}, -1},
		"one that does not count":          {[]control.Worker{silent}, past{}, -1},
		"one that does not, after another": {[]control.Worker{silent}, ended, -1},
	} {
		s := snapshot{app: control.App{Slots: []control.Slot{{Slot: 3, Workers: test.workers}}}, past: map[int]past{3: test.past}}
		one := s.figures().Slots[0]
		for _, got := range []*int64{one.Accepted, one.Requests} {
			if (got == nil) != (test.want < 0) || got != nil && *got != test.want {
				t.Errorf("%s: %v, want %d", name, show(got), test.want)
			}
		}
		if one.CPUSeconds != nil {
			t.Errorf("%s: %v s, which nobody has measured", name, *one.CPUSeconds)
		}
	}
	s := snapshot{app: control.App{Slots: []control.Slot{{Slot: 0}}}, past: map[int]past{4: ended}}
	f := s.figures()
	if len(f.Slots) != 2 || f.Slots[1].Slot != 4 || *f.Slots[1].Accepted != 100 || f.Slots[1].Connections != nil || *f.Slots[0].Connections != 0 {
		t.Errorf("a slot that is gone: %+v", f.Slots)
	}
}

// What a slot has handed over counts on when it is gone.
func TestMovedOutlivesSlots(t *testing.T) {
	m := meter{usage: func([]int) map[int]process.Figures { return nil }}
	moved := past{counted: true, counters: ipc.Counters{MovedOut: 7}}
	for _, test := range []struct {
		slots []control.Slot
		want  int64
	}{
		{[]control.Slot{{Slot: 0, Moved: new(int64(3))}, {Slot: 1, Moved: new(int64(7))}}, 10},
		{[]control.Slot{{Slot: 0, Moved: new(int64(3))}}, 10},
		{[]control.Slot{{Slot: 0}}, 7},
	} {
		s := snapshot{app: control.App{Slots: test.slots}, past: map[int]past{1: moved, 2: {}}}
		m.measure(&s, time.Now())
		if got := s.app.Totals.Moved; got == nil || *got != test.want {
			t.Errorf("%+v: %v, want %d", test.slots, show(got), test.want)
		}
	}
}

func show(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

// clock is what workers have used, by pid, as the kernel shows it.
type clock struct {
	t    *testing.T
	m    meter
	now  time.Time
	used map[int]float64
	past float64 // of the workers of slot 0 that have ended
	last float64
}

func (c *clock) Sample(pids []int) map[int]process.Figures {
	figures := map[int]process.Figures{}
	for _, pid := range pids {
		if cpu, there := c.used[pid]; there {
			figures[pid] = process.Figures{At: c.now, CPU: cpu}
		}
	}
	return figures
}

// spent is the processor time of slot 0, with these workers, after a while; -1: not known.
func (c *clock) spent(after time.Duration, pids ...int) float64 {
	c.t.Helper()
	c.now = c.now.Add(after)
	slot := control.Slot{}
	for _, pid := range pids {
		slot.Workers = append(slot.Workers, lives(pid, 0))
	}
	s := snapshot{app: control.App{Slots: []control.Slot{slot}}, past: map[int]past{0: {cpu: c.past}}}
	c.m.measure(&s, c.now)
	all := s.figures().Slots[0].CPUSeconds
	if all == nil {
		return -1
	}
	if *all < c.last {
		c.t.Errorf("processor time has fallen from %v to %v", c.last, *all)
	}
	c.last = *all
	return *all
}

func TestProcessorTimeNeverFalls(t *testing.T) {
	c := &clock{t: t, now: time.Unix(1_000_000, 0), used: map[int]float64{}}
	c.m.usage = c.Sample
	is := func(what string, got, want float64) {
		t.Helper()
		if diff := got - want; diff < -1e-9 || diff > 1e-9 {
			t.Errorf("%s: %v s, want %v", what, got, want)
		}
	}
	is("before the first worker", c.spent(time.Second), 0)
	c.used[1] = 3
	is("the first worker", c.spent(10*time.Second, 1), 3)
	c.used[1] = 5
	is("later", c.spent(10*time.Second, 1), 5)
	is("asked again at once", c.spent(time.Millisecond, 1), 5)
	c.used[1] = 4.5 // a child that nobody has waited for is gone
	is("less than before", c.spent(2*time.Second, 1), 5)
	c.used[1] = 5.5
	is("and more", c.spent(2*time.Second, 1), 6)
	c.used[1] = 6.5
	is("after long", c.spent(time.Hour, 1), 7)

	delete(c.used, 1) // its exit has not reached the loop
	is("while it ends", c.spent(2*time.Second, 1), 7)
	c.past = 8 // the kernel's word, with what nobody has looked at
	is("ended", c.spent(time.Second), 8)
	c.used[2] = 1
	is("the next one", c.spent(time.Second, 2), 9)
	c.used[3] = 2
	is("beside its successor", c.spent(time.Second, 2, 3), 11)
	c.past += 0.25 // most of it was of children that it had not waited for
	delete(c.used, 2)
	is("of which the kernel knows less", c.spent(time.Second, 3), 11)
	c.used[3] = 3
	is("counts on", c.spent(2*time.Second, 3), 11.25)
	c.past += 40 // ten that nobody has ever looked at
	is("a crash loop", c.spent(time.Second, 3), 51.25)
	is("one that cannot be read", c.spent(time.Second, 3, 4), -1)
}

// fakeUsage says how often each process was sampled.
type fakeUsage struct {
	now     time.Time
	sampled map[int]int
}

func (u *fakeUsage) Sample(pids []int) map[int]process.Figures {
	figures := map[int]process.Figures{}
	for _, pid := range pids {
		if pid != 13 { // which has ended
			u.sampled[pid]++
			figures[pid] = process.Figures{RSS: 7, At: u.now, CPU: float64(u.now.Unix()) / 2}
		}
	}
	return figures
}

// Figures are over a second at least, whoever asks in between, and the same for all.
func TestFiguresAreOverASecondAtLeast(t *testing.T) {
	began := time.Unix(1000, 0)
	u := &fakeUsage{sampled: map[int]int{}}
	m := meter{usage: u.Sample}
	measure := func(after time.Duration, requests int64, pids ...int) []control.Worker {
		s := snapshot{}
		app := &s.app
		for _, pid := range pids {
			app.Slots = append(app.Slots, control.Slot{Workers: []control.Worker{{PID: pid, StartedAt: began, Requests: &requests}}})
		}
		u.now = began.Add(after)
		m.measure(&s, u.now)
		var all []control.Worker
		for _, s := range app.Slots {
			all = append(all, s.Workers...)
		}
		return all
	}
	if w := measure(90*time.Millisecond, 1, 3)[0]; w.RSSBytes == nil || w.CPUPercent != nil || w.RequestsPerSecond != nil {
		t.Error("a worker's first moment has figures per second")
	}
	measure(10*time.Second, 100, 1)
	for i := range 10 { // polls, ten a second
		w := measure(10*time.Second+time.Duration(i)*99*time.Millisecond, 100+int64(i), 1)[0]
		if *w.RequestsPerSecond != 10 {
			t.Errorf("poll %d: %v requests a second, want those since the start", i, *w.RequestsPerSecond)
		}
	}
	if u.sampled[1] != 1 {
		t.Errorf("%d samples in a second", u.sampled[1])
	}
	both := measure(12*time.Second, 160, 1, 2, 13)
	if got := *both[0].RequestsPerSecond; got != 30 {
		t.Errorf("%v requests a second, want 60 in 2 s", got)
	}
	if got := *both[0].CPUPercent; got != 50 {
		t.Errorf("%v %% of a CPU, want 50", got)
	}
	if both[1].RSSBytes == nil || both[2].RSSBytes != nil || both[2].CPUPercent != nil {
		t.Error("a new worker is measured at once, one that has ended is not")
	}
	if w := measure(12*time.Second+100*time.Millisecond, 161, 1)[0]; *w.RequestsPerSecond != 30 {
		t.Errorf("%v requests a second, want what the last poll got", *w.RequestsPerSecond)
	}
}
