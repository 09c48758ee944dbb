package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/forkd/forkd/internal/advise"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

const (
	adviseEvery    = 2 * time.Second  // between two looks: hosts report as often
	adviseSlowest  = 8 * time.Second  // for one look, and between two while Redis is away: shorter than one leads
	orderWithin    = 30 * time.Second // for a host to take a command, before it is sent again
	minHookRetry   = 5 * time.Second
	maxHookRetry   = 5 * time.Minute
	leaveWithin    = 2 * time.Second
	mostDeaf       = 100_000 // hosts that are remembered not to obey
	maxFirstOrders = 1000    // commands of one look
)

// adviseRun follows an app's advice: prints what changes, and as the leader commands
// hosts and runs the hook.
type adviseRun struct {
	out        output
	err        io.Writer
	from       fleetAdviser
	app, where string
	act        bool
	hook       func(ctx context.Context, v *adviceView) error // nil: none

	printed string               // what is known of the advice that was printed last
	leader  string               // who leads, as it was said last
	failed  string               // the last failure that was said
	sent    map[string]time.Time // commands, by op and host, that are not to be sent again until then
	deaf    map[string]bool      // hosts that don't obey, of which that was said

	running *hookRun      // nil: no hook runs
	retry   time.Time     // no hook until then
	wait    time.Duration // after the next failure of a hook
}

type hookRun struct {
	ended chan error
	stop  context.CancelFunc
	told  advise.Told
}

// run looks every few seconds until ctx ends. An error of the first look is returned;
// later ones are said, and Redis may come back.
func (r *adviseRun) run(ctx context.Context) error {
	defer r.leave(ctx)
	r.wait = minHookRetry
	pause := adviseEvery
	for first := true; ; first = false {
		err := r.look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil // Ctrl-C, or the end of what reads it
		case is[*exit](err) || err != nil && first:
			return err
		case err != nil:
			r.say("%s; it is tried again", redisError(r.where, err))
			pause = min(2*pause, adviseSlowest)
		default:
			r.failed, pause = "", adviseEvery
		}
		r.idle(ctx, pause)
	}
}

// idle waits for the next look, the end of a hook, or of the leadership with it.
func (r *adviseRun) idle(ctx context.Context, pause time.Duration) {
	next := time.After(pause)
	for {
		var ended chan error
		var over <-chan time.Time
		if r.running != nil {
			until, _ := r.from.Leads()
			ended, over = r.running.ended, time.After(time.Until(until))
		}
		select {
		case <-next:
			return
		case <-ctx.Done():
			return
		case err := <-ended:
			r.hookEnded(ctx, err)
		case <-over:
			r.stopHook()
		}
	}
}

func (r *adviseRun) look(ctx context.Context) error {
	within := adviseSlowest
	if until, leads := r.from.Leads(); leads {
		within = min(within, time.Until(until))
	}
	timed, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	f, advice, err := r.from.Look(timed)
	if _, leads := r.from.Leads(); !leads {
		r.stopHook()
	}
	if err != nil {
		return err
	}
	v := &adviceView{App: r.app, At: f.At, Leader: r.from.Leader(), Token: r.from.Token(), Advice: advice}
	if err := r.print(v); err != nil {
		return err
	}
	until, leads := r.from.Leads()
	if !leads {
		return nil
	}
	timed, cancel = context.WithDeadline(ctx, until)
	defer cancel()
	if r.hook != nil && r.running == nil && r.from.News(advice) && !time.Now().Before(r.retry) {
		r.startHook(ctx, v)
	}
	if r.act {
		return r.command(timed, &f, &advice)
	}
	return nil
}

// print prints an advice that differs in more than its figures from the last one.
func (r *adviseRun) print(v *adviceView) error {
	if r.leader != v.Leader {
		r.leader = v.Leader
		if v.Token != "" {
			fmt.Fprintf(r.err, "forkd: this one leads: %s\n", sanitize(v.Leader))
		} else {
			fmt.Fprintf(r.err, "forkd: another one leads: %s\n", sanitize(v.Leader))
		}
	}
	known := fmt.Sprint(v.Hosts, v.HostsWanted, v.Coming, v.Add, v.Direction, v.Drain, v.Resume, v.Remove, v.Unknown, v.Until != nil)
	if known == r.printed && len(v.Shed) == 0 {
		return nil
	}
	r.printed = known
	return r.out.print(v, func(s screen) []string { return v.lines(s, clock(v.At, time.Now())+" ") })
}

