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
// those after an id, all for "". Without follow it ends with the last of the stream.
// With follow it ends with ctx, at an error of each, which is returned as it is, or
// when Redis has not replied for a minute. Events that come while Redis is away are
// read later, as far as they are kept.
func (r *Reader) Events(ctx context.Context, app, after string, follow bool, each func(Entry) error) error {
	if err := CheckApp(app); err != nil {
		return err
	}
	last := cmp.Or(after, "0-0")
	life, end := context.WithCancel(ctx)
	defer end()
	// A blocked read must end with ctx: this client's connections do.
	client, err := dialThrough(life, r.settings, true, direct())
	if err != nil {
		return err
	}
	defer client.Close()
	key := keys{app}.events()
	wait, replied := minFollowRetry, time.Now()
	for {
		entries, err := readEntries(ctx, client, key, last, follow)
		for i := 0; err == nil && i < len(entries); i++ {
			last = entries[i].ID
			if _, ok := entryTime(last); !ok {
				err = errNotRedis
			} else if err := each(parseEntry(entries[i])); err != nil {
				return err
			}
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && !follow && len(entries) < eventPage:
			return nil
		case err == nil:
			wait, replied = minFollowRetry, time.Now()
		case !follow || final(err) || time.Since(replied) > outageTimeout:
			return fmt.Errorf("cannot read the events in %s: %w", key, err)
		default:
			select {
			case <-time.After(wait/2 + rand.N(wait)): //nolint:gosec // not a secret
			case <-ctx.Done():
			}
			wait = min(2*wait, maxFollowRetry)
		}
	}
}

// readEntries reads a page of a stream. With follow it waits for an entry.
func readEntries(ctx context.Context, client redis.UniversalClient, key, after string, follow bool) ([]redis.XMessage, error) {
	if !follow {
		return client.XRangeN(ctx, key, "("+after, "+", eventPage).Result()
	}
	streams, err := client.XRead(ctx, &redis.XReadArgs{Streams: []string{key, after}, Count: eventPage, Block: eventBlock}).Result()
	switch {
	case errors.Is(err, redis.Nil): // none has come
		return nil, nil
	case err != nil || len(streams) == 0:
		return nil, err
	}
	return streams[0].Messages, nil
}

// final reports whether a retry would end with the same error.
func final(err error) bool {
	_, bad := errors.AsType[*BadSetting](err)
	return bad || errors.Is(err, errNotRedis) || slices.ContainsFunc([]string{"WRONGTYPE", "NOPERM", "NOAUTH", "WRONGPASS", "ERR "}, func(prefix string) bool {
		return strings.HasPrefix(err.Error(), prefix)
	})
}

// parseEntry parses an entry of the stream. One that can't be read is an event of
// its own type.
func parseEntry(m redis.XMessage) Entry {
	e := Entry{ID: m.ID}
	var problem error
	if host, _ := m.Values["host"].(string); redisconfig.CheckHost(host) == nil {
		e.Host = host
	} else {
		problem = fmt.Errorf("its host is %s", short(host))
	}
	var seq, ms *int64
	for _, f := range []field{
		{"boot", &e.Boot},
		{"type", &e.Type},
		{"command", &e.Command},
		{"slot", &e.Slot},
		{"generation", &e.Generation},
		{"pid", &e.PID},
		{"seq", &seq},
		{"time", &ms},
	} {
		value, _ := m.Values[f.name].(string)
		if value == "" || problem != nil {
			continue
		}
		err := set(f.to, value)
		if _, text := f.to.(*string); text && err != nil {
			err = errors.New("is " + short(value))
		}
		if err != nil {
			problem = fmt.Errorf("its %s %w", f.name, err)
		}
	}
	if problem == nil && (seq == nil || ms == nil || e.Type == "") {
		problem = errors.New("it has no seq, time or type")
	}
	if problem == nil {
		e.Seq, e.Time = uint64(*seq), time.UnixMilli(*ms).UTC()
		if e.Time.Year() > 9999 { // JSON has no such time
			problem = fmt.Errorf("its time %d is none", *ms)
		}
	}
	if problem != nil {
		at, _ := entryTime(m.ID)
		return Entry{ID: m.ID, Event: control.Event{Type: EventUnreadable, Host: e.Host, Reason: problem.Error(), Time: at}}
	}
	// Text of an application: it may hold anything, and is sanitized where it is printed.
	e.Reason, _ = m.Values["reason"].(string)
	e.Reason = cut(e.Reason, maxReason)
	return e
}

// entryTime is the time when Redis got an entry. ok reports whether id is that of an
// entry: MS-N.
func entryTime(id string) (at time.Time, ok bool) {
	text, n, _ := strings.Cut(id, "-")
	ms, err := strconv.ParseUint(text, 10, 64)
	_, err2 := strconv.ParseUint(n, 10, 64)
	return time.UnixMilli(int64(min(ms, 1<<47))).UTC(), err == nil && err2 == nil && len(id) <= 41
}
