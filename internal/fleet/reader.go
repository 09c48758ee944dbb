package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/redisconfig"
)

// The bounds of what is read of a fleet.
const (
	maxHosts  = 100_000 // of an app; of more, those that expire last
	maxApps   = 1000    // as above
	pageHosts = 500     // hosts of one round trip
	pageReads = 3       // pages that are read at the same time
	maxField  = 1 << 20 // bytes of a field
	maxRows   = 1 << 20 // workers of all hosts: a row is 4 bytes in Redis, and 150 here and in JSON

	nodeTimeout = 2 * time.Second // for the time of a node of a Cluster, and for who leads
)

// Reader reads the reports of hosts, and sends commands to hosts. It is safe for
// concurrent use.
type Reader struct {
	settings Settings
	client   redis.UniversalClient
}

// Open makes a Reader for what s.URL names. It does not connect. A [*BadSetting]
// says what is wrong with s.
func Open(s Settings) (*Reader, error) {
	s.HostID = "reader" // this host's own name may be none
	if err := s.Check(); err != nil {
		return nil, err
	}
	client, err := dial(s, true)
	if err != nil {
		return nil, err
	}
	return &Reader{s, client}, nil
}

// Close closes the connections. What is under way fails.
func (r *Reader) Close() { _ = r.client.Close() }

// Apps returns the names of the apps that are or were lately reported, sorted; at
// most 1000. What is no name of an app is left out.
func (r *Reader) Apps(ctx context.Context) ([]string, error) {
	listed, err := r.client.ZRevRange(ctx, appsKey, 0, maxApps-1).Result()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", appsKey, err)
	}
	apps := slices.DeleteFunc(listed, func(name string) bool { return CheckApp(name) != nil })
	slices.Sort(apps)
	return apps, nil
}

// Fleet returns the hosts of an app. What is wrong with the report of a host is in
// its Problem; an error says that the list of hosts can't be read. An app that nobody
// reports has no hosts.
func (r *Reader) Fleet(ctx context.Context, app string, withWorkers bool) (Fleet, error) {
	if err := CheckApp(app); err != nil {
		return Fleet{}, err
	}
	q := query{client: r.client, keys: keys{app}, workers: withWorkers}
	for _, name := range fieldNames(withWorkers) {
		q.fields = append(q.fields, name)
	}
	hosts := q.keys.hosts()
	var err error
	if q.now, err = r.clock(ctx, hosts); err != nil {
		return Fleet{}, fmt.Errorf("cannot read Redis's clock: %w", err)
	}
	f := Fleet{App: app, At: q.now.UTC()}
	var count *redis.IntCmd
	var listed *redis.ZSliceCmd
	_, err = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		count = p.ZCard(ctx, hosts)
		listed = p.ZRevRangeWithScores(ctx, hosts, 0, maxHosts-1) // one command: hosts change their places meanwhile
		return nil
	})
	if err != nil {
		return Fleet{}, fmt.Errorf("cannot read the list of hosts %s: %w", hosts, err)
	}
	if count.Val() > maxHosts {
		f.Problem = fmt.Sprintf("the list has %d hosts: only the %d that expire last are read", count.Val(), maxHosts)
	}
	f.Hosts, err = q.all(ctx, listed.Val())
	if err != nil {
		return Fleet{}, fmt.Errorf("cannot read the hosts of %s: %w", app, err)
	}
	if q.unread.Load() && f.Problem == "" {
		f.Problem = fmt.Sprintf("its hosts report more than %d workers: those of some hosts are not read", maxRows)
	}
	slices.SortFunc(f.Hosts, func(a, b Host) int { return strings.Compare(a.ID, b.ID) })
	f.Totals = SumUp(f.Hosts)
	return f, nil
}

// clock returns the time of the server that has the key: those of a Cluster differ.
func (r *Reader) clock(ctx context.Context, key string) (time.Time, error) {
	if c, ok := r.client.(*redis.ClusterClient); ok {
		node, err := c.MasterForKey(ctx, key)
		if err != nil {
			return time.Time{}, err
		}
		timed, cancel := context.WithTimeout(ctx, nodeTimeout)
		defer cancel()
		now, err := node.Time(timed).Result()
		if err != nil {
			r.reload(ctx)
		}
		return now, err
	}
	return r.client.Time(ctx).Result()
}

// reload has a Cluster's client find a failover: by itself it looks once a minute only.
func (r *Reader) reload(ctx context.Context) {
	if c, ok := r.client.(*redis.ClusterClient); ok {
		c.ReloadState(ctx)
	}
}

