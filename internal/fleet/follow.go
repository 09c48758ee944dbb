package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

const (
	eventPage      = 500             // events of one round trip: all that is ever held
	eventBlock     = 2 * time.Second // how long Redis is asked to wait for news
	followRetry    = 200 * time.Millisecond
	mostRetry      = 5 * time.Second
	followPatience = time.Minute // without one answer, an outage ends the following
	fromNow        = "$"
	firstEntry     = "0-0"
)

// EventUnreadable is the type of an entry of the stream that makes no sense: its
// reason says why.
const EventUnreadable = "unreadable"

// Entry is an event in the stream of an app.
type Entry struct {
	ID   string `json:"id"`   // in the stream: after it, the next is read
	Boot string `json:"boot"` // whose Seq it is: of another life of a master, it starts anew
	control.Event
}

// Events calls each with app's events after an id, in the order in which Redis got
// them: after "", all that are kept; after "$", none but new ones. Without follow
// it ends where the stream ended when it began. With follow it ends with ctx, an
// error of each, or when Redis has not answered for a minute; what is missed while
// Redis is away comes when it is back, as far as it is kept. Nothing is read ahead
// of each by more than 500 events. An error of each is returned as it is.
func (r *Reader) Events(ctx context.Context, app, after string, follow bool, each func(Entry) error) error {
	if err := redisconfig.CheckApp(app); err != nil {
		return err
	}
	if after != "" && after != fromNow && !validEntry(after) {
		return fmt.Errorf("%s is no id of an event: MS-N", short(after))
	}
	life, end := context.WithCancel(ctx)
	defer end()
	f := follower{key: keys{app}.events(), last: after, each: each}
	if after == "" {
		f.last = firstEntry
	}
	if !follow && after == fromNow {
		return nil
	}
	// What waits for news must end with ctx: a client of its own, that does.
	client, err := dialThrough(life, r.settings, true, direct())
	if err != nil {
		return err
	}
	defer client.Close()
	f.client = client
	if err := f.start(ctx); err != nil {
		return f.wrap(ctx, err)
	}
	if !follow {
		return f.wrap(ctx, f.kept(ctx))
	}
	return f.wrap(ctx, f.follow(ctx))
}

// follower reads a stream.
type follower struct {
	client redis.UniversalClient
	key    string
	last   string // that each has had
	end    string // of the stream, when it was first looked at
	each   func(Entry) error
}

// ofEach is an error of each, on its way out.
type ofEach struct{ error }

