package supervisor

import (
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/process"
)

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
