package pool

import (
	"fmt"
	"slices"
	"time"
)

// signals are what workers do that shows whether they are ready.
type signals struct{ listened, accepting, notified bool }

// expected returns the signals that a worker has to give to be ready; none: it is
// ready when it has been alive for long enough (aliveBy). A process that waits for
// connections has listened, or got a socket that listens. One that got its socket
// need not call listen(2), so READY=1 does in its place where that is all that can
// be seen.
func (p *Pool) expected(s *Slot, w *Worker) signals {
	settings := p.of(w.ID.Generation)
	seen, promised := settings.Seen, w.HelloReceived || w.Notified || s.notifies || settings.Seen.Notifies
	switch settings.Ready.Mode {
	case ReadyListening:
		return signals{listened: true}
	case ReadyAccepting:
		return signals{accepting: true}
	case ReadyNotify:
		return signals{notified: true}
	case ReadyDelay:
		return signals{}
	case ReadyAuto:
	}
	switch {
	case seen.Listeners && seen.Accepting:
		return signals{accepting: true, notified: promised}
	case seen.Listeners && seen.Listening && !promised:
		return signals{listened: true}
	default:
		return signals{notified: promised}
	}
}

// given returns those of the expected signals that the worker has given.
func (w *Worker) given(expected signals) signals {
	return signals{
		listened:  expected.listened && w.Listened,
		accepting: expected.accepting && w.Accepting,
		notified:  expected.notified && w.Notified,
	}
}

func (p *Pool) isReady(s *Slot, w *Worker) bool {
	expected := p.expected(s, w)
	return w.given(expected) == expected && (expected != signals{} || due(p.aliveBy(w), p.now))
}

// learnWithin is how long a worker that may yet listen, and is never idle, is waited
// for before it counts as one that listens nowhere.
const learnWithin = 10 * time.Second

// learns reports whether the app has no listeners, and the worker would bring some if it
// listened.
func (p *Pool) learns(w *Worker) bool {
	settings := p.of(w.ID.Generation)
	return settings.Ready.Mode == ReadyAuto && settings.Seen.Learns && !settings.Seen.Listeners
}

// mayListen reports whether it is not known yet if the worker listens. When one was ready
// without, the app is one of jobs until a worker listens.
func (p *Pool) mayListen(w *Worker) bool { return p.learns(w) && !p.job }

// aliveBy is when a worker that gives no signal is ready.
func (p *Pool) aliveBy(w *Worker) time.Time {
	ready := p.of(w.ID.Generation).Ready
	after := ready.Delay
	if p.mayListen(w) && !w.Idled {
		after = max(after, min(learnWithin, ready.Timeout/2)) // before boot's deadline
	}
	return w.StartedAt.Add(after)
}

// readyDeadline is when a starting worker is ready by itself, or has failed.
func (p *Pool) readyDeadline(s *Slot, w *Worker) time.Time {
	latest := w.StartedAt.Add(p.of(w.ID.Generation).Ready.Timeout)
	if p.expected(s, w) == (signals{}) {
		return earliest(p.aliveBy(w), latest)
	}
	return latest
}

func (p *Pool) becomeReady(s *Slot, w *Worker) {
	w.ReadyAt = p.now
	w.ReadyHow = p.readyHow(s, w)
	p.job = p.job || p.learns(w)
	p.become(w, StateReady, w.ReadyHow)
	p.do(Restore{Slot: s.Index})
}

func (p *Pool) readyHow(s *Slot, w *Worker) string {
	switch p.expected(s, w) {
	case signals{accepting: true, notified: true}:
		return "accepting, and said READY=1"
	case signals{accepting: true}:
		return "accepting"
	case signals{listened: true}:
		return "listening"
	case signals{notified: true}:
		return "said READY=1"
	}
	nowhere := "listens nowhere"
	if w.Elsewhere != "" { // on a port that the kernel chose
		nowhere = "listens on " + w.Elsewhere + " by itself"
	}
	switch alive := fmt.Sprintf("alive for %s", p.aliveBy(w).Sub(w.StartedAt)); {
	case !p.learns(w):
		return alive
	case w.Idled:
		return "idle, and " + nowhere
	default:
		return alive + ", and " + nowhere
	}
}

// listened notes that a worker has called listen(2) on a socket of its slot. If the
// app had no listeners, its generation has some from now on.
func (p *Pool) listened(w *Worker, elsewhere string) {
	if elsewhere != "" {
		w.Elsewhere = elsewhere
		return
	}
	w.Listened = true
	p.job = false
	settings := p.of(w.ID.Generation)
	settings.Seen.Listeners = true
	p.settings[w.ID.Generation] = settings
}

// notReady retires a worker that was not ready within ready.timeout. It counts as a
// failure now; its successor does not wait for its end.
func (p *Pool) notReady(s *Slot, w *Worker) {
	why := fmt.Sprintf("not ready within %s", p.of(w.ID.Generation).Ready.Timeout)
	if missing := p.missing(s, w); missing != "" {
		why += ": " + missing
	}
	if !w.Notified {
		s.notifies = false // or the next one would time out too
	}
	p.retire(w, ReasonRecycle, why)
	p.failed(s, w, Exit{Code: -1, Words: why})
	for _, other := range slices.Clone(s.Workers) {
		if other != w { // notifies may have been all that it waited for
			p.expireWorker(s, other)
		}
	}
}

// missing says which expected signal a worker has not given, and what helps; "": it
// was expected to give none.
func (p *Pool) missing(s *Slot, w *Worker) string {
	const look = ` (see forkd describe; ready.mode = "delay" asks for neither)`
	expected := p.expected(s, w)
	given := w.given(expected)
	seen := p.of(w.ID.Generation).Seen
	switch {
	case w.Elsewhere != "" && !w.Listened && (expected.listened != given.listened || expected.accepting != given.accepting):
		return fmt.Sprintf("it listens on %s, which is none of the app's listeners: have it listen on one of them, or give --listen that address", w.Elsewhere)
	case expected.listened != given.listened:
		return `it listens on none of its sockets (see forkd describe; ready.mode = "delay" does not ask for it)`
	case expected.accepting != given.accepting && w.Listened:
		return "it listens, but accepts no connections (its output may say what it waits for)"
	case expected.accepting != given.accepting && seen.Listening:
		return "it listens on none of its sockets, and accepts no connections" + look
	case expected.accepting != given.accepting:
		return "it accepts connections on none of its sockets" + look
	case expected.notified != given.notified:
		other := ReadyDelay
		switch {
		case seen.Listeners && seen.Accepting:
			other = ReadyAccepting
		case seen.Listeners && seen.Listening:
			other = ReadyListening
		}
		return fmt.Sprintf("no READY=1 came (ready.mode = %q asks for none)", string(other))
	default:
		return ""
	}
}

// noneReady says what keeps the newest of the starting workers from being ready.
func (p *Pool) noneReady() string {
	why := "no worker's program has been started"
	p.workers(func(s *Slot, w *Worker) {
		if w.State != StateStarting || !w.Running {
			return
		}
		if why = p.missing(s, w); why == "" {
			why = fmt.Sprintf("none has been alive for %s", p.aliveBy(w).Sub(w.StartedAt))
		}
	})
	return why
}
