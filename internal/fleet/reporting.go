package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

const (
	turnEvery    = 100 * time.Millisecond // and so at most ten beats a second
	pollInterval = 500 * time.Millisecond // between polls of the status
	mostQuiet    = time.Second            // the same while nothing changes
	orderPace    = 500 * time.Millisecond // between beats that are due for orders only: up to 16 each
	burst        = 3                      // beats that are due for connections only, and one more each half interval
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 10 * time.Second
)

// reporting is what the reporter's goroutine knows. Nothing else touches it.
type reporting struct {
	*Reporter

	wire     *wire         // nil: none is open
	next     time.Time     // the next beat is due at the latest; after a failure, at the earliest
	backoff  time.Duration // 0: the last beat went well
	answered bool          // one has
	seq      uint64        // of beats
	sent     snapshot      // with the last beat that went well
	told     snapshot      // with the last one that was published
	allowed  float64       // beats ahead of their time, of burst
	refilled time.Time     // when that was reckoned
	seen     snapshot      // with the last look
	quiet    time.Duration // from that to the next
	lookAt   time.Time

	acked     uint64          // the last event that is in the stream
	more      bool            // than one beat holds
	news      <-chan struct{} // closed: there is another event
	uncertain bool            // events were sent that may have arrived

	done     []string  // orders that are not to come again
	eager    bool      // some of them are new
	ordersAt time.Time // when orders came last

	registerAt time.Time // of the app
	unlisted   string    // why the app is not registered; "": it is
	twin       string    // the boot of another master of this host and app; "": none
	twinSeen   time.Time
}

// newReporting begins with nothing: which events are in the stream, Redis knows. An
// agent before this one may have sent some whose answer is not known.
func newReporting(r *Reporter) *reporting {
	uncertain := time.Since(r.app.StartedAt) >= r.settings.Expiry() // while the master is younger, Redis has not forgotten
	return &reporting{Reporter: r, uncertain: uncertain, allowed: burst, refilled: time.Now()}
}

func (r *reporting) run() {
	defer close(r.Reporter.done)
	defer r.hangUp()
	timer := time.NewTimer(0)
	defer timer.Stop()
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
		r.turn(began)
		timer.Reset(max(0, turnEvery-time.Since(began)))
	}
}

// turn looks whether it is time for a beat.
func (r *reporting) turn(now time.Time) {
	r.forgetTwin(now)
	if r.backoff > 0 && now.Before(r.next) {
		return
	}
	due := r.due(now)
	if !due && now.Before(r.lookAt) {
		return
	}
	ctx, cancel := context.WithTimeout(r.life, patience)
	defer cancel()
	app, err := r.source.Status(ctx)
	if err != nil {
		r.lookAt = now.Add(mostQuiet)
		return // without a status there is nothing to report
	}
	glance := snapshotOf(app)
	r.looked(now, glance)
	if !due && !r.early(now, glance) {
		return
	}
	page, err := r.source.Events(ctx, r.acked)
	if err != nil {
		return
	}
	r.beat(glance, app, page)
}

// looked sets when to look again: later each time, as long as nothing moves. A look
// costs the master a system call for each worker.
func (r *reporting) looked(now time.Time, g snapshot) {
	if g == r.seen {
		r.quiet = min(2*r.quiet, mostQuiet)
	} else {
		r.quiet = pollInterval
	}
	r.seen, r.lookAt = g, now.Add(r.quiet)
}

// due reports whether a beat is, whatever a look at the app would find.
func (r *reporting) due(now time.Time) bool {
	if !now.Before(r.next) || r.more || r.eager && now.Sub(r.ordersAt) >= orderPace {
		return true
	}
	select {
	case <-r.news:
		return true
	default:
		return false
	}
}