type query struct {
	client  redis.UniversalClient
	keys    keys
	workers bool  // they are the last of the fields
	fields  []any // of each host
	now     time.Time
	rows    atomic.Int64 // workers that were read
	unread  atomic.Bool  // there are more
}

// all reads the listed hosts, some pages in parallel. The first failure cancels the
// rest.
func (q *query) all(ctx context.Context, listed []redis.Z) ([]Host, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	hosts := make([]Host, 0, len(listed))
	room := make(chan struct{}, pageReads)
	var reads sync.WaitGroup
	for page := range slices.Chunk(listed, pageHosts) {
		room <- struct{}{}
		reads.Go(func() {
			got, err := q.page(ctx, page)
			<-room
			if err != nil {
				cancel(err)
			}
			mu.Lock()
			defer mu.Unlock()
			hosts = append(hosts, got...)
		})
	}
	reads.Wait()
	return hosts, context.Cause(ctx)
}

// page reads some hosts. A host without a report is looked up in the list again: it
// may have left meanwhile, or reported.
func (q *query) page(ctx context.Context, listed []redis.Z) ([]Host, error) {
	hosts, err := q.read(ctx, listed)
	if err != nil {
		return nil, err
	}
	scores := make([]*redis.FloatCmd, len(listed))
	_, err = q.client.Pipelined(ctx, func(c redis.Pipeliner) error {
		for i, h := range hosts {
			if h.Vanished {
				scores[i] = c.ZScore(ctx, q.keys.hosts(), h.ID)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	kept := hosts[:0]
	var changed []redis.Z
	for i, score := range scores {
		switch {
		case score == nil:
			kept = append(kept, hosts[i])
		case score.Err() != nil: // it has left
		case score.Val() == listed[i].Score:
			kept = append(kept, hosts[i])
		default:
			changed = append(changed, redis.Z{Score: score.Val(), Member: hosts[i].ID})
		}
	}
	again, err := q.read(ctx, changed)
	return append(kept, again...), err
}

// read reads the hashes of hosts, in halves where they are too large for one reply.
func (q *query) read(ctx context.Context, listed []redis.Z) ([]Host, error) {
	hosts, err := q.ask(ctx, listed)
	large, ok := errors.AsType[tooLarge](err)
	switch {
	case !ok:
		return hosts, err
	case len(listed) == 1:
		return []Host{{ID: fmt.Sprint(listed[0].Member), Problem: "its report is too large: " + large.Error()}}, nil
	}
	half := len(listed) / 2
	if hosts, err = q.read(ctx, listed[:half]); err != nil {
		return nil, err
	}
	rest, err := q.read(ctx, listed[half:])
	return append(hosts, rest...), err
}

// ask reads the hashes of hosts in one round trip.
func (q *query) ask(ctx context.Context, listed []redis.Z) ([]Host, error) {
	replies := make([]*redis.StringSliceCmd, len(listed))
	_, err := q.client.Pipelined(ctx, func(c redis.Pipeliner) error {
		for i, z := range listed {
			if id, _ := z.Member.(string); redisconfig.CheckHost(id) == nil {
				replies[i] = redis.NewStringSliceCmd(ctx, slices.Concat([]any{"hmget", q.keys.host(id)}, q.fields)...)
				_ = c.Process(ctx, replies[i])
			}
		}
		return nil
	})
	if _, reply := errors.AsType[redis.Error](err); err != nil && !reply {
		return nil, err
	}
	hosts := make([]Host, len(listed))
	for i, z := range listed {
		id, _ := z.Member.(string)
		if replies[i] == nil {
			hosts[i] = Host{ID: strings.Clone(cut(id, mostText)), Problem: "its id " + short(id) + " is none: forkd writes no such thing"}
			continue
		}
		values, err := replies[i].Result()
		switch {
		case redis.HasErrorPrefix(err, "WRONGTYPE"):
			hosts[i] = Host{ID: id, Problem: "what Redis has under its key is no hash"}
		case err != nil:
			return nil, err
		case len(values) != len(q.fields):
			return nil, errNotRedis
		default:
			expires := time.UnixMilli(int64(min(max(z.Score, 0), 1<<47)))
			if last := &values[len(values)-1]; q.workers && *last != "" && q.rows.Load() >= maxRows {
				*last = ""
				q.unread.Store(true)
			}
			hosts[i] = parseHost(id, values, q.now, expires)
			q.rows.Add(int64(len(hosts[i].Workers)))
		}
		replies[i] = nil
	}
	return hosts, nil
}
