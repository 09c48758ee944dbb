package supervisor

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/ipc"
)

// snapshot is the app as the loop knows it: all but CPU, memory, rates and what is counted
// from outside, which the meter adds. It makes two short system calls a worker.
type snapshot struct {
	app      control.App
	counting sockets.Counting
	past     map[int]past     // by slot
	spent    map[int]*float64 // processor time in seconds, by slot, which the meter adds; nil: not known
	queues   map[int]map[string]int
	counts   control.Counts
	capacity *int64
	limit    *int64
}

func (e *executor) snapshot(v pool.View) snapshot {
	app := control.App{
		App:          e.app,
		PID:          os.Getpid(),
		Version:      control.Version(),
		StartedAt:    e.startedAt,
		Generation:   v.Generation,
		State:        v.State,
		HostDraining: v.Draining,
		ReloadError:  e.reloadFailed,
		Fallback:     e.fallback.from,
		Roll:         showRoll(v.Roll),
		FallsBack:    v.FallsBack,
		DirectoryNow: e.fallback.moved,
		Slots:        make([]control.Slot, 0, len(v.Slots)),
		Leftovers:    append([]control.Leftover{}, e.listDaemons()...),
	}
	s := snapshot{counting: e.sockets.Counting(), past: maps.Clone(e.past), queues: map[int]map[string]int{}, counts: e.events.Counts()}
	if e.agent != nil {
		app.Redis = e.agent.status.Load()
	}
	if r := e.current(v.Generation); r != nil {
		app.Config = r.cfg.File
		app.Listeners = r.showListeners()
		s.capacity, s.limit = positive(cmp.Or(r.cfg.Redis.ConnectionLimit, r.cfg.Redis.MaxConnections)), positive(r.cfg.Redis.MaxConnections)
	}
	if r := v.LastRoll; r != nil {
		app.LastRoll = new(rolled(*r))
	}
	counted := e.counters()
	for _, slot := range v.Slots {
		queues := e.sockets.Queues(slot.Index)
		s.queues[slot.Index] = queues
		app.Slots = append(app.Slots, e.slot(slot, queues, counted))
	}
	for _, l := range e.leftovers {
		app.Leftovers = append(app.Leftovers, showLeftover(l))
	}
	slices.SortFunc(app.Leftovers, func(a, b control.Leftover) int { return a.PID - b.PID })
	s.app = app
	return s
}

// positive is nil for 0: not known, or no limit.
func positive(n int64) *int64 {
	if n <= 0 {
		return nil
	}
	return &n
}

// address is where a listener is, as the configuration would say it.
func address(l sockets.Listener) string {
	if l.Network == "unix" {
		return l.String()
	}
	return l.Network + "://" + l.String()
}

func showRoll(r *pool.RollProgress) *control.Roll {
	if r == nil {
		return nil
	}
	return &control.Roll{From: r.From, To: r.To, Phase: string(r.Phase), Done: r.Done, Of: r.Of, Reason: r.Why}
}

// summary is what is polled: it makes a system call for each worker.
func (e *executor) summary(v pool.View) control.Summary {
	s := control.Summary{State: v.State, Generation: v.Generation, Wanted: v.Wanted, Ready: v.Ready, Roll: showRoll(v.Roll)}
	for _, c := range e.counters() {
		if s.Connections == nil {
			s.Connections = new(int64)
		}
		*s.Connections += int64(c.Open)
	}
	return s
}

// showListeners is what the release listens on, as it is now.
func (r *release) showListeners() []control.Listener {
	if r.listeners == nil {
		return nil
	}
	ls, sources := r.listeners.Listeners(0), r.listeners.Sources()
	out := make([]control.Listener, len(ls))
	for i, l := range ls {
		out[i] = control.Listener{Name: l.Name, Address: address(l), Mode: l.Mode, Balance: l.Balance, Source: sources[i]}
	}
	return out
}

func (e *executor) slot(s pool.Slot, queues map[string]int, counted map[pool.ID]ipc.Counters) control.Slot {
	out := control.Slot{
		Slot:     s.Index,
		State:    string(s.State),
		Leaving:  s.Leaving(),
		Restarts: s.Restarts,
		Reason:   s.Why,
		LastExit: eventlog.LastExit(s.LastExit),
		Workers:  make([]control.Worker, 0, len(s.Workers)),
	}
	if s.State == pool.StateLive && len(s.Workers) == 0 { // the app stops
		out.State = string(pool.StateExited)
	}
	if s.State == pool.StateBackoff {
		out.NextStartAt = &s.NextStart
	}
	past := e.past[s.Index]
	moved, known := past.counters.MovedOut, past.counted
	var queue *int64
	for _, n := range queues {
		if queue == nil {
			queue = new(int64)
		}
		*queue += int64(n)
	}
	for _, w := range s.Workers {
		if s.State == pool.StateLive {
			out.State = string(w.State) // the newest comes last
		}
		if live := e.workers[w.ID]; live != nil {
			one := live.show(w, queue)
			if c, counts := counted[w.ID]; counts {
				one.Counted = "worker"
				one.Connections, one.Accepted, one.Requests = new(int64(c.Open)), new(int64(c.Accepts)), new(int64(c.Requests))
				one.Refused, one.MovedIn, one.MovedOut = new(int64(c.Refused)), new(int64(c.MovedIn)), new(int64(c.MovedOut))
				moved, known = moved+c.MovedOut, true
			}
			out.Workers = append(out.Workers, one)
		}
	}
	if known {
		out.Moved = new(int64(moved))
	}
	return out
}

