package fleet

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Simulation is a fleet that does not exist. A count that is 0 is the default.
type Simulation struct {
	App         string // whose hosts they are: nobody else may report it
	Hosts       int    // 1..100000; 1
	Workers     int    // of each, 1..1024; 8
	Connections int    // to Redis, 1..64; 8. Beats that are due at the same time share one round trip
	Once        bool   // one beat of each host, which then expire
	FullSpeed   bool   // beats as fast as Redis takes them, whatever the interval: its headroom
}

// Simulated is how a simulation goes.
type Simulated struct {
	Elapsed     time.Duration
	Hosts       int // that have been reported by now
	Beats       int64
	Failed      int64         // of these
	PerSecond   float64       // beats, since the last progress
	Wanted      float64       // beats a second, by the interval
	Late        time.Duration // the worst since the last progress, of a beat behind its time
	Median, P99 time.Duration // of a round trip, since the last progress
	Worst       time.Duration
	Sent        int64 // bytes
	Received    int64
	BeatBytes   int64  // of one beat, on average
	UsedMemory  *int64 // of Redis, bytes; nil: INFO is not allowed
	Grown       *int64 // of that, since the beginning
	Error       string // of the last beat that failed; ""
	Ended       bool   // this is the last of them, and nothing is left in Redis but what expires
}

// The bounds of a simulation.
const (
	MostSimulatedHosts   = 100_000
	MostSimulatedWorkers = 1024
	mostConnections      = 64
	defaultConnections   = 8
	defaultWorkers       = 8
	simulatedTogether    = 16          // beats of one round trip
	simulatedPause       = time.Second // of a connection after a failure
	progressEvery        = time.Second
	simulatedLeave       = 30 * time.Second // for all to take their leave
)

func (o *Simulation) check() error {
	for _, of := range []struct {
		what              string
		n                 *int
		most, whenNothing int
	}{
		{"hosts", &o.Hosts, MostSimulatedHosts, 1},
		{"workers", &o.Workers, MostSimulatedWorkers, defaultWorkers},
		{"connections", &o.Connections, mostConnections, defaultConnections},
	} {
		if *of.n == 0 {
			*of.n = of.whenNothing
		}
		if *of.n < 1 || *of.n > of.most {
			return fmt.Errorf("cannot simulate %d %s: 1 to %d", *of.n, of.what, of.most)
		}
	}
	o.Connections = min(o.Connections, o.Hosts)
	return CheckApp(o.App)
}

// simulation is one under way.
type simulation struct {
	Simulation
	settings Settings
	clients  []redis.UniversalClient // each of one connection
	began    time.Time
	tempo    tempo
	boot     string
	memory   *int64 // of Redis at the beginning
	hadNews  bool   // the app had a stream before
}

// Simulate reports o.Hosts hosts by the reporter's own beats, spread over the
// interval, until ctx ends, and then takes away what it has made. It calls progress
// each second and at the end. It fails at once when the app is reported by others,
// or Redis does not take the first beat; later, failures are counted, and tried
// again in a second.
func Simulate(ctx context.Context, s Settings, o Simulation, progress func(Simulated)) error {
	if err := o.check(); err != nil {
		return err
	}
	s.HostID = "simulator" // this host's own name may be none
	if err := s.Check(); err != nil {
		return err
	}
	sim := &simulation{Simulation: o, settings: s, boot: newBoot(), began: time.Now()}
	// Not ctx: what is under way when it ends is finished, and then undone.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	for range o.Connections {
		client, err := dialThrough(life, s, false, sim.tempo.count(direct()))
		if err != nil {
			return err
		}
		defer client.Close()
		sim.clients = append(sim.clients, client)
	}
	if err := sim.prepare(ctx); err != nil {
		return fmt.Errorf("cannot simulate: %w", err)
	}
	sim.run(ctx, progress)
	err := sim.leave(life)
	last := sim.tempo.take(sim, time.Since(sim.began))
	last.Ended = err == nil
	progress(last)
	if o.Once && last.Failed > 0 {
		return fmt.Errorf("%d of %d beats failed, the last with: %s", last.Failed, last.Beats, last.Error)
	}
	return err
}

// prepare looks at what is there, and has Redis learn the script.
func (s *simulation) prepare(ctx context.Context) error {
	k := keys{s.App}
	client := s.clients[0]
	listed, err := client.ZRange(ctx, k.hosts(), 0, MostSimulatedHosts).Result()
	if err != nil {
		return err
	}
	if len(listed) > MostSimulatedHosts {
		return fmt.Errorf("%s has more hosts than can be simulated: take the name of another app", s.App)
	}
	for _, id := range listed {
		if !simulatedHost(id) {
			return fmt.Errorf("%s has a host %s that is not simulated: take the name of another app", s.App, short(id))
		}
	}
	there, err := client.Exists(ctx, k.events()).Result()
	if err != nil {
		return err
	}
	s.hadNews = there > 0 && len(listed) == 0
	s.memory = usedMemory(ctx, client, k.hosts())
	s.began = time.Now()
	if err := s.register(ctx); err != nil {
		return err
	}
	w := newWire(client, s.App)
	if _, err = w.send(ctx, newStage(s).beat(0, beatReport, 0)); err != nil && len(listed) == 0 {
		_ = client.ZRem(ctx, appsKey, s.App).Err() // nobody reports it
	}
	return err
}

func (s *simulation) register(ctx context.Context) error {
	return newWire(s.clients[0], s.App).register(ctx, time.Now(), s.settings.ttl())
}

