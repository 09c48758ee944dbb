package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/redisconfig"
)

// How much of a fleet is read.
const (
	mostHosts   = 100_000  // of an app; of more, those that expire last
	mostApps    = 1000     // as above
	page        = 500      // hosts of one round trip
	pageReaders = 3        // pages that are read at the same time
	mostPage    = 32 << 20 // bytes of a round trip of hosts whose sizes are known
	mostField   = 1 << 20  // bytes of a field

	nodePatience = 2 * time.Second // with a node of a Cluster that is asked for the time
)

// Reader reads what hosts have written, and sends orders to them. Any goroutine
// may use it.
type Reader struct {
	settings Settings
	from     redis.UniversalClient
	to       redis.UniversalClient // is from, unless that can only read
}

// Open makes a Reader for what s.URL names. It does not connect. A [*BadSetting]
// says what is wrong with s.
func Open(s Settings) (*Reader, error) {
	s.HostID = "reader" // this host's own name may be none
	if err := s.Check(); err != nil {
		return nil, err
	}
	from, err := dial(s, true)
	if err != nil {
		return nil, err
	}
	r := &Reader{settings: s, from: from, to: from}
	if s.ReadFrom == redisconfig.FromReplica {
		s.ReadFrom = redisconfig.FromPrimary
		if r.to, err = dial(s, true); err != nil {
			_ = from.Close()
			return nil, err
		}
	}
	return r, nil
}

// Close closes the connections. What is under way fails.
func (r *Reader) Close() {
	_ = r.from.Close()
	if r.to != r.from {
		_ = r.to.Close()
	}
}

// Apps returns the names of the apps that are or were lately reported, sorted; at
// most 1000. What is no name of an app is left out.
func (r *Reader) Apps(ctx context.Context) ([]string, error) {
	listed, err := r.from.ZRevRange(ctx, appsKey, 0, mostApps-1).Result()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", appsKey, err)
	}
	apps := slices.DeleteFunc(listed, func(name string) bool { return redisconfig.CheckApp(name) != nil })
	slices.Sort(apps)
	return apps, nil
}

