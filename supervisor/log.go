package supervisor

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/forkd/forkd/internal/eventlog"
	"github.com/forkd/forkd/internal/pool"
)

// newLog writes the master's own log, one logfmt line a fact. systemd's journal
// adds the time itself.
func newLog(w io.Writer) *slog.Logger {
	journal := os.Getenv("JOURNAL_STREAM") != ""
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				if journal {
					return slog.Attr{}
				}
				a.Value = slog.StringValue(a.Value.Time().Format("15:04:05.000"))
			}
			return a
		},
	}))
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
			logWhy(log, level, "roll ended", a.Why, slog.Int("generation", a.Generation), slog.String("result", string(a.Result)))
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
			pool.Released, pool.Steer, pool.Leave, pool.CloseSlot, pool.CloseListeners, pool.Restarted, pool.AppExited:
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
	if a.From != pool.StateLive {
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
