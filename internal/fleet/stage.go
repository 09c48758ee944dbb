package fleet

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/control"
)

const (
	simulatedPrefix   = "sim-"
	simulatedVersion  = "simulated"
	simulatedRoom     = 100 // connections that a worker can hold, where the settings don't say
	simulatedIncident = 500 // beats of a host from one event to the next
)

// simulatedHost reports whether a host is a simulation's.
func simulatedHost(id string) bool {
	number, ok := strings.CutPrefix(id, simulatedPrefix)
	_, err := strconv.ParseUint(number, 10, 32)
	return ok && err == nil
}

func newBoot() string { return strings.ToLower(rand.Text()[:16]) }

// stage plays the hosts of a simulation, one after the other, with the same
// properties. What a host says follows from its number and the time: 640,000
// workers would be a lot to remember. One goroutine uses it.
type stage struct {
	settings Settings
	sim      *simulation
	app      control.App
	figures  []figures // of each worker
}

// figures are what the pointers of a control.Worker point to.
type figures struct {
	connections, accepted, requests, queue, rss int64
	cpu                                         float64
}

func newStage(s *simulation) *stage {
	g := &stage{settings: s.settings, sim: s, figures: make([]figures, s.Workers)}
	if g.settings.ConnectionLimit == 0 {
		g.settings.ConnectionLimit = int64(simulatedRoom * s.Workers)
	}
	g.app = control.App{
		App: s.App, Version: simulatedVersion, Generation: 1, State: stateReady, StartedAt: s.began,
		Listeners: []control.Listener{{Name: "http", Address: "tcp://:8080"}},
		Slots:     make([]control.Slot, s.Workers),
	}
	for i := range g.app.Slots {
		f := &g.figures[i]
		g.app.Slots[i] = control.Slot{Slot: i, State: stateReady, Workers: []control.Worker{{
			Generation: 1, State: stateReady, Connections: &f.connections, Accepted: &f.accepted, Requests: &f.requests,
			Queue: &f.queue, CPUPercent: &f.cpu, RSSBytes: &f.rss,
		}}}
	}
	return g
}

// beat is what a host reports in a round.
func (g *stage) beat(host int, kind string, round uint64) beat {
	elapsed := time.Since(g.sim.began)
	incidents := (uint64(host)+round)/simulatedIncident - uint64(host)/simulatedIncident
	g.act(host, elapsed, incidents)
	id := fmt.Sprintf("%s%05d", simulatedPrefix, host)
	b := beat{
		kind: kind, host: id, boot: g.sim.boot, ttl: g.settings.ttl(), load: loadOf(g.settings, g.app),
		changed: (uint64(host)+round)%20 == 0, orders: g.settings.Control,
	}
	happened := func(seq uint64, what, reason string) {
		b.news = append(b.news, control.Event{Seq: seq, Time: time.Now(), Host: id, Type: what, Reason: reason})
	}
	switch {
	case kind == beatLeave:
		happened(math.MaxInt32, control.EventDown, "simulated")
		return b
	case round == 0:
		happened(1, control.EventUp, "simulated")
	case (uint64(host)+round)%simulatedIncident == 0:
		happened(1+incidents, control.EventCrashed, "simulated: signal SIGKILL")
	}
	app := App{Name: g.sim.App, Boot: g.sim.boot, StartedAt: g.sim.began}
	b.fields = hostFields(g.settings, id, app, g.app, round+1, "")
	return b
}

// act gives the workers what they have now: connections that come and go over a
// minute, around a level of each worker's own, and counts that only grow.
func (g *stage) act(host int, elapsed time.Duration, incidents uint64) {
	tide := math.Sin(2*math.Pi*elapsed.Minutes() + float64(host))
	first := 1000 + int(scramble(uint64(host))%60_000)
	for slot := range g.figures {
		own := scramble(uint64(host)<<16 | uint64(slot))
		noise := scramble(own + uint64(elapsed/time.Second))
		level := float64(20 + own%60)
		f := &g.figures[slot]
		f.connections = int64(level*(1+0.2*tide)) + int64(noise%5)
		f.accepted = int64(1000*level) + int64(level*elapsed.Seconds())
		f.requests = 12 * f.accepted
		f.queue = int64(noise >> 8 % 16 / 15)
		f.cpu = float64(noise>>16%400)/10 + level/10
		f.rss = int64(40<<20+own>>8%(64<<20))&^4095 + int64(noise>>24%64)*4096
		w := &g.app.Slots[slot].Workers[0]
		w.PID = first + 3*slot
	}
	g.app.Slots[0].Restarts = int(incidents)
	g.app.Totals = control.Sum(g.app.Slots)
}

// scramble makes many bits of few (splitmix64: Steele, Lea and Flood, 2014).
func scramble(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// usedMemory asks the server that has a key how much memory it uses, in bytes; nil
// when it doesn't say.
func usedMemory(ctx context.Context, client redis.UniversalClient, key string) *int64 {
	var server redis.Cmdable = client
	if c, ok := client.(*redis.ClusterClient); ok {
		node, err := c.MasterForKey(ctx, key)
		if err != nil {
			return nil
		}
		server = node
	}
	info, err := server.Info(ctx, "memory").Result()
	if err != nil {
		return nil
	}
	for line := range strings.Lines(info) {
		if text, ok := strings.CutPrefix(line, "used_memory:"); ok {
			if n, err := wholeOf(strings.TrimSpace(text)); err == nil {
				return &n
			}
		}
	}
	return nil
}
