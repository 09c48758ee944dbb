package fleet

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/advise"
)

//go:embed leader.lua
var leaderSource string

// ErrNotLeader is of what only the leader may do.
var ErrNotLeader = errors.New("another one leads now")

// Advisor advises on an app. Of all that advise on it, wherever they run, one leads: it
// decides, and keeps what it must remember in Redis. The others see the same and wait.
// One whose time has run out unnoticed is refused whatever it writes: its token is an old
// one. It must look every few seconds to stay the leader. Not for concurrent use, but for
// Send and Leads.
type Advisor struct {
	reader  *Reader
	app, id string
	policy  advise.Policy
	leader  *redis.Script

	token  string // of the leader; "": another one leads, or nobody
	until  time.Time
	other  string // who leads, else
	memory advise.Memory
}

// Advisor makes an adviser on an app. id says in Redis and to the others who it is: unique,
// at most 256 bytes, printable. The Reader must not read from replicas.
func (r *Reader) Advisor(app, id string, p advise.Policy) *Advisor {
	return &Advisor{reader: r, app: app, id: id, policy: p, leader: redis.NewScript(leaderSource)}
}

// Leads reports whether it led at its last look, and for how long it may be sure of it
// without another, by this host's clock.
func (a *Advisor) Leads() (until time.Time, leads bool) {
	return a.until, a.token != "" && time.Now().Before(a.until)
}

// Leader is the id of the one who leads; "" nobody.
func (a *Advisor) Leader() string {
	if a.token != "" {
		return a.id
	}
	return a.other
}

// Token is the leader's, which grows from each leader to the next; "" for others.
func (a *Advisor) Token() string { return a.token }

// Look reads the app's hosts and returns the advice. It leads if nobody does, and then
// the advice is written down before it is returned.
func (a *Advisor) Look(ctx context.Context) (Fleet, advise.Advice, error) {
	if err := a.hold(ctx); err != nil {
		return Fleet{}, advise.Advice{}, err
	}
	f, err := a.reader.Fleet(ctx, a.app, false)
	if err != nil {
		return Fleet{}, advise.Advice{}, err
	}
	m := a.memory
	if a.token == "" {
		if m, _, err = a.reader.remembered(ctx, a.app); err != nil {
			return Fleet{}, advise.Advice{}, err
		}
	}
	m, advice := a.policy.Advise(f.At, m, HostsOf(f))
	if a.token != "" {
		if err := a.save(ctx, m, &advice); err != nil && !errors.Is(err, ErrNotLeader) {
			return Fleet{}, advise.Advice{}, err
		}
	}
	return f, advice, nil
}

// News reports whether the one who starts and removes hosts has to be told of the advice
// of the last look. Only a leader has news.
func (a *Advisor) News(advice advise.Advice) bool {
	_, leads := a.Leads()
	return leads && a.policy.News(a.memory, advice)
}

// Telling is what Told gets once the one who starts and removes hosts was told of the
// advice of the last look: there may be others until then.
func (a *Advisor) Telling(advice advise.Advice) advise.Told { return a.memory.Telling(advice) }

// Told notes that the one who starts and removes hosts was told of an advice.
// [ErrNotLeader]: another one leads, and will tell it again.
func (a *Advisor) Told(ctx context.Context, told advise.Told) error {
	if a.token == "" {
		return ErrNotLeader
	}
	m := a.memory
	m.Told = told
	return a.save(ctx, m, nil)
}

// Leave ends the leadership, so that the next one need not wait for its end. The Reader
// may be closed already.
func (a *Advisor) Leave(ctx context.Context) error {
	if a.token == "" {
		return nil
	}
	client, err := dial(a.reader.settings, true)
	if err != nil {
		return err
	}
	defer client.Close()
	err = a.leader.Run(ctx, client, a.keys(), "leave", a.id, a.token).Err()
	a.lose("")
	return err
}

func (a *Advisor) keys() []string { return []string{keys{a.app}.leader(), keys{a.app}.advice()} }

func (a *Advisor) lose(other string) { a.token, a.until, a.other = "", time.Time{}, other }

// hold begins to lead where nobody does, or goes on.
func (a *Advisor) hold(ctx context.Context) error {
	answer, err := a.run(ctx, "hold")
	if err != nil || len(answer) < 3 {
		return err
	}
	// It leads from now on, with what is remembered: by the one before, or by itself,
	// where Redis has lost it.
	ms, err := strconv.ParseInt(answer[1], 10, 64)
	if err != nil {
		return errNotRedis
	}
	stored := parseMemory(answer[2])
	if !stored.At.Before(a.memory.At) {
		a.memory = stored
	}
	if a.memory.At.IsZero() {
		a.memory = advise.Start(time.UnixMilli(ms).UTC())
	}
	return nil
}

// save writes down what is to be remembered, and if it is not nil, what is advised, for
// [Reader.Scale]. [ErrNotLeader]: another one leads.
func (a *Advisor) save(ctx context.Context, m advise.Memory, advice *advise.Advice) error {
	text, err := json.Marshal(m)
	if err == nil && len(text) > mostMemory {
		err = fmt.Errorf("%d bytes, at most %d", len(text), mostMemory)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", keys{a.app}.advice(), err)
	}
	more := []any{text}
	if advice != nil {
		shown, err := json.Marshal(published(*advice))
		if err != nil {
			return fmt.Errorf("cannot write %s: %w", keys{a.app}.advice(), err)
		}
		more = append(more, shown)
	}
	if _, err := a.run(ctx, "save", more...); err != nil {
		return err
	}
	if a.token == "" {
		return ErrNotLeader
	}
	a.memory = m
	return nil
}

func (a *Advisor) run(ctx context.Context, what string, more ...any) ([]string, error) {
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	args := append([]any{what, a.id, a.token, leaderTTL.Milliseconds(), memoryKept.Milliseconds()}, more...)
	answer, err := a.leader.Run(ctx, a.reader.client, a.keys(), args...).StringSlice()
	switch {
	case err != nil:
		a.reader.reload(ctx)
		return nil, fmt.Errorf("cannot write %s: %w", keys{a.app}.leader(), err)
	case len(answer) < 2:
		return nil, errNotRedis
	case answer[0] == "":
		a.lose(leaderOf(answer[1]))
		return nil, nil
	}
	a.token, a.until, a.other = answer[0], asked.Add(leaderTTL), ""
	return answer, nil
}

// Send appends a command to the list of a host as the leader. [ErrNotLeader]: another one
// leads, and nothing was sent.
func (a *Advisor) Send(ctx context.Context, host string, c Command) error {
	return a.reader.order(ctx, a.app, host, a.token+" "+a.id, c)
}
