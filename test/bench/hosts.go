package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

const (
	reporters    = 8   // connections of the fake hosts
	hostsAtOnce  = 16  // reports of one round trip
	hostIncident = 500 // reports of a host from one event to the next
)

// fakeFleet reports hosts that do not exist, by forkd's own script, as the masters
// of so many hosts would.
type fakeFleet struct {
	settings fleet.Settings
	app      fleet.App
	hosts    int
	workers  int
}

func newFakeFleet(hosts, workers int, interval time.Duration) *fakeFleet {
	return &fakeFleet{
		settings: fleet.Settings{Interval: interval, ConnectionLimit: int64(100 * workers)},
		app:      fleet.App{Name: "fleet", Boot: strings.ToLower(rand.Text()[:16]), StartedAt: time.Now()},
		hosts:    hosts,
		workers:  workers,
	}
}

// once has each host report once.
func (f *fakeFleet) once(ctx context.Context, r *redisServer) error {
	_, err := f.report(ctx, r, 1)
	return err
}

// fullSpeed has the hosts report as fast as Redis takes it, until ctx ends, and
// returns the most reports that it took in a second.
func (f *fakeFleet) fullSpeed(ctx context.Context, r *redisServer) (best float64, err error) {
	return f.report(ctx, r, math.MaxUint64)
}

func (f *fakeFleet) report(ctx context.Context, r *redisServer, rounds uint64) (best float64, err error) {
	client := r.client()
	defer client.Close()
	script := fleet.HeartbeatScript()
	if err := script.Load(ctx, client).Err(); err != nil {
		return 0, err
	}
	var reported atomic.Int64
	ended := make(chan error, reporters)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	defer parts.Wait()
	for first := range reporters {
		parts.Go(func() {
			p := f.player()
			for round := uint64(1); round <= rounds; round++ {
				for host := first; host < f.hosts; host += reporters * hostsAtOnce {
					if ctx.Err() != nil {
						ended <- nil
						return
					}
					n, err := p.some(context.WithoutCancel(ctx), client, script, host, round)
					if err != nil {
						ended <- err
						return
					}
					reported.Add(n)
				}
			}
			ended <- nil
		})
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	at, before := time.Now(), int64(0)
	for left := reporters; left > 0; {
		select {
		case err := <-ended:
			if err != nil {
				cancel()
				return 0, err
			}
			left--
		case <-tick.C:
			now, count := time.Now(), reported.Load()
			best = max(best, float64(count-before)/now.Sub(at).Seconds())
			at, before = now, count
		}
	}
	return best, nil
}

// some sends the reports of hostsAtOnce hosts, every reporters-th from first, and
// returns how many these were.
func (p *player) some(ctx context.Context, client *redis.Client, script *redis.Script, first int, round uint64) (n int64, err error) {
	var answers []*redis.Cmd
	_, err = client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for host := first; host < p.fleet.hosts && len(answers) < hostsAtOnce; host += reporters {
			keys, args := p.beat(host, round)
			answers = append(answers, script.EvalSha(ctx, pipe, keys, args...))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, a := range answers {
		said, err := a.StringSlice()
		if err != nil || len(said) < 5 || said[3] != "" {
			return 0, fmt.Errorf("a report of a host did not arrive: %q, %w", said, err)
		}
	}
	return int64(len(answers)), nil
}

// player plays the hosts of a fleet, one after the other, with the same memory: 640,000
// workers would be a lot of it. One goroutine uses it.
type player struct {
	fleet   *fakeFleet
	app     control.App
	figures []workerFigures // of each worker
}

// workerFigures are what the pointers of a control.Worker point to.
type workerFigures struct {
	connections, accepted, requests, queue, rss int64
	cpu                                         float64
}

func (f *fakeFleet) player() *player {
	p := &player{fleet: f, figures: make([]workerFigures, f.workers)}
	p.app = control.App{
		App: f.app.Name, Version: "simulated", Generation: 1, State: control.StateReady, StartedAt: f.app.StartedAt,
		Listeners: []control.Listener{{Name: "http", Address: "tcp://:8080"}}, Slots: make([]control.Slot, f.workers),
	}
	for slot := range p.app.Slots {
		of := &p.figures[slot]
		p.app.Slots[slot] = control.Slot{Slot: slot, State: control.StateReady, Workers: []control.Worker{{
			Generation: 1, State: control.StateReady, Connections: &of.connections, Accepted: &of.accepted, Requests: &of.requests,
			Queue: &of.queue, CPUPercent: &of.cpu, RSSBytes: &of.rss,
		}}}
	}
	return p
}

// beat is what a host reports in a round.
func (p *player) beat(host int, round uint64) (keys []string, args []any) {
	s := p.fleet.settings
	s.HostID = fmt.Sprintf("sim-%05d", host)
	incidents := (uint64(host)+round)/hostIncident - uint64(host)/hostIncident
	var news []control.Event
	switch {
	case round == 1:
		news = []control.Event{{Seq: 1, Time: time.Now(), Host: s.HostID, Type: control.EventUp, Reason: "simulated"}}
	case (uint64(host)+round)%hostIncident == 0:
		news = []control.Event{{Seq: 1 + incidents, Time: time.Now(), Host: s.HostID, Type: control.EventCrashed, Reason: "simulated: signal SIGKILL"}}
	}
	p.move(host, int(incidents))
	return fleet.Heartbeat(s, p.fleet.app, p.app, round, news)
}

// move gives the workers what they have now: connections that come and go over a
// minute, around a level of each worker's own, and counts that only grow. It all
// follows from the host's number and the time.
func (p *player) move(host, incidents int) {
	elapsed := time.Since(p.fleet.app.StartedAt)
	wave := math.Sin(2*math.Pi*elapsed.Minutes() + float64(host))
	firstPID := 1000 + int(hash(uint64(host))%60_000)
	for slot := range p.figures {
		own := hash(uint64(host)<<16 | uint64(slot))
		noise := hash(own + uint64(elapsed/time.Second))
		level := float64(20 + own%60)
		f := &p.figures[slot]
		f.connections = int64(level*(1+0.2*wave)) + int64(noise%5)
		f.accepted = int64(1000*level) + int64(level*elapsed.Seconds())
		f.requests = 12 * f.accepted
		f.queue = int64(noise >> 8 % 16 / 15)
		f.cpu = float64(noise>>16%400)/10 + level/10
		f.rss = int64(40<<20+own>>8%(64<<20))&^4095 + int64(noise>>24%64)*4096
		p.app.Slots[slot].Workers[0].PID = firstPID + 3*slot
	}
	p.app.Slots[0].Restarts = incidents
	p.app.Totals = control.Sum(p.app.Slots)
}

// hash makes many bits of few (splitmix64: Steele, Lea and Flood, 2014).
func hash(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}
