package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

// Reporter reports an app to Redis: one goroutine, which asks the [Source], sends
// beats and hands on orders. It keeps nothing that grows while Redis is away.
type Reporter struct {
	settings Settings
	app      App
	host     string // its id
	source   Source
	log      *slog.Logger
	through  dialer

	life    context.Context // ends when nothing more is to be sent
	kill    context.CancelFunc
	leaving chan struct{} // closed: the last beat, please
	once    sync.Once     // closes leaving
	done    chan struct{} // closed at the goroutine's end

	changed func(control.Redis) // told of the health when it is another

	mu     sync.Mutex
	health control.Redis
}

// Start begins to report app, by what s says, and never waits for Redis. changed is
// told how the report fares. It fails on bad settings only. The reporter's goroutine runs until Close.
func Start(s Settings, app App, source Source, log *slog.Logger, changed func(control.Redis)) (*Reporter, error) {
	return start(s, app, source, log, changed, direct())
}

func start(s Settings, app App, source Source, log *slog.Logger, changed func(control.Redis), through dialer) (*Reporter, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if err := redisconfig.CheckApp(app.Name); err != nil {
		return nil, err
	}
	host, err := s.Host()
	if err != nil {
		return nil, err
	}
	r := &Reporter{
		settings: s, app: app, host: host, source: source, through: through,
		log:     log,
		changed: changed,
		leaving: make(chan struct{}), done: make(chan struct{}),
		health: control.Redis{State: control.RedisConnecting, Since: time.Now(), URL: redisconfig.MaskURL(s.URL), Host: host},
	}
	changed(r.health)
	r.life, r.kill = context.WithCancel(context.Background())
	go newReporting(r).run()
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
		r.changed(now)
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
	case <-r.done:
	case <-ctx.Done():
		r.kill()
		<-r.done
	}
}

// said is err in one line, without the password: a server can quote what it was
// sent.
func (r *Reporter) said(err error) string {
	if timeout, ok := errors.AsType[net.Error](err); errors.Is(err, context.DeadlineExceeded) || ok && timeout.Timeout() {
		return fmt.Sprintf("no answer within %s", patience)
	}
	text := err.Error()
	if e, bad := redisconfig.ParseURL(r.settings.URL); bad == nil {
		text = hide(text, e.Password)
	}
	if r.settings.PasswordFile != "" {
		if password, bad := redisconfig.ReadSecret(r.settings.PasswordFile); bad == nil {
			text = hide(text, password)
		}
	}
	return line(text)
}

func hide(text, password string) string {
	if password == "" {
		return text
	}
	return strings.ReplaceAll(text, password, "***")
}

// line makes one line of text, without control characters, of at most 300 bytes.
func line(text string) string {
	text = strings.ToValidUTF8(text, "?")
	return cut(strings.TrimSpace(strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return ' '
		}
		return c
	}, text)), 300)
}
