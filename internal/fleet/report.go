package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

func (r *Reporter) heartbeat(s snapshot, app control.App, page control.EventPage) {
	r.seq++
	b := heartbeat{
		kind:    heartbeatReport,
		fields:  hostFields(r.settings, r.host, r.app, app, r.seq, r.duplicate),
		load:    loadOf(r.settings, app),
		changed: !r.answered || changed(r.published, s),
	}
	r.fill(&b, page)
	a, err := r.send(b)
	if err != nil {
		r.failed(err)
		return
	}
	if a.newer > 0 { // of an agent before this one
		r.seq, r.next = a.newer, time.Time{}
		return
	}
	r.checkDuplicate(a)
	r.acknowledge(b, a, page)
	if a.before == "" {
		r.registerAt = time.Time{} // a Redis that has lost the host will have lost the app
	}
	r.sent, r.answered = s, true
	if b.changed {
		r.published = s
	}
	r.execute(a, b.done)
	r.register(a)
	r.succeeded(a)
	r.backoff, r.next = 0, time.Now().Add(jitter(r.settings.Every(), 0.1))
}

// fill adds what every kind of heartbeat has: the events that are not in the stream
// yet, as many as fit, and the commands that are done.
func (r *Reporter) fill(b *heartbeat, page control.EventPage) {
	b.host, b.boot, b.seq, b.ttl = r.host, r.app.Boot, r.seq, r.settings.Expiry()
	b.uncertain, b.acked, b.newest = r.uncertain, r.acked, r.acked
	if n := len(page.Events); n > 0 {
		b.newest = page.Events[n-1].Seq
	}
	b.events = page.Events[:min(len(page.Events), maxEvents)]
	b.commands, b.done = r.settings.Control, r.done
}

// send is one try, and at most timeout long.
func (r *Reporter) send(b heartbeat) (a answer, err error) {
	if r.conn == nil {
		client, err := dialThrough(r.life, r.settings, false, r.dialer)
		if err != nil {
			return answer{}, err
		}
		r.conn = newConn(client, r.app.Name)
	}
	ctx, cancel := context.WithTimeout(r.life, timeout)
	defer cancel()
	a, err = r.conn.send(ctx, b)
	if err != nil {
		r.uncertain = r.uncertain || len(b.events) > 0
		r.hangUp()
	}
	return a, err
}

// hangUp ends the connection. The next try makes a new client, which looks up
// addresses, finds the primary and reads the files again; go-redis's own would retry
// in its own time.
func (r *Reporter) hangUp() {
	if r.conn != nil {
		_ = r.conn.client.Close()
		r.conn = nil
	}
}

// acknowledge notes which events are in the stream and which commands are off the list.
func (r *Reporter) acknowledge(b heartbeat, a answer, page control.EventPage) {
	r.uncertain, r.done, r.eager, r.wake = false, nil, false, page.More
	if n := len(b.events); a.last < b.acked {
		r.acked = a.last // a failover has lost what was confirmed: once more
	} else if n > 0 {
		r.acked = max(b.events[n-1].Seq, min(a.last, b.newest))
	}
	r.more = b.newest > r.acked
}