func (w *worker) show(known *pool.Worker, queue *int64) control.Worker {
	out := control.Worker{
		PID:        w.process.PID(),
		Generation: known.ID.Generation,
		State:      string(known.State),
		StartedAt:  known.StartedAt,
		Counted:    "no",
		Stalled:    known.Stalled,
		Queue:      queue,
	}
	if !known.ReadyAt.IsZero() {
		out.ReadyAt = &known.ReadyAt
	}
	return out
}

// description is everything about the app but its status. No value of the
// environment is in it. It runs on the loop's goroutine.
func (e *executor) description(v pool.View) control.Description {
	d := control.Description{
		History:  e.events.Exits(),
		Rolls:    e.events.Rolls(),
		Messages: control.Messages{Sent: e.sent, Dropped: e.dropped},
	}
	r := e.current(v.Generation)
	if r == nil {
		return d
	}
	d.Release = control.Release{
		Generation: v.Generation,
		Directory:  r.directory,
		Executable: r.program.Path(),
		Command:    r.cfg.Command,
	}
	d.Readiness, d.Sockets = r.readiness(v), r.wayOfSockets()
	d.Env = slices.Sorted(maps.Keys(r.cfg.Env))
	for _, s := range r.cfg.Settings {
		if s.Key == "workers" && v.Wanted != r.cfg.Workers {
			s.Value, s.Source = strconv.Itoa(v.Wanted), "scaled by hand; "+s.Value+" by "+s.Source
		}
		d.Settings = append(d.Settings, s)
	}
	return d
}

// readiness says how a worker is found to be ready, and how those that are were.
func (r *release) readiness(v pool.View) string {
	sees := "seen from outside to wait for connections"
	switch {
	case r.blind != "" && r.pass == "":
		sees = "once it has called listen(2); whether it accepts can't be seen here: " + r.blind
	case r.blind != "":
		sees = "when alive for " + r.cfg.Ready.Delay.String() + ", as neither listen(2) nor whether it accepts can be seen here: " + r.blind
	}
	said := ", and, if it said hello on its channel or its slot's last one sent READY=1, when it has said so"
	mode := map[pool.ReadyMode]string{
		pool.ReadyAuto:      "auto: " + sees + said,
		pool.ReadyListening: "listening: once it has called listen(2)",
		pool.ReadyAccepting: "accepting: seen from outside to wait for connections",
		pool.ReadyNotify:    "notify: a worker says itself when it is ready",
		pool.ReadyDelay:     "delay: a worker is ready when alive for " + r.cfg.Ready.Delay.String(),
	}[r.cfg.Ready.Mode]
	if r.cfg.Ready.Mode == pool.ReadyAuto && len(r.listeners.Listeners(0)) == 0 {
		mode = "auto: without listeners, when it has said READY=1, or is alive for " + r.cfg.Ready.Delay.String()
		if r.learns {
			mode += " and idle: one that listens nowhere is a job worker"
		}
	}
	var how []string
	for _, s := range v.Slots {
		for _, w := range s.Workers {
			if !w.ReadyAt.IsZero() && !slices.Contains(how, w.ReadyHow) {
				how = append(how, w.ReadyHow)
			}
		}
	}
	if len(how) > 0 {
		mode += "; those that are: " + strings.Join(how, ", or ")
	}
	return mode
}

// wayOfSockets says how workers come to their listening sockets.
func (r *release) wayOfSockets() string {
	passed := "passed, as {fd} in the command or env says"
	if len(r.cfg.Protocols) > 0 {
		passed = "passed (" + strings.Join(r.cfg.Protocols, ", ") + ")"
	}
	if r.learns {
		return "a worker's own bind(2) and listen(2) are answered with its slot's sockets; learned ones are not passed"
	}
	if why := cmp.Or(r.pass, r.taken); why != "" {
		return passed + "; a worker's own bind(2) and listen(2) are not answered: " + why
	}
	return passed + "; and a worker's own bind(2) and listen(2) are answered with its slot's sockets"
}

// rolled is the shape of a roll that has ended.
func rolled(r pool.RollEnded) control.Rolled {
	out := control.Rolled{Generation: r.Generation, Result: string(r.Result), Error: r.Why, Fault: string(r.Fault)}
	if r.Fault == pool.FaultProgram || r.Fault == pool.FaultReadiness {
		out.Slot = &r.Slot
	}
	return out
}