// run beats until ctx ends, or with Once until each host has.
func (s *simulation) run(ctx context.Context, progress func(Simulated)) {
	done := make(chan struct{})
	var hosts sync.WaitGroup
	for i, client := range s.clients {
		hosts.Go(func() { s.part(ctx, client, i) })
	}
	go func() {
		hosts.Wait()
		close(done)
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	registered := time.Now()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		now := s.tempo.take(s, time.Since(s.began))
		if ctx.Err() != nil {
			continue
		}
		now.UsedMemory = usedMemory(ctx, s.clients[0], keys{s.App}.hosts())
		if now.UsedMemory != nil && s.memory != nil {
			now.Grown = new(*now.UsedMemory - *s.memory)
		}
		progress(now)
		if time.Since(registered) > s.settings.ttl()/2 {
			registered = time.Now()
			if err := s.register(ctx); err != nil && ctx.Err() == nil {
				s.tempo.fail(err, 0)
			}
		}
	}
}

// part is the hosts of one connection: every so-manieth.
func (s *simulation) part(ctx context.Context, client redis.UniversalClient, first int) {
	stage := newStage(s)
	w := newWire(client, s.App)
	interval := s.settings.interval()
	step := s.Connections
	batch := make([]beat, 0, simulatedTogether)
	// All hosts take their turns in an interval; due is when the next one's is.
	turn := interval / time.Duration(s.Hosts)
	for round := uint64(0); ; round++ {
		if behind := time.Since(s.began) / interval; !s.FullSpeed && !s.Once {
			round = max(round, uint64(behind)) // what was missed is not made up for
		}
		began := s.began.Add(time.Duration(round) * interval)
		for host := first; host < s.Hosts; {
			due := began.Add(time.Duration(host) * turn)
			if !s.FullSpeed && !s.Once && !sleepUntil(ctx, due) || ctx.Err() != nil {
				return
			}
			now := time.Now()
			batch = batch[:0]
			for len(batch) < cap(batch) && host < s.Hosts && (s.FullSpeed || s.Once || !began.Add(time.Duration(host)*turn).After(now)) {
				batch = append(batch, stage.beat(host, beatReport, round))
				host += step
			}
			late := time.Duration(0)
			if !s.FullSpeed && !s.Once {
				late = now.Sub(due)
			}
			if err := s.send(ctx, w, batch, late); err != nil && !sleepUntil(ctx, time.Now().Add(simulatedPause)) {
				return
			}
		}
		if s.Once {
			return
		}
	}
}

// send sends beats in one round trip.
func (s *simulation) send(ctx context.Context, w *wire, batch []beat, late time.Duration) error {
	// A round trip that has begun ends as it ends: what it did is undone later.
	began := time.Now()
	err := w.sendAll(context.WithoutCancel(ctx), batch)
	if err != nil {
		s.tempo.fail(err, len(batch))
		return err
	}
	s.tempo.add(len(batch), time.Since(began), late)
	return nil
}

// sendAll sends beats of several hosts in one round trip.
func (w *wire) sendAll(ctx context.Context, beats []beat) error {
	var commands []*redis.Cmd
	ask := func(evalSHA bool) error {
		commands = commands[:0]
		_, err := w.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, b := range beats {
				k, args := w.input(b)
				if evalSHA {
					commands = append(commands, w.script.EvalSha(ctx, p, k, args...))
				} else {
					commands = append(commands, w.script.Eval(ctx, p, k, args...))
				}
			}
			return nil
		})
		return err
	}
	err := ask(true)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		err = ask(false)
	}
	if err != nil {
		return err
	}
	for _, c := range commands {
		list, err := c.Slice()
		if err != nil {
			return err
		}
		if _, err := parseAnswer(list); err != nil {
			return err
		}
	}
	return nil
}

// leave undoes what was done. With Once the hosts stay until they expire, and with
// them the stream, unless it was there before.
func (s *simulation) leave(ctx context.Context) error {
	k := keys{s.App}
	client := s.clients[0]
	if s.Once && s.hadNews {
		return nil
	}
	if s.Once {
		return client.PExpire(ctx, k.events(), s.settings.ttl()).Err()
	}
	ctx, cancel := context.WithTimeout(ctx, simulatedLeave)
	defer cancel()
	failures := make([]error, len(s.clients))
	var hosts sync.WaitGroup
	for i, client := range s.clients {
		hosts.Go(func() {
			stage, w := newStage(s), newWire(client, s.App)
			batch := make([]beat, 0, simulatedTogether)
			for host := i; host < s.Hosts && failures[i] == nil; {
				for batch = batch[:0]; len(batch) < cap(batch) && host < s.Hosts; host += s.Connections {
					batch = append(batch, stage.beat(host, beatLeave, 0))
				}
				failures[i] = w.sendAll(ctx, batch)
			}
		})
	}
	hosts.Wait()
	err := cmp.Or(failures...)
	if err == nil && !s.hadNews {
		err = client.Del(ctx, k.events()).Err()
	}
	if err == nil {
		err = client.ZRem(ctx, appsKey, s.App).Err()
	}
	if err != nil {
		return fmt.Errorf("cannot take away what was simulated: the hosts expire in %s, the lists that they are in after %s: %w", s.settings.ttl(), forgetAfter(s.settings.ttl()), err)
	}
	return nil
}

// sleepUntil reports false when ctx ends first.
func sleepUntil(ctx context.Context, at time.Time) bool {
	left := time.Until(at)
	if left <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
