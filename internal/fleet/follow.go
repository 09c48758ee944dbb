package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

const (
	eventPage      = 500             // events of one round trip, the most that are held
	eventBlock     = 2 * time.Second // that Redis waits for new events
	minFollowRetry = 200 * time.Millisecond
	maxFollowRetry = 5 * time.Second
	outageTimeout  = time.Minute // without a reply, following ends
	firstEntry     = "0-0"
)

// EventUnreadable is the type of an entry of the stream that can't be read: its
// reason says why.
const EventUnreadable = "unreadable"

// Entry is an event in the stream of an app.
type Entry struct {
	ID   string `json:"id"`   // in the stream
	Boot string `json:"boot"` // of the master: each counts Seq from 1
	control.Event
}

// Events calls each with the events of an app, in the order in which Redis got them:
// those after an id, all for "". Without follow it ends at the end that the stream has
// when it begins. With follow it ends with ctx, at an error of
// each, which is returned as it is, or when Redis has not replied for a minute. Events
// that come while Redis is away are read later, as far as they are kept.
func (r *Reader) Events(ctx context.Context, app, after string, follow bool, each func(Entry) error) error {
	if err := redisconfig.CheckApp(app); err != nil {
		return err
	}
	if after != "" && !validEntry(after) {
		return fmt.Errorf("%s is no id of an event: MS-N", short(after))
	}
	life, end := context.WithCancel(ctx)
	defer end()
	// A blocked read must end with ctx: this client's connections do.
	client, err := dialThrough(life, r.settings, true, direct())
	if err != nil {
		return err
	}
	defer client.Close()
	f := follower{client: client, key: keys{app}.events(), last: cmp.Or(after, firstEntry), each: each}
	if follow {
		err = f.follow(ctx)
	} else {
		err = f.kept(ctx)
	}
	if own, ok := errors.AsType[eachError](err); ok {
		return own.error
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return fmt.Errorf("cannot read the events in %s: %w", f.key, err)
	}
}

// follower reads a stream.
type follower struct {
	client redis.UniversalClient
	key    string
	last   string // the last entry that each was called with
	each   func(Entry) error
}

// eachError is an error of each.
type eachError struct{ error }

// kept reads up to the end that the stream has now.
func (f *follower) kept(ctx context.Context) error {
	newest, err := f.client.XRevRangeN(ctx, f.key, "+", "-", 1).Result()
	if err != nil || len(newest) == 0 {
		return err
	}
	for {
		list, err := f.client.XRangeN(ctx, f.key, "("+f.last, newest[0].ID, eventPage).Result()
		if err == nil {
			err = f.hand(list)
		}
		if err != nil || len(list) < eventPage {
			return err
		}
	}
}

// follow reads until ctx ends, and retries while Redis is away.
func (f *follower) follow(ctx context.Context) error {
	wait := minFollowRetry
	replied := time.Now()
	for ctx.Err() == nil {
		streams, err := f.client.XRead(ctx, &redis.XReadArgs{Streams: []string{f.key, f.last}, Count: eventPage, Block: eventBlock}).Result()
		switch {
		case err == nil || errors.Is(err, redis.Nil):
			wait, replied = minFollowRetry, time.Now()
			for _, s := range streams {
				if err := f.hand(s.Messages); err != nil {
					return err
				}
			}
		case final(err) || time.Since(replied) > outageTimeout:
			return err
		default:
			retry := time.NewTimer(wait/2 + rand.N(wait)) //nolint:gosec // not a secret
			select {
			case <-retry.C:
			case <-ctx.Done():
				retry.Stop()
			}
			wait = min(2*wait, maxFollowRetry)
		}
	}
	return ctx.Err()
}

func (f *follower) hand(list []redis.XMessage) error {
	for _, m := range list {
		if !validEntry(m.ID) {
			return errNotRedis
		}
		if err := f.each(parseEntry(m)); err != nil {
			return eachError{err}
		}
		f.last = m.ID
	}
	return nil
}

// final reports whether a retry would end with the same error.
func final(err error) bool {
	if _, ok := errors.AsType[*BadSetting](err); ok || errors.Is(err, errNotRedis) {
		return true
	}
	reply, ok := errors.AsType[redis.Error](err)
	return ok && slices.ContainsFunc([]string{"WRONGTYPE", "NOPERM", "NOAUTH", "WRONGPASS", "ERR "}, func(prefix string) bool {
		return strings.HasPrefix(reply.Error(), prefix)
	})
}

// parseEntry parses an entry of the stream. One that can't be read is an event of
// its own type.
func parseEntry(m redis.XMessage) Entry {
	p := entryParser{values: m.Values}
	e := Entry{ID: m.ID}
	e.Host = p.text("host", mostText)
	if !redisconfig.ValidHost(e.Host) {
		p.bad("host", e.Host)
		e.Host = ""
	}
	e.Boot = p.text("boot", mostText)
	e.Type = p.text("type", mostWord)
	e.Command = p.text("command", mostWord)
	// Text of an application: it may hold anything, and is sanitized where it is printed.
	e.Reason, _ = m.Values["reason"].(string)
	e.Reason = cut(e.Reason, maxReason)
	e.Slot, e.Generation, e.PID = p.small("slot"), p.small("generation"), p.small("pid")
	seq, ms := p.whole("seq"), p.whole("time")
	if p.err == nil && (seq == nil || ms == nil || e.Type == "") {
		p.err = errors.New("it has no seq, time or type")
	}
	if p.err == nil {
		e.Seq, e.Time = uint64(*seq), time.UnixMilli(*ms).UTC()
		if e.Time.Year() > 9999 { // JSON has no such time
			p.err = fmt.Errorf("its time %d is none", *ms)
		}
	}
	if p.err != nil {
		return Entry{ID: m.ID, Event: control.Event{Type: EventUnreadable, Host: e.Host, Reason: p.err.Error(), Time: entryTime(m.ID)}}
	}
	return e
}

// entryParser parses the values of an entry. It keeps the first error.
type entryParser struct {
	values map[string]any
	err    error
}

func (p *entryParser) bad(name, value string) {
	if p.err == nil {
		p.err = fmt.Errorf("its %s is %s", name, short(value))
	}
}

func (p *entryParser) text(name string, most int) string {
	s, ok := p.values[name].(string)
	if !ok && p.values[name] != nil || len(s) > most || !printable(s) {
		p.bad(name, s)
		return ""
	}
	return s
}

func (p *entryParser) whole(name string) *int64 {
	s, ok := p.values[name].(string)
	if !ok {
		return nil
	}
	n, err := parseWhole(s)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("its %s %v", name, err)
	}
	return &n
}

func (p *entryParser) small(name string) *int {
	if n := p.whole(name); n != nil {
		return new(int(*n))
	}
	return nil
}

// entryTime is the time when Redis got an entry.
func entryTime(id string) time.Time {
	text, _, _ := strings.Cut(id, "-")
	ms, _ := strconv.ParseUint(text, 10, 64)
	return time.UnixMilli(int64(min(ms, 1<<47))).UTC()
}

// validEntry reports whether id is that of an entry: MS-N.
func validEntry(id string) bool {
	ms, n, ok := strings.Cut(id, "-")
	_, err := strconv.ParseUint(ms, 10, 64)
	_, err2 := strconv.ParseUint(n, 10, 64)
	return ok && err == nil && err2 == nil && len(id) <= 41
}
