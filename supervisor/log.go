package supervisor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"unicode"

	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
)

// logHandler is the master's own log: each line goes to the app's, and to stderr unless that
// is the journal, which gets the app's.
type logHandler struct {
	kept     *output.Log
	terminal io.Writer    // for people; nil: stderr is none
	logfmt   slog.Handler // nil: nor anything else but the journal
	attrs    []slog.Attr  // of With
}

// newLog returns the log of a master that writes to stderr: for people in a terminal, else one
// logfmt line a fact; nil: the journal has what the app's log gets.
func newLog(kept *output.Log, stderr io.Writer, terminal bool) *slog.Logger {
	h := &logHandler{kept: kept}
	switch {
	case stderr == nil:
	case terminal:
		h.terminal = stderr
	default:
		h.logfmt = slog.NewTextHandler(stderr, &slog.HandlerOptions{
			ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
				if len(groups) == 0 && a.Key == slog.TimeKey {
					a.Value = slog.StringValue(a.Value.Time().Format("2006-01-02T15:04:05.000Z07:00"))
				}
				return a
			},
		})
	}
	return slog.New(h)
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

// Handle shows people "15:04:05.000 ready slot 1 generation 2 pid 77".
func (h *logHandler) Handle(ctx context.Context, r slog.Record) (err error) {
	of, text := plainLine(r, h.attrs)
	h.kept.Add(of, []byte(text))
	switch {
	case h.terminal != nil:
		line := r.Time.AppendFormat(nil, "15:04:05.000 ")
		if of.Stream != output.LevelInfo {
			line = append(append(line, of.Stream...), ": "...)
		}
		_, err = h.terminal.Write(append(append(line, text...), '\n'))
	case h.logfmt != nil:
		err = h.logfmt.Handle(ctx, r)
	}
	return err
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = slices.Concat(h.attrs, attrs)
	if h.logfmt != nil {
		with.logfmt = h.logfmt.WithAttrs(attrs)
	}
	return &with
}

func (h *logHandler) WithGroup(string) slog.Handler { return h } // none is used

// plainLine is a fact in words, "gone slot 1 generation 2 pid 77 from=ready: exit status 1",
// and whom it is about.
func plainLine(r slog.Record, attrs []slog.Attr) (output.Source, string) {
	of := output.Source{Slot: -1, Generation: -1, PID: -1, Stream: output.LevelInfo}
	switch {
	case r.Level >= slog.LevelError:
		of.Stream = output.LevelError
	case r.Level >= slog.LevelWarn:
		of.Stream = output.LevelWarning
	}
	numbers := map[string]*int{"slot": &of.Slot, "generation": &of.Generation, "pid": &of.PID}
	var whom, rest, why string
	each := func(a slog.Attr) bool {
		switch number := numbers[a.Key]; {
		case number != nil && a.Value.Kind() == slog.KindInt64:
			*number = int(a.Value.Int64())
			whom += fmt.Sprintf(" %s %d", a.Key, *number)
		case a.Key == "why":
			why = ": " + a.Value.String()
		default:
			rest += fmt.Sprintf(" %s=%s", a.Key, a.Value)
		}
		return true
	}
	for _, a := range attrs {
		each(a)
	}
	r.Attrs(each)
	return of, strings.Map(printable, r.Message+whom+rest+why)
}

// printable makes a space of what a terminal obeys: a reason may quote a worker.
func printable(c rune) rune {
	if unicode.IsControl(c) || unicode.Is(unicode.Cf, c) {
		return ' '
	}
	return c
}

// logActions logs what the pool has decided. worker looks a worker up.
func logActions(log *slog.Logger, actions []pool.Action, worker func(pool.ID) eventlog.WorkerInfo) {
	for _, action := range actions {
		switch a := action.(type) {
		case pool.StateChanged:
			logState(log, a, worker(a.ID).PID)
		case pool.RollProgress:
			logWhy(log, slog.LevelInfo, "roll", a.Why, slog.Int("from", a.From), slog.Int("to", a.To),
				slog.String("phase", string(a.Phase)), slog.Int("slots", a.Done), slog.Int("of", a.Of))
		case pool.RollEnded:
			level := slog.LevelInfo
			if a.Result != pool.ResultDone {
				level = slog.LevelError
			}
			text := "roll ended"
			if a.Fault == pool.FaultConfiguration {
				text = "roll refused"
			}
			logWhy(log, level, text, a.Why, slog.Int("generation", a.Generation), slog.String("result", string(a.Result)))
		case pool.WorkerStalled:
			level, text := slog.LevelWarn, "stalled"
			if !a.Stalled {
				level, text = slog.LevelInfo, "recovered"
			}
			logWorker(log, level, text, a.Why, a.ID, worker(a.ID).PID)
		case pool.Overloaded:
			log.Error("overloaded: no worker is steered round or replaced for it", "stalled", a.Stalled, "of", a.Of)
		case pool.Replaced:
			if a.Err == "" {
				logWorker(log, slog.LevelInfo, "replaced", a.Why, a.ID, worker(a.ID).PID)
			} else {
				logWorker(log, slog.LevelWarn, "not replaced", a.Err, a.ID, worker(a.ID).PID, slog.String("for", a.Why))
			}
		case pool.AppUp:
			log.Info("up", "ready", a.Ready, "of", a.Wanted)
		case pool.Scaled:
			log.Info("scaled", "from", a.From, "to", a.To, "why", a.Why)
		case pool.HostDrainChanged:
			if a.Draining {
				log.Info("the host drains: balancers are told to send nobody new", "why", a.Why)
			} else {
				log.Info("the host no longer drains", "why", a.Why)
			}
		case pool.Prepare, pool.CheckRelease, pool.Forget, pool.Start, pool.Restore, pool.Retire, pool.StopGroup, pool.Kill,
			pool.Released, pool.Steer, pool.Leave, pool.CloseSlot, pool.CloseListeners, pool.Restarted, pool.FellBack, pool.AppExited:
			// The executor logs what goes wrong.
		}
	}
}

func logState(log *slog.Logger, a pool.StateChanged, pid int) {
	level := slog.LevelInfo
	switch {
	case a.To == pool.StateFailed:
		level = slog.LevelError
	case a.To == pool.StateBackoff, a.To == pool.StateGone && a.From != pool.StateDraining:
		level = slog.LevelWarn
	}
	var attrs []slog.Attr
	usual := a.To == pool.StateReady || a.To == pool.StateDraining && a.From == pool.StateReady
	if a.From != pool.StateLive && !usual {
		attrs = append(attrs, slog.String("from", string(a.From)))
	}
	if a.To == pool.StateBackoff {
		attrs = append(attrs, slog.Duration("for", a.Wait))
	}
	logWorker(log, level, string(a.To), a.Why, a.ID, pid, attrs...)
}

// logWorker logs what is about a worker, or a slot: then pid is 0.
func logWorker(log *slog.Logger, level slog.Level, text, why string, id pool.ID, pid int, more ...slog.Attr) {
	attrs := []slog.Attr{slog.Int("slot", id.Slot), slog.Int("generation", id.Generation)}
	if pid != 0 {
		attrs = append(attrs, slog.Int("pid", pid))
	}
	logWhy(log, level, text, why, append(attrs, more...)...)
}

// logWhy logs with the reason last, if there is one.
func logWhy(log *slog.Logger, level slog.Level, text, why string, attrs ...slog.Attr) {
	if why != "" {
		attrs = append(attrs, slog.String("why", why))
	}
	log.LogAttrs(context.Background(), level, text, attrs...)
}