func (r *Reporter) failed(err error) {
	if r.life.Err() != nil {
		return
	}
	first := r.backoff == 0
	most := max(minBackoff, min(maxBackoff, r.settings.Every()))
	r.backoff = min(max(2*r.backoff, minBackoff), most)
	now := time.Now()
	r.next = now.Add(jitter(r.backoff, 0.2))
	why := r.errorText(err)
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

// succeeded notes that the report has arrived, and any remaining problem.
func (r *Reporter) succeeded(a answer) {
	why := r.unlisted
	if a.problem != "" {
		why = sanitize(a.problem)
	}
	if r.duplicate != "" {
		why = fmt.Sprintf("another master reports as host %s too: give each its own redis.host_id", r.host)
	}
	var was string
	r.setHealth(func(h *control.Redis) {
		was = h.State
		if was != control.RedisUp {
			h.State, h.Since = control.RedisUp, time.Now()
		}
		h.Error, h.Twin = why, r.duplicate != ""
	})
	if was != control.RedisUp {
		r.log.Info("reporting to Redis", "redis", redisconfig.MaskURL(r.settings.URL), "host", r.host)
	}
}

// checkDuplicate looks whose report was there before. At our first it may be that of
// a master that is gone.
func (r *Reporter) checkDuplicate(a answer) {
	if !r.answered || a.before == "" || a.before == r.app.Boot {
		return
	}
	if r.duplicate == "" {
		r.log.Error("another master reports as this host too: give each its own redis.host_id", "host", r.host)
	}
	r.duplicate, r.duplicateAt = cut(sanitize(a.before), 64), time.Now()
}

// forgetDuplicate, when it has not been seen for so long that it would have expired.
func (r *Reporter) forgetDuplicate(now time.Time) {
	if r.duplicate == "" || now.Sub(r.duplicateAt) < r.settings.Expiry() {
		return
	}
	r.duplicate, r.next = "", now
	r.setHealth(func(h *control.Redis) { h.Twin = false })
	r.log.Info("the other master of this host does not report any more", "host", r.host)
}

// execute hands over commands, in their order, and has them taken off the list. One
// that comes again though it has been acknowledged just now can't be taken off: that
// is for the next heartbeat to try, in its time.
func (r *Reporter) execute(a answer, acknowledged []string) {
	if len(a.commands) > 0 {
		r.commandsAt = time.Now()
	}
	bad, why, shown := 0, "", ""
	for _, text := range a.commands {
		c, err := parseCommand(text)
		switch {
		case c.ID == "":
			bad, why, shown = bad+1, err.Error(), cut(text, shownOfCommand)
		case err != nil:
			c.Refused = "the command " + err.Error()
		case !c.ExpiresAt.After(a.now):
			c.Refused = "it came too late: it expired " + a.now.Sub(c.ExpiresAt).Round(time.Millisecond).String() + " ago"
		}
		r.eager = r.eager || !slices.Contains(acknowledged, text)
		if c.ID != "" && !r.handOver(c.Command) {
			break // it comes again, before those that follow
		}
		r.done = append(r.done, text)
	}
	if bad > 0 {
		r.log.Warn("commands from Redis are not understood", "commands", bad, "why", why, "command", shown)
	}
}

// handOver reports whether the app has answered. A refusal is in its events.
func (r *Reporter) handOver(c control.Command) bool {
	ctx, cancel := context.WithTimeout(r.life, timeout)
	defer cancel()
	err := r.source.Execute(ctx, c)
	_, refused := errors.AsType[*control.Error](err)
	if err != nil && !refused {
		r.log.Warn("cannot hand over a command from Redis: it is tried again", "id", c.ID, "why", err)
	}
	return err == nil || refused
}

// register lists the app, once every TTL with an expiry of two TTLs. A
// failure does not make the report worse, and is tried again with the next heartbeat.
func (r *Reporter) register(a answer) {
	now := time.Now()
	if now.Before(r.registerAt) {
		return
	}
	ctx, cancel := context.WithTimeout(r.life, timeout)
	defer cancel()
	if err := r.conn.register(ctx, a.now, 2*r.settings.Expiry()); err != nil {
		r.unlisted = "cannot put the app on the list of apps: " + r.errorText(err)
		return
	}
	r.unlisted, r.registerAt = "", now.Add(r.settings.Expiry())
}

// leave sends the events that are left, and takes the host off the list.
func (r *Reporter) leave() {
	for tries := 2; tries > 0 && r.life.Err() == nil; {
		ctx, cancel := context.WithTimeout(r.life, timeout)
		page, err := r.source.Events(ctx, r.acked)
		cancel()
		if err != nil {
			page = control.EventPage{}
		}
		r.seq++
		b := heartbeat{kind: heartbeatLeave, changed: true}
		if r.duplicate != "" {
			b.kind = heartbeatPart // the report is the other's now
		}
		if len(page.Events) > maxEvents {
			b = heartbeat{kind: heartbeatEvents}
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
		r.acknowledge(b, a, page)
		if b.kind != heartbeatEvents && r.acked >= b.acked {
			return
		}
	}
}
