package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

const (
	turnInterval    = 100 * time.Millisecond // and so at most ten heartbeats a second
	pollInterval    = 500 * time.Millisecond // between polls of the status
	maxPollInterval = time.Second            // the same while nothing changes
	commandInterval = 500 * time.Millisecond // between heartbeats that are due for commands only: up to 16 each
	burst           = 3                      // heartbeats that are due for connections only, and one more each half interval
	minBackoff      = 200 * time.Millisecond
	maxBackoff      = 10 * time.Second
)

// App is whose report it is.
type App struct {
	Name      string    // [A-Za-z0-9][A-Za-z0-9._-]{0,47}
	Boot      string    // names this life of the master: letters and digits
	StartedAt time.Time // of the master
	Metrics   string    // HOST:PORT that answers /metrics; "": none
}

// Source is the app that is reported: its master, or a test's. Its methods are
// called by the reporter's goroutine, one at a time.
type Source interface {
	// Summary is polled once or twice a second, Status at each heartbeat.
	Summary(ctx context.Context) (control.Summary, error)
	Status(ctx context.Context) (control.App, error)
	// Events returns the events after a number. It works after the app's end.
	Events(ctx context.Context, after uint64) (control.EventPage, error)
	// Execute runs a command, none twice. What comes of it are events with its id.
	Execute(ctx context.Context, c control.Command) error
}

// snapshot is a summary that can be compared: what causes an early heartbeat.
type snapshot struct {
	Connections int64
	Known       bool // Connections is
	State       string
	Ready       int
	Generation  int
}

func snapshotOf(c control.Summary) snapshot {
	s := snapshot{State: c.State, Ready: c.Ready, Generation: c.Generation}
	if c.Connections != nil {
		s.Connections, s.Known = *c.Connections, true
	}
	return s
}

// changed reports whether to publish: the state has changed, or the connections have by
// more than 5 % and at least one.
func changed(was, now snapshot) bool {
	moved := max(now.Connections-was.Connections, was.Connections-now.Connections)
	enough := now.Known && moved > 0 && 20*moved > was.Connections
	was.Connections = now.Connections
	return now != was || enough
}

// Reporter reports an app to Redis: one goroutine, which polls the [Source], sends
// heartbeats and hands over commands. It keeps nothing that grows while Redis is away.
type Reporter struct {
	settings  Settings
	app       App
	host      string // its id
	source    Source
	log       *slog.Logger
	dialer    dialer
	onChanged func(control.Redis)

	life    context.Context // ends when nothing more is to be sent
	kill    context.CancelFunc
	leaving chan struct{} // closed: the last heartbeat, please
	once    sync.Once     // closes leaving
	stopped chan struct{} // closed at the goroutine's end

	mu     sync.Mutex
	health control.Redis

	// The rest belongs to the goroutine.

	conn      *conn         // nil: none is open
	next      time.Time     // the next heartbeat is due at the latest; after a failure, at the earliest
	backoff   time.Duration // 0: the last heartbeat went well
	answered  bool          // one has
	seq       uint64        // of heartbeats
	sent      snapshot      // with the last heartbeat that went well
	published snapshot      // with the last one that was published
	allowed   float64       // heartbeats ahead of their time, of burst
	allowedAt time.Time     // when that was computed
	polled    snapshot      // by the last poll
	pollEvery time.Duration
	pollAt    time.Time

	acked     uint64          // the last event that is in the stream
	more      bool            // events than one heartbeat holds
	wake      <-chan struct{} // closed: there is another event
	uncertain bool            // events were sent that may have arrived

	done       []string  // commands that are not to come again
	eager      bool      // some of them are new
	commandsAt time.Time // when commands came last

	registerAt  time.Time // of the app
	unlisted    string    // why the app is not registered; "": it is
	duplicate   string    // the boot of another master with this host id and app; "": none
	duplicateAt time.Time // when it was seen last
}

// Start starts reporting app with settings s, and never waits for Redis. onChanged
// gets the health of the report whenever it changes, and each AgentHealthEvery. It fails on bad settings
// only. The reporter's goroutine runs until Close.
func Start(s Settings, app App, source Source, log *slog.Logger, onChanged func(control.Redis)) (*Reporter, error) {
	return start(s, app, source, log, onChanged, direct())
}

func start(s Settings, app App, source Source, log *slog.Logger, onChanged func(control.Redis), through dialer) (*Reporter, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	host, err := s.Host()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	r := &Reporter{
		settings: s, app: app, host: host, source: source, dialer: through, log: log, onChanged: onChanged,
		leaving: make(chan struct{}), stopped: make(chan struct{}),
		health:  control.Redis{State: control.RedisConnecting, Since: now, URL: redisconfig.MaskURL(s.URL), Host: host},
		allowed: burst, allowedAt: now,
		// An agent before this one may have sent events whose answer is not known. While
		// the master is younger than ttl, Redis has not forgotten which.
		uncertain: now.Sub(app.StartedAt) >= s.Expiry(),
	}
	onChanged(r.health)
	r.life, r.kill = context.WithCancel(context.Background())
	go r.run()
	return r, nil
}

