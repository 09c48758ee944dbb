package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/redisconfig"
)

// mostMemory is how many bytes of an adviser's memory are read and written: of some
// 20,000 hosts that drain at the same time.
const mostMemory = 4 << 20

// The bounds of an advice that others see.
const (
	mostNamed  = 1000 // hosts in each of its lists
	mostReason = 4 << 10
)

// HostsOf is what the advice gets to know of a fleet. The figures of a host whose report
// has a problem, or which is really two, are not known.
func HostsOf(f Fleet) []advise.Host {
	hosts := make([]advise.Host, len(f.Hosts))
	for i := range f.Hosts {
		h := &f.Hosts[i]
		hosts[i] = advise.Host{ID: h.ID, Boot: h.Boot, State: h.State, Stale: h.Stale, Vanished: h.Vanished}
		if h.Problem == "" && h.Twin == "" {
			hosts[i].Connections, hosts[i].Capacity = h.Connections, h.Capacity
		}
	}
	return hosts
}

// Advice returns an app's hosts with their workers, and what p advises: with what the last
// leader remembers, if there was one. It only reads. An app that nobody reports has no
// hosts.
func (r *Reader) Advice(ctx context.Context, app string, p advise.Policy) (Fleet, advise.Advice, error) {
	f, m, _, err := r.look(ctx, app)
	if err != nil {
		return Fleet{}, advise.Advice{}, err
	}
	_, a := p.Advise(f.At, m, HostsOf(f))
	return f, a, nil
}

// Scale returns an app's hosts with their workers, and what autoscalers are to be told: the
// advice of the one who leads, as that wrote it down, whatever p is. Where nobody leads it is
// what p advises, and the reason says so. What must be remembered from one call to the next
// is then in m, the zero Memory at first, and goes on from the last leader's. It only reads.
func (r *Reader) Scale(ctx context.Context, app string, p advise.Policy, m *advise.Memory) (Fleet, advise.Advice, error) {
	f, last, led, err := r.look(ctx, app)
	if err != nil {
		return Fleet{}, advise.Advice{}, err
	}
	age := f.At.Sub(last.At)
	switch {
	case age < -leaderTTL: // by a clock that was ahead, or a stranger
	case led != nil && age < leaderTTL:
		*m = last
		return f, *led, nil
	case last.At.After(m.At):
		*m = last
	}
	if m.At.IsZero() {
		*m = advise.Start(f.At)
	}
	var a advise.Advice
	*m, a = p.Advise(f.At, *m, HostsOf(f))
	a.Reason += Leaderless
	return f, a, nil
}

// look reads an app's hosts with their workers, and what remembered does.
func (r *Reader) look(ctx context.Context, app string) (f Fleet, m advise.Memory, a *advise.Advice, err error) {
	if f, err = r.Fleet(ctx, app, true); err == nil {
		m, a, err = r.remembered(ctx, app)
	}
	return f, m, a, err
}

// Leaderless ends the reason of an advice of [Reader.Scale] that is no leader's.
const Leaderless = "; nobody leads (forkd fleet advise -f): the policy and the cooldowns are those of the one who answers, since it started"

// remembered reads what the last leader remembers and has advised, which is not taken on
// trust; the zero Memory and nil are what is not there, or can't be read.
func (r *Reader) remembered(ctx context.Context, app string) (m advise.Memory, a *advise.Advice, err error) {
	key := keys{app}.advice()
	values, err := r.client.HMGet(ctx, key, "memory", "advice").Result()
	if redis.HasErrorPrefix(err, "WRONGTYPE") {
		return m, nil, nil
	}
	if err == nil && len(values) != 2 {
		err = errNotRedis
	}
	if err != nil {
		return m, nil, fmt.Errorf("cannot read %s: %w", key, err)
	}
	memory, _ := values[0].(string)
	advice, _ := values[1].(string)
	return parseMemory(memory), parseAdvice(advice), nil
}

// parseAdvice reads what a leader has advised; nil if that can't be.
func parseAdvice(text string) *advise.Advice {
	var a advise.Advice
	if len(text) > mostMemory || json.Unmarshal([]byte(text), &a) != nil || len(a.Reason) > mostReason || a.HostsWanted < 1 ||
		slices.ContainsFunc([]int{a.Hosts, a.HostsWanted, a.Coming, a.Add}, func(n int) bool { return n < 0 || n > maxHosts }) {
		return nil
	}
	noHost := func(id string) bool { return redisconfig.CheckHost(id) != nil }
	a.Shed = slices.DeleteFunc(a.Shed, func(s advise.Shed) bool { return noHost(s.Host) })
	for _, list := range []*[]string{&a.Drain, &a.Resume, &a.Remove, &a.Unknown} {
		*list = slices.DeleteFunc(*list, noHost)
	}
	return new(published(a))
}

// published is an advice as others see it: of long lists of hosts only the beginning. Its
// lists are never null.
func published(a advise.Advice) advise.Advice {
	a.Shed = append([]advise.Shed{}, a.Shed[:min(len(a.Shed), mostNamed)]...)
	for _, list := range []*[]string{&a.Drain, &a.Resume, &a.Remove, &a.Unknown} {
		*list = append([]string{}, (*list)[:min(len(*list), mostNamed)]...)
	}
	return a
}

func parseMemory(text string) (m advise.Memory) {
	if len(text) > mostMemory || json.Unmarshal([]byte(text), &m) != nil {
		return advise.Memory{}
	}
	maps.DeleteFunc(m.Orders, func(id string, _ advise.Order) bool { return redisconfig.CheckHost(id) != nil })
	return m
}

// leaderOf is the id in the value of the leader's key; "?": it may not be shown.
func leaderOf(value string) string {
	_, id, _ := strings.Cut(value, " ")
	if len(id) > mostText || !printable(id) {
		return "?"
	}
	return id
}

const (
	leaderTTL  = 10 * time.Second   // a leader that says nothing for so long is none any more
	memoryKept = 7 * 24 * time.Hour // longer than any of a policy's times
)
