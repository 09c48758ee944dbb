package fleet_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/redisconfig"
)

// busy changes an app and has things happen in it, on and on, until the returned
// function is called.
func busy(t testing.TB, a *app) (rest func()) {
	t.Helper()
	over := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := int64(0); ; i++ {
			select {
			case <-tick.C:
				a.hold(i % 50 * 100)
				if i%5 == 0 {
					a.happen("ready", "")
				}
			case <-over:
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		close(over)
		running.Wait()
	})
}

// inOrder reports what is wrong with the events of a stream: one twice, or out of
// its order, or the last one not there. Those that a primary has taken with it
// are not missed.
func inOrder(entries []string, last uint64) error {
	before := 0
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry, " ")
		seq, err := strconv.Atoi(number)
		if err != nil || seq <= before {
			return fmt.Errorf("%q comes after event %d", entry, before)
		}
		before = seq
	}
	if uint64(before) != last { //nolint:gosec // not negative
		return fmt.Errorf("the last one is %d, not %d", before, last)
	}
	return nil
}

// goesOn waits for a whole report and all events of an app at the server that
// where finds.
func goesOn(t testing.TB, r *report, where func() *server) {
	t.Helper()
	r.happen("ready", "the last")
	until(t, "a report that goes on", func() error {
		s := where()
		if s == nil {
			return errors.New("there is no primary")
		}
		reply, err := s.try("HGETALL", r.key())
		if err != nil {
			return err
		}
		if err := r.complete(pairs(t, reply)); err != nil {
			return err
		}
		reply, err = s.try("XRANGE", "forkd:{shop}:events", "-", "+")
		if err != nil {
			return err
		}
		var entries []string
		for _, entry := range reply.([]any) {
			e := pairs(t, entry.([]any)[1])
			entries = append(entries, e["seq"]+" "+e["type"])
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		return inOrder(entries, uint64(len(r.events)))
	})
	r.is(t, control.RedisUp)
}

// shows waits until a reader has what an app has.
func shows(t testing.TB, reader *fleet.Reader, a *app) {
	t.Helper()
	until(t, "a fleet", func() error {
		f, err := reader.Fleet(bounded(t), "shop", false)
		if err != nil {
			return err
		}
		if len(f.Hosts) != 1 || fmt.Sprint(known(f.Totals.Connections)) != a.connections() {
			return fmt.Errorf("it shows %q, the app has %s", glimpse(f), a.connections())
		}
		return nil
	})
}

func known(figure *int64) int64 {
	if figure == nil {
		return -1
	}
	return *figure
}

// primary is the server that the Sentinels call the primary, nil while they know
// none but the one that is gone.
func (g *trio) primary() *server {
	reply, err := g.sentinels[0].try("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "fleet")
	parts, is := reply.([]any)
	if err != nil || !is {
		return nil
	}
	at := slices.IndexFunc(g.servers, func(s *server) bool {
		return s.guard != nil && s.host() == parts[0] && s.port() == parts[1] && s.info("replication", "role") == "master"
	})
	if at < 0 {
		return nil
	}
	return g.servers[at]
}

// A primary dies under load. The Sentinels name another, and the report goes on
// there.
func TestRealSentinelFailover(t *testing.T) {
	t.Parallel()
	g := startTrio(t, nil)
	a := newApp("b1", 8)
	r := startReport(t, a, fleet.Settings{URL: g.url()})
	r.seen(t, g.servers[0])
	rest := busy(t, a)
	defer rest()
	g.servers[0].end()
	r.is(t, control.RedisDown)
	var next *server
	until(t, "another primary", func() error {
		if next = g.primary(); next == nil {
			return errors.New("there is none")
		}
		return nil
	})
	r.is(t, control.RedisUp)
	rest()
	goesOn(t, r, func() *server { return next })
	// One Sentinel fewer is no trouble.
	g.sentinels[0].end()
	a.hold(1234)
	goesOn(t, r, func() *server { return next })
}

// A primary is made a replica, as for maintenance: its connections stay, and
// whoever uses them is refused. With TLS, and the rights of the document.
func TestRealSentinelHandOver(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ours")
	rights, reading := leastPrivilege(t)
	g := startTrio(t, ca, allowed(rights, ""), allowed(reading, ""))
	a := newApp("b1", 2)
	a.happen("up", "")
	r := startReport(t, a, fleet.Settings{URL: g.url(), CAFile: ca.file, Username: "forkd", PasswordFile: secret(t)})
	r.seen(t, g.servers[0])
	reader := open(t, fleet.Settings{URL: g.url(), CAFile: ca.file, Username: "forkd-reader", PasswordFile: secret(t), ReadFrom: redisconfig.FromReplica})
	shows(t, reader, a)
	if stats := fmt.Sprint(g.servers[0].do("INFO", "commandstats")); strings.Contains(stats, "cmdstat_zcard:") {
		t.Errorf("the primary was read, not a replica: %s", stats)
	}
	until(t, "a failover that begins", func() error {
		_, err := g.sentinels[0].try("SENTINEL", "FAILOVER", "fleet")
		return err
	})
	until(t, "another primary", func() error {
		if next := g.primary(); next == nil || next == g.servers[0] {
			return errors.New("it is the same")
		}
		return nil
	})
	a.hold(99)
	goesOn(t, r, g.primary)
	shows(t, reader, a)
	refusedNothing(t, g.servers)
}

// The node of a Cluster that has the app's keys stands still; its replica takes
// over, and the node comes back as the replica.
func TestRealClusterFailover(t *testing.T) {
	t.Parallel()
	rights, reading := leastPrivilege(t)
	_, more, _ := strings.Cut(strings.ReplaceAll(fleetDocument(t), "\n", " "), "With a Cluster add `")
	more, _, _ = strings.Cut(more, "`")
	g := startSix(t, allowed(rights, more), allowed(reading, more), allowed(adviserRights(t), more))
	a := newApp("b1", 8)
	r := startReport(t, a, fleet.Settings{URL: g.url(), Username: "forkd", PasswordFile: secret(t)})
	const key = "forkd:{shop}:hosts"
	var first *server
	until(t, "a report", func() error {
		if first = g.holder(key); first == nil {
			return errors.New("no node has it")
		}
		return nil
	})
	r.seen(t, first)
	until(t, "the app in its own slot of the Cluster", func() error {
		s := g.holder("forkd:apps")
		if s == nil {
			return errors.New("no node has it")
		}
		if score := s.do("ZSCORE", "forkd:apps", "shop"); score == nil {
			return errors.New("it is not there")
		}
		return nil
	})
	reader := open(t, fleet.Settings{URL: g.url(), Username: "forkd-reader", PasswordFile: secret(t), ReadFrom: redisconfig.FromReplica})
	shows(t, reader, a)
	adviser := open(t, fleet.Settings{URL: g.url(), Username: "forkd-adviser", PasswordFile: secret(t)}).Advisor("shop", "one", advise.Default())
	seen(t, adviser)
	rest := busy(t, a)
	defer rest()
	first.pause()
	r.is(t, control.RedisDown)
	var next *server
	until(t, "another node that has the keys", func() error {
		if next = g.holder(key); next == nil {
			return errors.New("there is none")
		}
		return nil
	})
	r.is(t, control.RedisUp)
	rest()
	goesOn(t, r, func() *server { return next })
	shows(t, reader, a)
	until(t, "an adviser that leads", func() error {
		if _, advice, err := adviser.Look(bounded(t)); err != nil || advice.Hosts != 1 || adviser.Token() == "" {
			return fmt.Errorf("%v, led by %q, %+v", err, adviser.Leader(), advice)
		}
		return nil
	})
	first.resume()
	until(t, "a node that knows its place", func() error {
		if role := first.info("replication", "role"); role != "slave" {
			return errors.New(role)
		}
		return nil
	})
	a.hold(4321)
	goesOn(t, r, func() *server { return next })
	shows(t, reader, a)
	refusedNothing(t, g.nodes)
}