// Health returns how the report fares. Any goroutine may ask.
func (r *Reporter) Health() control.Redis {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.health
}

func (r *Reporter) setHealth(change func(*control.Redis)) {
	r.mu.Lock()
	was := r.health
	change(&r.health)
	now := r.health
	r.mu.Unlock()
	if now != was {
		r.onChanged(now)
	}
}

// Close ends the report, and returns when the goroutine and its connections are
// gone. With leave the last events are sent and the host is taken off the list,
// within ctx; without, the host is seen until its time to live is over.
func (r *Reporter) Close(ctx context.Context, leave bool) {
	if leave {
		r.once.Do(func() { close(r.leaving) })
	} else {
		r.kill()
	}
	select {
	case <-r.stopped:
	case <-ctx.Done():
		r.kill()
		<-r.stopped
	}
}

func (r *Reporter) run() {
	defer close(r.stopped)
	defer r.hangUp()
	timer := time.NewTimer(0)
	defer timer.Stop()
	healthAt := time.Now()
	for {
		select {
		case <-r.life.Done():
			return
		case <-r.leaving:
			r.leave()
			return
		case <-timer.C:
		}
		began := time.Now()
		if began.Sub(healthAt) >= redisconfig.AgentHealthEvery {
			healthAt = began
			r.onChanged(r.Health()) // it lives
		}
		r.turn(began)
		timer.Reset(max(0, turnInterval-time.Since(began)))
	}
}

// turn polls the source and sends a heartbeat, if it is time for them.
func (r *Reporter) turn(now time.Time) {
	r.forgetDuplicate(now)
	if r.backoff > 0 && now.Before(r.next) {
		return
	}
	due := r.due(now)
	if !due && now.Before(r.pollAt) {
		return
	}
	ctx, cancel := context.WithTimeout(r.life, timeout)
	defer cancel()
	summary, err := r.source.Summary(ctx)
	if err != nil { // there is nothing to report
		r.pollAt = now.Add(maxPollInterval)
		return
	}
	due = due || summary.EventSeq > r.acked // it was not told, as it follows no events
	s := snapshotOf(summary)
	r.setPoll(now, s)
	if !due && !r.early(now, s) {
		return
	}
	app, err := r.source.Status(ctx)
	if err != nil {
		r.failed(fmt.Errorf("cannot read the app's status: %w", err))
		return
	}
	page, err := r.source.Events(ctx, r.acked)
	if err != nil {
		r.failed(fmt.Errorf("cannot read the app's events: %w", err))
		return
	}
	r.heartbeat(s, app, page)
}

// setPoll sets when to poll again: later, as long as nothing changes.
func (r *Reporter) setPoll(now time.Time, s snapshot) {
	if s == r.polled {
		r.pollEvery = min(2*r.pollEvery, maxPollInterval)
	} else {
		r.pollEvery = pollInterval
	}
	r.polled, r.pollAt = s, now.Add(r.pollEvery)
}

// due reports whether a heartbeat is due, whatever the status is.
func (r *Reporter) due(now time.Time) bool {
	if !now.Before(r.next) || r.more || r.eager && now.Sub(r.commandsAt) >= commandInterval {
		return true
	}
	select {
	case <-r.wake:
		return true
	default:
		return false
	}
}

// early reports whether what has changed is worth a heartbeat ahead of its time. A
// state always is. Connections come and go all the time, by more than 5 % where they
// are few: they get a burst of heartbeats, and then so many that the load on Redis is
// at most three times the planned one.
func (r *Reporter) early(now time.Time, s snapshot) bool {
	half := r.settings.Every() / 2
	r.allowed = min(burst, r.allowed+float64(now.Sub(r.allowedAt))/float64(half))
	r.allowedAt = now
	if !changed(r.sent, s) {
		return false
	}
	if same := s; r.answered {
		same.Connections = r.sent.Connections
		if same != r.sent {
			return true
		}
	}
	if r.allowed < 1 {
		return false
	}
	r.allowed--
	return true
}

// errorText is err in one line, without the password: a server can quote what it was
// sent.
func (r *Reporter) errorText(err error) string {
	if late, ok := errors.AsType[net.Error](err); errors.Is(err, context.DeadlineExceeded) || ok && late.Timeout() {
		return fmt.Sprintf("no answer within %s", timeout)
	}
	text := err.Error()
	if e, bad := redisconfig.ParseURL(r.settings.URL); bad == nil {
		text = hide(text, e.Password)
	}
	if password, bad := redisconfig.ReadSecret(r.settings.PasswordFile); bad == nil {
		text = hide(text, password)
	}
	return sanitize(text)
}

func hide(text, password string) string {
	if password == "" {
		return text
	}
	return strings.ReplaceAll(text, password, "***")
}

// sanitize makes one sanitize of text, without control characters, of at most 300 bytes.
func sanitize(text string) string {
	text = strings.ToValidUTF8(text, "?")
	return cut(strings.TrimSpace(strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return ' '
		}
		return c
	}, text)), 300)
}

// jitter returns d, by up to that share longer or shorter: hosts that were started
// together do not stay in step.
func jitter(d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * (1 - share + 2*share*rand.Float64()))
}