// say says a failure, but not the same again and again.
func (r *adviseRun) say(format string, args ...any) {
	text := sanitize(fmt.Sprintf(format, args...))
	if text != r.failed {
		r.failed = text
		fmt.Fprintln(r.err, "forkd: "+text)
	}
}

// command sends the hosts what the advice asks of them: what they have not done yet is
// sent again once the last command has expired.
func (r *adviseRun) command(ctx context.Context, f *fleet.Fleet, a *advise.Advice) error {
	now := time.Now()
	for key, until := range r.sent {
		if !until.After(now) {
			delete(r.sent, key)
		}
	}
	type order struct {
		host    string
		command control.Command
	}
	var orders []order
	for _, host := range a.Resume {
		orders = append(orders, order{host, control.Command{Op: control.OpResume}})
	}
	for _, host := range a.Drain {
		orders = append(orders, order{host, control.Command{Op: control.OpDrain}})
	}
	for _, s := range a.Shed {
		orders = append(orders, order{s.Host, control.Command{Op: control.OpShed, Args: control.Args{Count: s.Count, Seconds: s.Seconds}}})
	}
	hosts := make(map[string]*fleet.Host, len(f.Hosts))
	for i := range f.Hosts {
		hosts[f.Hosts[i].ID] = &f.Hosts[i]
	}
	for _, o := range orders[:min(len(orders), maxFirstOrders)] {
		h := hosts[o.host]
		key := o.command.Op + " " + o.host
		if _, done := r.sent[key]; done || h == nil || !r.obeys(h) {
			continue
		}
		within := h.Takes()
		if o.command.Op != control.OpShed { // which is for the figures of now
			within = max(within, orderWithin)
		}
		o.command.ID = newID()
		r.sent[key] = now.Add(within)
		err := r.from.Send(ctx, o.host, fleet.Command{Command: o.command, ExpiresAt: f.At.Add(time.Since(now) + within)})
		switch {
		case errors.Is(err, fleet.ErrNotLeader):
			return nil
		case ctx.Err() != nil:
			return err
		case err != nil:
			fmt.Fprintf(r.err, "forkd: cannot send %s to %s: %s\n", o.command.Op, sanitize(o.host), sanitize(err.Error()))
		}
	}
	return nil
}

// obeys reports whether a host executes commands. One that does not is said once.
func (r *adviseRun) obeys(h *fleet.Host) bool {
	if h.Obeys() {
		delete(r.deaf, h.ID)
		return true
	}
	if !r.deaf[h.ID] && len(r.deaf) < mostDeaf {
		r.deaf[h.ID] = true
		fmt.Fprintf(r.err, "forkd: %s does not obey: set redis.control = true there\n", sanitize(h.ID))
	}
	return false
}

// startHook runs the hook beside the looks, one at a time.
func (r *adviseRun) startHook(ctx context.Context, v *adviceView) {
	ctx, stop := context.WithCancel(ctx)
	run := &hookRun{ended: make(chan error, 1), stop: stop, told: r.from.Telling(v.Advice)}
	shown := *v
	shown.Drain, shown.Resume, shown.Remove = slices.Clone(v.Drain), slices.Clone(v.Resume), slices.Clone(v.Remove)
	go func() { run.ended <- r.hook(ctx, &shown) }()
	r.running = run
}

// hookEnded notes that the hook was told, or that it is to be told again later.
func (r *adviseRun) hookEnded(ctx context.Context, err error) {
	told := r.running.told
	r.running.stop()
	r.running = nil
	if err == nil {
		r.wait = minHookRetry
		err = r.from.Told(ctx, told)
		if err != nil && ctx.Err() == nil {
			r.say("cannot note that --exec is done, it may be run again: %s", redisError(r.where, err))
		}
		return
	}
	fmt.Fprintf(r.err, "forkd: --exec: %s: it is run again in %s\n", sanitize(err.Error()), age(r.wait))
	r.retry = time.Now().Add(r.wait)
	r.wait = min(2*r.wait, maxHookRetry)
}

// stopHook kills the hook of one who does not lead any more, and waits for its end.
func (r *adviseRun) stopHook() {
	if r.running == nil {
		return
	}
	r.running.stop()
	<-r.running.ended
	r.running = nil
	fmt.Fprintln(r.err, "forkd: --exec was killed: this one does not lead any more")
}

// leave ends what goes on when ctx has ended.
func (r *adviseRun) leave(ctx context.Context) {
	if r.running != nil {
		r.running.stop()
		<-r.running.ended
		fmt.Fprintln(r.err, "forkd: --exec was killed")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	if err := r.from.Leave(ctx); err != nil {
		r.say("%s", redisError(r.where, err))
	}
}