// Fleet returns what is known of app's hosts: of each, what is wrong with its
// report is in its Problem. An error says that the list itself can't be read. An
// app that nobody reports has no hosts.
func (r *Reader) Fleet(ctx context.Context, app string, withWorkers bool) (Fleet, error) {
	if err := redisconfig.CheckApp(app); err != nil {
		return Fleet{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := look{client: r.from, keys: keys{app}, fields: fieldNames(withWorkers)}
	var err error
	if l.now, err = r.clock(ctx, l.keys.hosts()); err != nil {
		return Fleet{}, fmt.Errorf("cannot read Redis's clock: %w", err)
	}
	f := Fleet{App: app, At: l.now.UTC(), Hosts: []Host{}}
	listed, count, err := l.list(ctx)
	if err != nil {
		return Fleet{}, fmt.Errorf("cannot read the list of hosts %s: %w", l.keys.hosts(), err)
	}
	if count > int64(len(listed)) && len(listed) == mostHosts {
		f.Problem = fmt.Sprintf("the list has %d hosts: only the %d that expire last are read", count, mostHosts)
	}
	f.Hosts, err = l.all(ctx, cancel, listed)
	if err != nil {
		return Fleet{}, fmt.Errorf("cannot read the hosts of %s: %w", app, err)
	}
	slices.SortFunc(f.Hosts, func(a, b Host) int { return strings.Compare(a.ID, b.ID) })
	f.Totals = totals(f.Hosts)
	return f, nil
}

// clock returns the time of a server that has the key: those of a Cluster differ.
func (r *Reader) clock(ctx context.Context, key string) (time.Time, error) {
	if c, ok := r.from.(*redis.ClusterClient); ok {
		node, err := c.MasterForKey(ctx, key)
		if err != nil {
			return time.Time{}, err
		}
		asking, cancel := context.WithTimeout(ctx, nodePatience)
		defer cancel()
		now, err := node.Time(asking).Result()
		if err != nil {
			c.ReloadState(ctx) // its successor is asked next time: on its own the client looks once a minute
		}
		return now, err
	}
	return r.from.Time(ctx).Result()
}

// look is one look at a fleet.
type look struct {
	client redis.UniversalClient
	keys   keys
	fields []string // that are asked for
	now    time.Time
}

// member is a host as it is listed.
type member struct {
	id      string
	expires time.Time
}

// list returns the hosts that expire last, and how many there are. It is one
// command: between two, hosts would change their places.
func (l *look) list(ctx context.Context) ([]member, int64, error) {
	var count *redis.IntCmd
	var listed *redis.ZSliceCmd
	_, err := l.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		count = p.ZCard(ctx, l.keys.hosts())
		listed = p.ZRevRangeWithScores(ctx, l.keys.hosts(), 0, mostHosts-1)
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	members := make([]member, 0, len(listed.Val()))
	for _, z := range listed.Val() {
		id, _ := z.Member.(string)
		members = append(members, member{id, scoreTime(z.Score)})
	}
	return members, count.Val(), nil
}

// scoreTime is when a score says. Beyond what makes sense, it is the end of that.
func scoreTime(score float64) time.Time {
	if math.IsNaN(score) {
		score = 0
	}
	return time.UnixMilli(int64(min(max(score, 0), 1<<47)))
}

// all reads all that are listed, some pages at a time. The first failure cancels
// the rest.
func (l *look) all(ctx context.Context, cancel func(), listed []member) ([]Host, error) {
	pages := make(chan []member)
	var mu sync.Mutex
	var failure error
	hosts := make([]Host, 0, len(listed))
	var readers sync.WaitGroup
	for range min(pageReaders, (len(listed)+page-1)/page) {
		readers.Go(func() {
			for listed := range pages {
				got, err := l.page(ctx, listed)
				mu.Lock()
				if err != nil && failure == nil {
					failure = err
					cancel()
				}
				hosts = append(hosts, got...)
				mu.Unlock()
			}
		})
	}
	for some := range slices.Chunk(listed, page) {
		pages <- some
	}
	close(pages)
	readers.Wait()
	return hosts, failure
}

// page reads some hosts. One whose report is not there is looked for again in the
// list: it may have left in the meantime, or reported.
func (l *look) page(ctx context.Context, listed []member) ([]Host, error) {
	hosts, err := l.hosts(ctx, listed)
	if err != nil {
		return nil, err
	}
	expires := map[string]time.Time{}
	for _, m := range listed {
		expires[m.id] = m.expires
	}
	scores := map[string]*redis.FloatCmd{} // of those that are not there
	_, err = l.client.Pipelined(ctx, func(c redis.Pipeliner) error {
		for _, h := range hosts {
			if h.Vanished {
				scores[h.ID] = c.ZScore(ctx, l.keys.hosts(), h.ID)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	var changed []member
	hosts = slices.DeleteFunc(hosts, func(h Host) bool {
		score, asked := scores[h.ID]
		switch {
		case !asked:
			return false
		case score.Err() != nil:
			return true
		}
		now := scoreTime(score.Val())
		if now.Equal(expires[h.ID]) {
			return false
		}
		changed = append(changed, member{h.ID, now})
		return true
	})
	again, err := l.hosts(ctx, changed)
	return append(hosts, again...), err
}

func (l *look) hosts(ctx context.Context, listed []member) ([]Host, error) {
	hosts := make([]Host, 0, len(listed))
	asked := make([]member, 0, len(listed))
	for _, m := range listed {
		if redisconfig.ValidHost(m.id) {
			asked = append(asked, m)
		} else {
			hosts = append(hosts, Host{ID: strings.Clone(cut(m.id, mostText)), Problem: "its id " + short(m.id) + " is none: forkd writes no such thing"})
		}
	}
	got, err := l.ask(ctx, asked)
	if tooMuch(ctx, err) {
		got, err = l.askCarefully(ctx, asked)
	}
	return append(hosts, got...), err
}

// ask reads hashes in one round trip.
func (l *look) ask(ctx context.Context, asked []member) ([]Host, error) {
	if len(asked) == 0 {
		return nil, nil
	}
	answers := make([]*redis.StringSliceCmd, len(asked))
	_, err := l.client.Pipelined(ctx, func(c redis.Pipeliner) error {
		for i, m := range asked {
			args := make([]any, 2, 2+len(l.fields))
			args[0], args[1] = "hmget", l.keys.host(m.id)
			for _, name := range l.fields {
				args = append(args, name)
			}
			answers[i] = redis.NewStringSliceCmd(ctx, args...)
			_ = c.Process(ctx, answers[i])
		}
		return nil
	})
	if _, said := errors.AsType[redis.Error](err); err != nil && !said {
		return nil, err
	}
	hosts := make([]Host, 0, len(asked))
	for i, m := range asked {
		values, err := answers[i].Result()
		switch {
		case wrongType(err):
			hosts = append(hosts, Host{ID: m.id, Problem: "what Redis has under its key is no hash"})
		case err != nil:
			return nil, err
		case len(values) != len(l.fields):
			return nil, errNotRedis
		default:
			hosts = append(hosts, parseHost(m.id, values, l.now, m.expires))
		}
		answers[i] = nil
	}
	return hosts, nil
}

// askCarefully reads what has turned out to be too large: first the lengths of
// all fields, then the hosts that make sense, as many at a time as fit.
func (l *look) askCarefully(ctx context.Context, asked []member) ([]Host, error) {
	lengths := make([]*redis.IntCmd, 0, len(asked)*len(l.fields))
	_, err := l.client.Pipelined(ctx, func(c redis.Pipeliner) error {
		for _, m := range asked {
			for _, name := range l.fields {
				length := redis.NewIntCmd(ctx, "hstrlen", l.keys.host(m.id), name)
				lengths = append(lengths, length)
				_ = c.Process(ctx, length)
			}
		}
		return nil
	})
	if _, said := errors.AsType[redis.Error](err); err != nil && !said {
		return nil, err
	}
	var hosts []Host
	var batch []member
	size := int64(0)
	flush := func() error {
		got, err := l.ask(ctx, batch)
		hosts, batch, size = append(hosts, got...), batch[:0], 0
		return err
	}
	for i, m := range asked {
		total, wrong := int64(0), ""
		for field, name := range l.fields {
			length := lengths[i*len(l.fields)+field]
			if err := length.Err(); err != nil && !wrongType(err) {
				return nil, err
			}
			total += length.Val()
			if length.Val() > mostField && wrong == "" {
				wrong = name + " has " + strconv.FormatInt(length.Val(), 10) + " bytes: at most " + strconv.Itoa(mostField) + " are read"
			}
		}
		if wrong != "" {
			hosts = append(hosts, Host{ID: m.id, Problem: wrong})
			continue
		}
		if size+total > mostPage {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		batch, size = append(batch, m), size+total
	}
	return hosts, flush()
}

func wrongType(err error) bool { return err != nil && strings.HasPrefix(err.Error(), "WRONGTYPE") }

// tooMuch reports whether err may be the guard's: it is neither of the network nor
// of the server, and nobody has given up.
func tooMuch(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, errNotRedis) {
		return false
	}
	_, network := errors.AsType[net.Error](err)
	_, said := errors.AsType[redis.Error](err)
	return !network && !said
}
