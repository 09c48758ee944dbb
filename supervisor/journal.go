package supervisor

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/forkd/forkd/internal/pool"
)

// newLog writes the master's own log, one logfmt line a fact. Where the journal
// reads along it puts the time there itself.
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

// logMoved is the one place where a transition of a worker or slot is logged.
func logMoved(log *slog.Logger, a pool.StateChanged, pid int) {
	level := slog.LevelInfo
	switch {
	case a.To == pool.StateFailed:
		level = slog.LevelError
	case a.To == pool.StateBackoff, a.To == pool.StateGone && a.From != pool.StateDraining:
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{slog.Int("slot", a.ID.Slot), slog.Int("generation", a.ID.Generation)}
	if pid != 0 {
		attrs = append(attrs, slog.Int("pid", pid))
	}
	if a.From != pool.StateLive {
		attrs = append(attrs, slog.String("from", string(a.From)))
	}
	if a.To == pool.StateBackoff {
		attrs = append(attrs, slog.Duration("for", a.Wait))
	}
	log.LogAttrs(context.Background(), level, string(a.To), withWhy(attrs, a.Why)...)
}

func logRoll(log *slog.Logger, a pool.RollProgress) {
	attrs := []slog.Attr{
		slog.Int("from", a.From), slog.Int("to", a.To), slog.String("phase", string(a.Phase)),
		slog.Int("slots", a.Done), slog.Int("of", a.Of),
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, "roll", withWhy(attrs, a.Why)...)
}

func logRollEnded(log *slog.Logger, a pool.RollEnded) {
	level := slog.LevelInfo
	if a.Result != pool.ResultDone {
		level = slog.LevelError
	}
	attrs := []slog.Attr{slog.Int("generation", a.Generation), slog.String("result", string(a.Result))}
	log.LogAttrs(context.Background(), level, "roll ended", withWhy(attrs, a.Why)...)
}

// logApp logs what happens to the app as a whole.
func logApp(log *slog.Logger, action pool.Action) {
	switch a := action.(type) {
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
	default:
	}
}

func withWhy(attrs []slog.Attr, why string) []slog.Attr {
	if why == "" {
		return attrs
	}
	return append(attrs, slog.String("why", why))
}
