package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/redisconfig"
)

// mostMemory is how many bytes of an adviser's memory are read and written: of some
// 20,000 hosts that drain at the same time.
const mostMemory = 4 << 20

// HostsOf is what the advice gets to know of a fleet. The figures of a host whose report
// has a problem, or which is really two, are not known.
func HostsOf(f Fleet) []advise.Host {
	hosts := make([]advise.Host, len(f.Hosts))
	for i := range f.Hosts {
		h := &f.Hosts[i]
		hosts[i] = advise.Host{ID: h.ID, Boot: h.Boot, State: h.State, Stale: h.Stale, Vanished: h.Vanished, Control: h.Obeys()}
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
	f, err := r.Fleet(ctx, app, true)
	if err != nil {
		return Fleet{}, advise.Advice{}, err
	}
	m, err := r.remembered(ctx, app)
	if err != nil {
		return Fleet{}, advise.Advice{}, err
	}
	_, a := p.Advise(f.At, m, HostsOf(f))
	return f, a, nil
}

// remembered reads what the last leader remembers, which is not taken on trust; the zero
// Memory is one that is not there, or can't be read.
func (r *Reader) remembered(ctx context.Context, app string) (m advise.Memory, err error) {
	key := keys{app}.advice()
	values, err := r.client.HMGet(ctx, key, "memory").Result()
	if redis.HasErrorPrefix(err, "WRONGTYPE") {
		return m, nil
	}
	if err != nil || len(values) != 1 {
		return m, fmt.Errorf("cannot read %s: %w", key, orNotRedis(err))
	}
	text, _ := values[0].(string)
	return parseMemory(text), nil
}

func orNotRedis(err error) error {
	if err == nil {
		return errNotRedis
	}
	return err
}

func parseMemory(text string) (m advise.Memory) {
	if len(text) > mostMemory || json.Unmarshal([]byte(text), &m) != nil {
		return advise.Memory{}
	}
	maps.DeleteFunc(m.Orders, func(id string, _ advise.Order) bool { return redisconfig.CheckHost(id) != nil })
	return m
}

// printableName is the id of an adviser as it may be shown, "?" for one that may not.
func printableName(id string) string {
	if len(id) > mostText || !printable(id) {
		return "?"
	}
	return id
}

// leaderOf is the id in the value of the leader's key.
func leaderOf(value string) string {
	_, id, _ := strings.Cut(value, " ")
	return printableName(id)
}

const (
	leaderTTL  = 10 * time.Second   // a leader that says nothing for so long is none any more
	memoryKept = 7 * 24 * time.Hour // longer than any of a policy's times
)
