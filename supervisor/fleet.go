package supervisor

import (
	"context"
	"log/slog"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/redisconfig"
)

// farewellToFleet is how long the host has to take itself out of Redis.
const farewellToFleet = 2 * time.Second

// retryReport is how soon a report that could not begin is tried again: for want of
// a descriptor, or of a file that is being replaced.
const retryReport = 5 * time.Second

// member is this host's part in the fleet: what reports the app to Redis and
// takes orders from there, as the configuration of the generation that serves
// has it. Its goroutine blocks on Redis; the loop only tells it what has changed.
type member struct {
	app      fleet.App
	source   *source
	log      *slog.Logger
	settings chan Redis // the newest, if it has not been taken yet
	leaving  chan struct{}
	done     chan struct{}

	command  []string          // serves a small Redis on descriptor 3
	children *process.Children // by which that is started

	reporter atomic.Pointer[fleet.Reporter] // nil: none
	failed   atomic.Pointer[control.Redis]  // why there is none
	embedded *embedded                      // nil: none
}

// joinFleet begins to report, and goes on until the function that it returns is
// called.
func joinFleet(cfg Config, l *loop, e *executor) (leave func()) {
	of := &member{
		app:      fleet.App{Name: cfg.Name, Boot: l.events.Boot(), StartedAt: e.startedAt},
		source:   &source{backend: &backend{loop: l, meter: meter{usage: process.Sparing(process.NewUsage())}}},
		log:      e.log,
		settings: make(chan Redis, 1),
		leaving:  make(chan struct{}),
		done:     make(chan struct{}),
		command:  cfg.EmbeddedRedis,
		children: e.children,
	}
	of.follow(cfg.Redis)
	e.agent = of
	go of.run()
	return of.leave
}

// follow says by which settings to report from now on. Only the loop's goroutine
// calls it, and whoever starts it.
func (m *member) follow(r Redis) {
	select {
	case <-m.settings: // never taken: this one is newer
	default:
	}
	m.settings <- r
}

// leave ends the report: the host takes itself out of Redis. It gives up where
// something hangs that knows no deadline, a password file on a dead network disk.
func (m *member) leave() {
	close(m.leaving)
	late := time.NewTimer(2*farewellToFleet + time.Second)
	defer late.Stop()
	select {
	case <-m.done:
	case <-late.C:
		m.log.Error("the report to Redis does not end: the host may be seen there until its time is over")
	}
}

// health is how the report fares; nil where there is none.
func (m *member) health() *control.Redis {
	if r := m.reporter.Load(); r != nil {
		return new(r.Health())
	}
	return m.failed.Load()
}

// run does what blocks. A report that could not begin is tried again.
func (m *member) run() {
	defer close(m.done)
	defer m.end()
	var now Redis
	retry := time.NewTimer(0)
	retry.Stop()
	defer retry.Stop()
	for {
		select {
		case <-m.leaving:
			return
		case next := <-m.settings:
			if reflect.DeepEqual(now, next) {
				continue
			}
			m.end()
			now = next
		case <-retry.C:
		}
		select {
		case <-m.leaving: // it may have come while the last one ended
			return
		default:
		}
		if !m.begin(now) {
			retry.Reset(retryReport)
		}
	}
}

// begin reports by other settings. That it reports false is worth another try.
func (m *member) begin(r Redis) bool {
	if r.URL == "" {
		return true
	}
	err := m.start(r)
	if err == nil {
		m.failed.Store(nil)
		return true
	}
	if m.failed.Load() == nil {
		m.log.Error("cannot report to Redis: it is tried again", "why", err)
		m.failed.Store(&control.Redis{State: control.RedisDown, Since: time.Now(), Error: err.Error(), URL: redisconfig.MaskURL(r.URL)})
	}
	return false
}

func (m *member) start(r Redis) error {
	if r.URL == redisconfig.Embedded {
		if m.embedded == nil {
			e, err := embed(m.children, m.command, m.log)
			if err != nil {
				return err
			}
			m.embedded = e
		}
		r.URL = m.embedded.url()
	}
	reporter, err := fleet.Start(r, m.app, m.source, m.log)
	if err != nil {
		return err
	}
	m.reporter.Store(reporter)
	return nil
}

// end takes the host out of Redis.
func (m *member) end() {
	m.failed.Store(nil)
	if r := m.reporter.Swap(nil); r != nil {
		ctx, cancel := context.WithTimeout(context.Background(), farewellToFleet)
		r.Close(ctx, true)
		cancel()
	}
	if m.embedded != nil {
		m.embedded.close()
		m.embedded = nil
	}
}

// source is the app as it is reported, and who carries out what the fleet asks
// for. The backend is one of its own: two that measure at their own pace would
// disturb each other's figures per second.
type source struct{ *backend }
