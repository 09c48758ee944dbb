package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/forkd/forkd/test/load"
)

const howRolls = "32 clients ask without pause (three in eight on one connection, three in eight on a connection for each request) " +
	"or fall silent for 1 to 3 s between two requests on one connection (a quarter), " +
	"while `forkd reload --keep-config` is called again whenever the last one is done (`update.monitor` 1s)."

const howLatency = "Requests come at a fixed rate, half of what the same 32 connections reach at their fastest, and are timed from the moment that each was due, " +
	"so that a stall counts for everyone who would have come meanwhile. Phases with and without rolls alternate."

// rollClients is the number for everything that is disturbed.
const rollClients = 32

const rollSettings = "[update]\nmonitor = \"1s\"\n"

func (b *bench) rolls(ctx context.Context) ([]row, error) {
	a, err := b.runApp(ctx, "rolls", b.cores, b.example(), rollSettings)
	if err != nil {
		return nil, err
	}
	defer a.stop()

	// The load outlives the last roll and its drain: nothing is left out.
	finish, abandon := b.underLoad(ctx, a.address)
	defer abandon()

	rolling, cancel := context.WithTimeout(ctx, b.plan.rollSpan)
	defer cancel()
	n, err := a.rolls(rolling)
	o := finish()
	if err != nil {
		return nil, err
	}
	failures := load.Count(o.Failures)
	return []row{
		promise("failed requests", "0", failures.Total() == 0, "%v of %s", failures, thousands(float64(o.Requests))),
		note("rolls", "%d, of %d workers each, in %v", n, b.cores, b.plan.rollSpan),
	}, nil
}

// underLoad has the clients of everything that is disturbed ask a server. finish lets
// them go on until nothing is left of what disturbed them, and returns what they have
// seen; abandon ends them whatever comes.
func (b *bench) underLoad(ctx context.Context, server *net.TCPAddr) (finish func() load.Outcome, abandon func()) {
	asking, end := context.WithCancel(ctx)
	seen := make(chan load.Outcome, 1)
	go func() { seen <- load.ClosedLoop(asking, server, load.Mix(rollClients), b.plan.warm) }()
	return func() load.Outcome {
		load.Pause(ctx, load.IdleMax)
		end()
		return <-seen
	}, end
}

func (b *bench) latency(ctx context.Context) ([]row, error) {
	a, err := b.runApp(ctx, "latency", b.cores, b.example(), rollSettings)
	if err != nil {
		return nil, err
	}
	defer a.stop()
	var rows []row
	for _, h := range []load.Habit{load.Keeping, load.Closing} {
		more, err := b.latencyOf(ctx, a, h)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

func (b *bench) latencyOf(ctx context.Context, a *app, h load.Habit) ([]row, error) {
	rate := b.saturation(ctx, a.address, h) / 2
	var steady, rolling, ratios []float64
	var failures []load.Failure
	n := 0
	for phase := range b.plan.phases {
		quiet := func() (float64, error) {
			o := load.FixedRate(ctx, a.address, h, rollClients, rate, b.plan.phaseSpan)
			failures = append(failures, o.Failures...)
			return milliseconds(o.Latency.Quantile(0.99)), ctx.Err()
		}
		disturbed := func() (float64, error) {
			until, cancel := context.WithTimeout(ctx, b.plan.phaseSpan)
			defer cancel()
			type ended struct {
				n   int
				err error
			}
			done := make(chan ended, 1)
			go func() {
				n, err := a.rolls(until)
				done <- ended{n, err}
			}()
			p99, _ := quiet()
			last := <-done
			n += last.n
			return p99, last.err
		}
		order := []func() (float64, error){quiet, disturbed}
		var p99 [2]float64
		for i := range order {
			which := (i + phase) % 2
			var err error
			if p99[which], err = order[which](); err != nil {
				return nil, err
			}
		}
		steady, rolling, ratios = append(steady, p99[0]), append(rolling, p99[1]), append(ratios, p99[1]/p99[0])
	}
	low, mid, high := quartiles(ratios)
	rows := []row{
		promise(fmt.Sprintf("p99 rolling / steady, %v", h), "1.5 or less", mid <= 1.5, "%.2f [%.2f .. %.2f]", mid, low, high),
		note(fmt.Sprintf("p99, %v", h), "rolling %.2f ms, steady %.2f ms, at %s requests a second, %d rolls", median(rolling), median(steady), thousands(rate), n),
	}
	if len(failures) > 0 {
		rows = append(rows, promise(fmt.Sprintf("failed requests, %v", h), "0", false, "%v", load.Count(failures)))
	}
	return rows, nil
}

// saturation is the rate at which the connections of the latency figure ask
// when they do not wait.
func (b *bench) saturation(ctx context.Context, address *net.TCPAddr, h load.Habit) float64 {
	var rates []float64
	for range 3 {
		o := b.press(ctx, address, load.All(h, rollClients))
		rates = append(rates, o.Rate())
	}
	return median(rates)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
