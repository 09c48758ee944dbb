package eventlog

import (
	"fmt"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/state"
)

// WorkerInfo is what is known of a worker beside its ID.
type WorkerInfo struct {
	PID    int          // 0: it has none
	Output *output.Tail // the last lines that it wrote
	Moved  uint64       // connections that it had handed over when it ended
}

// Record turns what the pool has decided or learned into events. worker looks a
// worker up.
func (l *Log) Record(actions []pool.Action, worker func(pool.ID) WorkerInfo) {
	for _, action := range actions {
		switch a := action.(type) {
		case pool.StateChanged:
			l.stateChanged(a, worker(a.ID))
		case pool.RollProgress:
			l.rollProgress(a)
		case pool.RollEnded:
			l.rollEnded(a)
		case pool.Restarted:
			l.counts.Restarts[string(a.Cause)]++
		case pool.WorkerStalled:
			kind := control.EventStalled
			if !a.Stalled {
				kind = control.EventRecovered
			}
			l.Add(workerEvent(kind, a.ID, worker(a.ID), a.Why))
		case pool.Overloaded:
			l.Add(control.Event{Type: control.EventOverloaded, Reason: fmt.Sprintf("%d of %d workers are stalled", a.Stalled, a.Of)})
		case pool.Replaced:
			kind, why := control.EventReplaced, a.Why
			if a.Err != "" {
				kind, why = control.EventReplaceFailed, a.Why+": "+a.Err
			} else {
				l.counts.Restarts[string(a.Cause)]++
			}
			l.Add(workerEvent(kind, a.ID, worker(a.ID), why))
		case pool.AppUp:
			why := ""
			if a.Ready < a.Wanted {
				why = fmt.Sprintf("degraded: %d of %d workers are ready", a.Ready, a.Wanted)
			}
			l.Add(control.Event{Type: control.EventUp, Reason: why})
		case pool.Scaled:
			l.Add(control.Event{Type: control.EventScaled, Reason: fmt.Sprintf("%d to %d workers: %s", a.From, a.To, a.Why)})
		case pool.HostDrainChanged:
			kind := control.EventResumed
			if a.Draining {
				kind = control.EventDraining
			}
			l.Add(control.Event{Type: kind, Reason: a.Why})
		case pool.AppExited:
			l.Add(control.Event{Type: control.EventDown, Reason: a.Why, By: l.Stopped})
		case pool.Prepare, pool.CheckRelease, pool.Forget, pool.Start, pool.Restore, pool.Retire, pool.StopGroup, pool.Kill,
			pool.Released, pool.Steer, pool.Leave, pool.CloseSlot, pool.CloseListeners, pool.FellBack:
		}
	}
}

func (l *Log) stateChanged(a pool.StateChanged, info WorkerInfo) {
	kind := ""
	switch {
	case a.To == pool.StateReady:
		kind = control.EventReady
		l.readyAt[a.ID] = time.Now()
	case a.To == pool.StateGone:
		kind = control.EventExited
		crashed := a.From != pool.StateDraining && !a.Exit.Clean()
		if crashed {
			kind = control.EventCrashed
		}
		l.exited(a, info, crashed)
	case a.To == pool.StateBackoff && a.Wait > 0:
		kind = control.EventBackoff
		a.Why = "starts again in " + a.Wait.String() + ": " + a.Why
	case a.To == pool.StateFailed:
		kind = control.EventFailed
	default:
		return
	}
	l.Add(workerEvent(kind, a.ID, info, a.Why))
}

// workerEvent is an event about a worker, or about a slot: then info has no PID.
func workerEvent(kind string, id pool.ID, info WorkerInfo, why string) control.Event {
	e := control.Event{Type: kind, Slot: &id.Slot, Generation: &id.Generation, Reason: why, Moved: info.Moved}
	if info.PID != 0 {
		e.PID = &info.PID
	}
	return e
}

func (l *Log) exited(a pool.StateChanged, info WorkerInfo, crashed bool) {
	how := LastExit(pool.LastExit{At: time.Now(), Exit: a.Exit, Why: a.Why})
	e := control.Exit{Slot: a.ID.Slot, Generation: a.ID.Generation, PID: info.PID, LastExit: *how, Crashed: crashed}
	if at, ready := l.readyAt[a.ID]; ready {
		e.ReadyFor = new(time.Since(at).Seconds())
		delete(l.readyAt, a.ID)
	}
	l.exits = push(l.exits, exit{e, info.Output}, maxExits)
	l.state.Append(state.Record{Boot: l.boot, Exit: &e, Output: info.Output.Lines})
}

// LastExit is the shape of an exit in a status; nil where there was none.
func LastExit(e pool.LastExit) *control.LastExit {
	if e.At.IsZero() {
		return nil
	}
	out := &control.LastExit{At: e.At, Reason: e.Why}
	switch {
	case e.Exit.Signal != 0:
		out.Signal = unix.SignalName(syscall.Signal(e.Exit.Signal))
	case e.Exit.Code >= 0:
		out.Code = new(e.Exit.Code)
	}
	return out
}

func (l *Log) rollProgress(a pool.RollProgress) {
	switch {
	case a.Phase == pool.RollPreparing && l.rolling != a.To:
		l.rolling, l.begun, l.rollFrom = a.To, false, time.Now()
	case a.Phase == pool.RollRolling && !l.begun:
		l.begun = true
		why := "from generation " + strconv.Itoa(a.From)
		if a.Reload {
			why += ", the configuration read anew"
		}
		e := control.Event{Type: control.EventRollStarted, Generation: new(a.To), Reason: why, By: l.Asked[a.To]}
		if ids := l.Waiting[a.To]; len(ids) > 0 {
			e.Command = ids[0]
		}
		l.Add(e)
	}
}

func (l *Log) rollEnded(a pool.RollEnded) {
	kind, why := control.EventRollFailed, a.String()
	switch a.Result {
	case pool.ResultDone:
		kind, why = control.EventRollDone, a.Why
	case pool.ResultRolledBack:
		kind, why = control.EventRolledBack, a.Why
	case pool.ResultFailed, pool.ResultPaused, pool.ResultCanceled:
	}
	l.counts.Rolls[counted(a.Result)]++
	ids := l.Waiting[a.Generation]
	by := l.Asked[a.Generation]
	delete(l.Waiting, a.Generation)
	delete(l.Asked, a.Generation)
	if len(ids) == 0 {
		ids = []string{""}
	}
	for _, id := range ids {
		l.Add(control.Event{Type: kind, Generation: new(a.Generation), Reason: why, Command: id, By: by})
	}
	ended := control.RollRecord{
		Generation: a.Generation, Result: string(a.Result), Error: a.Why, By: by, Fault: string(a.Fault),
		StartedAt: l.rollFrom, EndedAt: time.Now(),
	}
	l.rolls = push(l.rolls, ended, maxRolls)
	l.state.Append(state.Record{Boot: l.boot, Roll: &ended})
}
