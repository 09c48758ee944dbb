package supervisor

import (
	"cmp"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/process"
)

// One look at the daemons there are. Worker 0.1#1, with the pipe that is called
// dead, has ended; 1.1#1 has lived since tick 200, with the pipe that is called
// alive.
func TestDaemons(t *testing.T) {
	epoch := time.Unix(1e9, 0)
	const timeout = 30 * time.Second
	daemons := func(starts ...uint64) (found []*process.Orphan) {
		for i, start := range starts {
			found = append(found, &process.Orphan{PID: i + 1, Session: i + 1, Start: start})
		}
		return found
	}
	with := func(pipe string, start uint64) []*process.Orphan {
		found := daemons(start)
		found[0].Outputs[1] = pipe
		return found
	}
	many := make([]uint64, 2*maxUnknown+3)
	for i := range many {
		many[i] = uint64(1000 - i)
	}
	for name, c := range map[string]struct {
		found    []*process.Orphan
		shared   bool   // with others' children
		oldest   uint64 // start of the workers; 0: 200
		stopping bool
		left     int           // processes
		deadline time.Duration // of those
		first    int           // of those: the pid
	}{
		"none":                             {},
		"of a worker that lives":           {found: with("alive", 100)},
		"of a dead one":                    {found: with("dead", 300), left: 1, deadline: timeout - time.Second, first: 1},
		"of a dead one, as PID 1":          {found: with("dead", 300), shared: true, left: 1, deadline: timeout - time.Second, first: 1},
		"while another starts":             {found: with("dead", 300), oldest: 199, left: 1, deadline: timeout - time.Second, first: 1},
		"of nobody who lives":              {found: daemons(300, 199, 198), left: 2, deadline: timeout, first: 3},
		"of one that is being started":     {found: daemons(199), oldest: 199},
		"perhaps of somebody who lives":    {found: daemons(200, 300)},
		"perhaps of none of the app's":     {found: daemons(199), shared: true},
		"when the app stops":               {found: with("dead", 300), stopping: true},
		"too many that could be anybody's": {found: daemons(many...), left: 3, deadline: timeout, first: 3},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Drain: Drain{Timeout: timeout}}
			dead := &worker{id: pool.ID{Slot: 0, Generation: 1, Attempt: 1}, cfg: cfg, process: &process.Process{}, pipes: []string{"dead"}}
			alive := &worker{id: pool.ID{Slot: 1, Generation: 1, Attempt: 1}, cfg: cfg, process: &process.Process{}, pipes: []string{"alive"}}
			h := &executor{
				log: slog.New(slog.DiscardHandler), events: eventlog.New(epoch, nil), slots: 2, listenersClosed: c.stopping, daemons: newDaemons(),
				releases: map[int]*release{1: {cfg: cfg}}, workers: map[pool.ID]*worker{alive.id: alive},
			}
			oldest := cmp.Or(c.oldest, 200)
			h.orphanDaemons(dead, epoch.Add(-time.Second))
			events := h.noteDaemons(daemonsFound{c.found, oldest, c.shared}, epoch)
			running := len(c.found) - c.left
			for _, l := range h.listDaemons() {
				if l.KillAt == nil {
					running -= l.Processes
				} else if l.Processes != c.left || l.PID != c.first {
					t.Errorf("left %+v", l)
				}
			}
			if running != 0 {
				t.Errorf("%d more are let be than it says", running)
			}
			if c.left == 0 {
				if len(events) != 0 {
					t.Errorf("got %v", events)
				}
				return
			}
			if len(events) != 1 {
				t.Fatalf("got %v", events)
			}
			id := pool.ID{Attempt: -1}
			if want := (pool.Inherited{ID: id, Deadline: epoch.Add(c.deadline), Stop: true}); events[0] != want {
				t.Errorf("got %v, want %v", events[0], want)
			}
			if again := h.noteDaemons(daemonsFound{c.found, oldest, c.shared}, epoch); len(again) != 0 {
				t.Errorf("then %v", again)
			}
			if ended := h.noteDaemons(daemonsFound{nil, oldest, c.shared}, epoch); len(ended) != 1 || ended[0] != (pool.GroupEnded{ID: id}) {
				t.Errorf("at their end %v", ended)
			}
			if len(h.daemons.alive) != 0 {
				t.Errorf("%d are remembered", len(h.daemons.alive))
			}
		})
	}
}

// A dead worker's output is not read for ever, whoever has the pipe.
func TestOutputOfTheDead(t *testing.T) {
	read, write, err := output.NewPipe(-1, -1)
	if err != nil {
		t.Fatal(err)
	}
	holder := os.NewFile(uintptr(write), "write")
	defer holder.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		new(output.Log).Capture(read, output.Source{}, nil)
	}()
	h := &executor{}
	h.orphanDaemons(&worker{readers: []*os.File{read}, cfg: Config{Drain: Drain{Timeout: -lastOutputTimeout}}}, time.Now())
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it is read still")
	}
	if _, err := holder.WriteString("a line\n"); err != nil {
		t.Errorf("whoever writes gets %v", err)
	}
	if len(h.daemons.past) != 1 {
		t.Error("it is forgotten")
	}
	h.orphanDaemons(&worker{}, time.Now().Add(time.Hour))
	if len(h.daemons.past) != 1 {
		t.Errorf("%d are remembered", len(h.daemons.past))
	}
}