// early reports whether what has changed is worth a beat ahead of its time. A state
// always is. Connections come and go all the time, by more than 5 % where they are
// few: they get a burst of beats, and then so many that a beat's load on Redis is at
// most three times the planned one.
func (r *reporting) early(now time.Time, g snapshot) bool {
	half := r.settings.Every() / 2
	r.allowed = min(burst, r.allowed+float64(now.Sub(r.refilled))/float64(half))
	r.refilled = now
	if !changed(r.sent, g) {
		return false
	}
	if same := g; r.answered {
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

// changed reports whether a look is worth it: the state is another, or the
// connections have moved by over 5 % and at least one.
func changed(was, now snapshot) bool {
	moved := max(now.Connections-was.Connections, was.Connections-now.Connections)
	enough := now.Known && moved > 0 && 20*moved > was.Connections
	was.Connections = now.Connections
	return now != was || enough
}

func (r *reporting) beat(g snapshot, app control.App, page control.EventPage) {
	r.seq++
	b := beat{
		kind:    beatReport,
		fields:  hostFields(r.settings, r.host, r.app, app, r.seq, r.twin),
		load:    loadOf(r.settings, app),
		changed: !r.answered || changed(r.told, g),
	}
	r.fill(&b, page)
	a, err := r.send(b)
	if err != nil {
		r.failed(err)
		return
	}
	if a.newer > 0 { // of a reporter before this one
		r.seq, r.next = a.newer, time.Time{}
		return
	}
	r.meet(a)
	r.took(b, a, page)
	if a.before == "" {
		r.registerAt = time.Time{} // a Redis that has lost the one will have lost the other
	}
	r.sent, r.answered = g, true
	if b.changed {
		r.told = g
	}
	r.obey(a, b.done)
	r.register(a)
	r.well(a)
	r.backoff, r.next = 0, time.Now().Add(jitter(r.settings.Every(), 0.1))
}

// fill adds what every kind of beat has: the events that are not in the stream yet,
// as many as fit, and what is done.
func (r *reporting) fill(b *beat, page control.EventPage) {
	b.host, b.boot, b.seq, b.ttl = r.host, r.app.Boot, r.seq, r.settings.Expiry()
	b.uncertain, b.acked, b.newest = r.uncertain, r.acked, r.acked
	if n := len(page.Events); n > 0 {
		b.newest = page.Events[n-1].Seq
	}
	b.news = page.Events[:min(len(page.Events), maxNews)]
	b.orders, b.done = r.settings.Control, r.done
}

// send is one try, and at most patience long.
func (r *reporting) send(b beat) (answer, error) {
	if r.wire == nil {
		client, err := dialThrough(r.life, r.settings, false, r.through)
		if err != nil {
			return answer{}, err
		}
		r.wire = newWire(client, r.app.Name)
	}
	ctx, cancel := context.WithTimeout(r.life, patience)
	defer cancel()
	a, err := r.wire.send(ctx, b)
	if err != nil {
		r.uncertain = r.uncertain || len(b.news) > 0
		r.hangUp()
	}
	return a, err
}

// hangUp ends the connection. The next try makes a client anew, which looks up
// addresses, finds the primary and reads the files again; go-redis's own would go
// on trying in its own time.
func (r *reporting) hangUp() {
	if r.wire != nil {
		_ = r.wire.client.Close()
		r.wire = nil
	}
}

// took notes which events are in the stream and which orders are off the list.
func (r *reporting) took(b beat, a answer, page control.EventPage) {
	r.uncertain, r.done, r.eager, r.news = false, nil, false, page.More
	if n := len(b.news); a.last < b.acked {
		r.acked = a.last // a failover has lost what was confirmed: once more
	} else if n > 0 {
		r.acked = max(b.news[n-1].Seq, min(a.last, b.newest))
	}
	r.more = b.newest > r.acked
}

func (r *reporting) failed(err error) {
	if r.life.Err() != nil {
		return
	}
	first := r.backoff == 0
	most := max(firstBackoff, min(maxBackoff, r.settings.Every()))
	r.backoff = min(max(2*r.backoff, firstBackoff), most)
	now := time.Now()
	r.next = now.Add(jitter(r.backoff, 0.2))
	why := r.said(err)
	r.setHealth(func(h *control.Redis) {
		if h.State == control.RedisUp {
			h.State, h.Since = control.RedisDown, now
		}
		h.Error = why
	})
	if first {
		r.log.Warn("cannot report to Redis: it is tried again", "redis", redisconfig.MaskURL(r.settings.URL), "why", why)
	}
}

// well notes that the report has arrived, and what is amiss all the same.
func (r *reporting) well(a answer) {
	why := r.unlisted
	if a.problem != "" {
		why = line(a.problem)
	}
	if r.twin != "" {
		why = fmt.Sprintf("another master reports as host %s too: give each its own redis.host_id", r.host)
	}
	var was string
	r.setHealth(func(h *control.Redis) {
		was = h.State
		if was != control.RedisUp {
			h.State, h.Since = control.RedisUp, time.Now()
		}
		h.Error, h.Twin = why, r.twin != ""
	})
	if was != control.RedisUp {
		r.log.Info("reporting to Redis", "redis", redisconfig.MaskURL(r.settings.URL), "host", r.host)
	}
}

// meet looks whose report was there before. At our first it may be that of a master
// that is gone.
func (r *reporting) meet(a answer) {
	if !r.answered || a.before == "" || a.before == r.app.Boot {
		return
	}
	if r.twin == "" {
		r.log.Error("another master reports as this host too: give each its own redis.host_id", "host", r.host)
	}
	r.twin, r.twinSeen = cut(line(a.before), 64), time.Now()
}

// forgetTwin, when it has not been seen for so long that it would have expired.
func (r *reporting) forgetTwin(now time.Time) {
	if r.twin == "" || now.Sub(r.twinSeen) < r.settings.Expiry() {
		return
	}
	r.twin, r.next = "", now
	r.setHealth(func(h *control.Redis) { h.Twin = false })
	r.log.Info("the other master of this host does not report any more", "host", r.host)
}

// obey hands on the orders that are new, in their order. All of them are done with.
// One that comes again though it has been acknowledged just now can't be taken away:
// that is for the next beat to try, in its time.
func (r *reporting) obey(a answer, acknowledged []string) {
	bad, why, shown := 0, "", ""
	for _, text := range a.orders {
		r.eager = r.eager || !slices.Contains(acknowledged, text)
		c, err := parseOrder(text)
		if c.ID == "" {
			bad, why, shown = bad+1, err.Error(), cut(text, shownOfOrders)
			r.done = append(r.done, text)
			continue
		}
		switch {
		case err != nil:
			c.Refused = "it " + err.Error()
		case !c.ExpiresAt.After(a.now):
			c.Refused = "it came too late: it expired " + a.now.Sub(c.ExpiresAt).Round(time.Millisecond).String() + " ago"
		}
		if !r.execute(c.Command) {
			break // it comes again, before those that follow
		}
		r.done = append(r.done, text)
	}
	if len(a.orders) > 0 {
		r.ordersAt = time.Now()
	}
	if bad > 0 {
		r.log.Warn("orders from Redis are not understood", "orders", bad, "why", why, "order", shown)
	}
}

// execute hands a command to the app, which executes none twice. It reports whether
// the app has answered: a refusal is in its events.
func (r *reporting) execute(c control.Command) bool {
	ctx, cancel := context.WithTimeout(r.life, patience)
	defer cancel()
	err := r.source.Execute(ctx, c)
	_, refused := errors.AsType[*control.Error](err)
	if err != nil && !refused {
		r.log.Warn("cannot hand over a command from Redis: it is tried again", "id", c.ID, "why", err)
	}
	return err == nil || refused
}

// register says that the app exists, once in a time to live, for two of them. That
// it can't does not make the report worse, and is tried again with the next beat.
func (r *reporting) register(a answer) {
	now := time.Now()
	if now.Before(r.registerAt) {
		return
	}
	ctx, cancel := context.WithTimeout(r.life, patience)
	defer cancel()
	if err := r.wire.register(ctx, a.now, 2*r.settings.Expiry()); err != nil {
		r.unlisted = "cannot put the app on the list of apps: " + r.said(err)
		return
	}
	r.unlisted, r.registerAt = "", now.Add(r.settings.Expiry())
}

// leave sends the events that are left, and takes the host off the list.
func (r *reporting) leave() {
	for tries := 2; tries > 0 && r.life.Err() == nil; {
		ctx, cancel := context.WithTimeout(r.life, patience)
		page, err := r.source.Events(ctx, r.acked)
		cancel()
		if err != nil {
			page = control.EventPage{}
		}
		r.seq++
		b := beat{kind: beatLeave, changed: true}
		if r.twin != "" {
			b.kind = beatPart // the report is the other's now
		}
		if len(page.Events) > maxNews {
			b = beat{kind: beatEvents}
		}
		r.fill(&b, page)
		a, err := r.send(b)
		if err != nil {
			tries--
			continue
		}
		if a.newer > 0 {
			r.seq, tries = a.newer, tries-1
			continue
		}
		r.took(b, a, page)
		if b.kind != beatEvents && r.acked >= b.acked {
			return
		}
	}
}

// jitter returns d, by up to that share longer or shorter: hosts that were started
// together do not stay in step.
func jitter(d time.Duration, share float64) time.Duration {
	return time.Duration(float64(d) * (1 - share + 2*share*rand.Float64()))
}