func (f *follower) wrap(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if own, ok := errors.AsType[ofEach](err); ok {
		return own.error
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("cannot read the events in %s: %w", f.key, err)
}

// start looks where the stream ends.
func (f *follower) start(ctx context.Context) error {
	newest, err := f.client.XRevRangeN(ctx, f.key, "+", "-", 1).Result()
	if err != nil {
		return err
	}
	f.end = firstEntry
	if len(newest) > 0 {
		f.end = newest[0].ID
	}
	if f.last == fromNow {
		f.last = f.end
	}
	return nil
}

// kept reads up to the end.
func (f *follower) kept(ctx context.Context) error {
	for {
		list, err := f.client.XRangeN(ctx, f.key, "("+f.last, f.end, eventPage).Result()
		if err != nil {
			return err
		}
		if err := f.hand(list); err != nil {
			return err
		}
		if len(list) < eventPage {
			return nil
		}
	}
}

// follow reads for ever, and tries again when Redis is away.
func (f *follower) follow(ctx context.Context) error {
	wait := followRetry
	answered := time.Now()
	for {
		streams, err := f.client.XRead(ctx, &redis.XReadArgs{Streams: []string{f.key, f.last}, Count: eventPage, Block: eventBlock}).Result()
		switch {
		case err == nil || errors.Is(err, redis.Nil):
			wait, answered = followRetry, time.Now()
			for _, s := range streams {
				if err := f.hand(s.Messages); err != nil {
					return err
				}
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		case ctx.Err() != nil || final(err) || time.Since(answered) > followPatience:
			return err
		default:
			again := time.NewTimer(wait/2 + rand.N(wait)) //nolint:gosec // not a secret
			select {
			case <-again.C:
			case <-ctx.Done():
				again.Stop()
				return ctx.Err()
			}
			wait = min(2*wait, mostRetry)
		}
	}
}

func (f *follower) hand(list []redis.XMessage) error {
	for _, m := range list {
		if !validEntry(m.ID) {
			return errNotRedis
		}
		if err := f.each(entry(m)); err != nil {
			return ofEach{err}
		}
		f.last = m.ID
	}
	return nil
}

// final reports whether an error stays when it is tried again: what was asked is
// refused, or is nothing that can be read.
func final(err error) bool {
	if errors.Is(err, errNotRedis) {
		return true
	}
	if _, ok := errors.AsType[*BadSetting](err); ok {
		return true
	}
	said, ok := errors.AsType[redis.Error](err)
	if !ok {
		return false
	}
	for _, prefix := range []string{"WRONGTYPE", "NOPERM", "NOAUTH", "WRONGPASS", "ERR "} {
		if strings.HasPrefix(said.Error(), prefix) {
			return true
		}
	}
	return false
}

// entry makes an Entry of what is in the stream.
func entry(m redis.XMessage) Entry {
	e := Entry{ID: m.ID}
	err := e.read(m.Values)
	if err == nil {
		return e
	}
	host := e.Host
	e = Entry{ID: m.ID}
	e.Type, e.Host, e.Reason = EventUnreadable, host, err.Error()
	e.Time = entryTime(m.ID)
	return e
}

func (e *Entry) read(values map[string]any) error {
	text := func(name string, most int) (string, error) {
		s, ok := values[name].(string)
		if !ok && values[name] != nil || len(s) > most || !printable(s) {
			return "", fmt.Errorf("its %s is %s", name, short(s))
		}
		return s, nil
	}
	whole := func(name string) (*int64, error) {
		s, ok := values[name].(string)
		if !ok {
			return nil, nil
		}
		n, err := parseWhole(s)
		if err != nil {
			return nil, fmt.Errorf("its %s %v", name, err)
		}
		return &n, nil
	}
	small := func(into **int, name string) error {
		n, err := whole(name)
		if err == nil && n != nil {
			*into = new(int(*n))
		}
		return err
	}
	var errs [9]error
	e.Host, errs[0] = text("host", mostText)
	if errs[0] == nil && !redisconfig.ValidHost(e.Host) {
		e.Host, errs[0] = "", fmt.Errorf("its host is %s", short(e.Host))
	}
	e.Boot, errs[1] = text("boot", mostText)
	e.Type, errs[2] = text("type", mostWord)
	// A reason is text of an application: it may hold anything, and who prints it
	// makes it harmless.
	e.Reason, _ = values["reason"].(string)
	e.Reason = cut(e.Reason, maxReason)
	for i, of := range []struct {
		into **int
		name string
	}{{&e.Slot, "slot"}, {&e.Generation, "generation"}, {&e.PID, "pid"}} {
		errs[3+i] = small(of.into, of.name)
	}
	var seq, at *int64
	seq, errs[6] = whole("seq")
	at, errs[7] = whole("time")
	e.Command, errs[8] = text("command", mostWord)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	if seq == nil || at == nil || e.Type == "" {
		return errors.New("it has no seq, time or type")
	}
	e.Seq, e.Time = uint64(*seq), time.UnixMilli(*at).UTC()
	if e.Time.Year() > 9999 { // JSON has no such time
		e.Time = entryTime(e.ID)
		return fmt.Errorf("its time %d is none", *at)
	}
	return nil
}

// entryTime is when Redis got an entry.
func entryTime(id string) time.Time {
	text, _, _ := strings.Cut(id, "-")
	ms, _ := strconv.ParseUint(text, 10, 64)
	return time.UnixMilli(int64(min(ms, 1<<47))).UTC()
}

// validEntry reports whether id is one of a stream: MS-N.
func validEntry(id string) bool {
	ms, n, ok := strings.Cut(id, "-")
	_, err := strconv.ParseUint(ms, 10, 64)
	_, err2 := strconv.ParseUint(n, 10, 64)
	return ok && err == nil && err2 == nil && len(id) <= 41
}
