package advise

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Advise returns what the fleet should be at now, by Redis's clock, and what to remember
// for the next time. Nothing that it is given is changed. With the zero Memory it answers
// for the moment alone.
//
// With S connections, H hosts that serve and L connections that one can hold, U is
// 100 S/(H L). It is out above MaxUtilization + OverTolerance, in below MinUtilization -
// UnderTolerance, both to S/(L MaxUtilization/100), rounded up. S has the connections of
// hosts that drain, since they come back to the others; H does not have these hosts. For an
// in S is the most of the last minutes: clients that were cut off will be back.
func (p Policy) Advise(now time.Time, m Memory, hosts []Host) (Memory, Advice) {
	c := p.take(now, m.recall(now), hosts)
	c.adopt()
	var reason string
	switch {
	case len(c.serving) == 0:
		c.m.Waits = time.Time{}
		reason = fmt.Sprintf("no host that serves has known figures: %s wanted, as before", are(c.m.Wanted))
	case c.utilization(c.connections) > c.over():
		reason = c.out()
	case c.utilization(c.peak) < c.under():
		c.m.Waits = time.Time{}
		reason = c.in()
	default:
		c.m.Waits = time.Time{}
		reason = c.keep()
	}
	if p.ShedPerSecond > 0 && !c.m.Out.Equal(now) && !c.m.In.Equal(now) {
		c.even()
	}
	c.m.At = now
	c.conclude(reason)
	return c.m, c.a
}

// adopt notes since when more or fewer hosts are there than are wanted. More are wanted
// once they have stayed, whoever has started them: until then they may be the successors
// of hosts that are about to leave. Fewer are not: hosts that have vanished may be back.
func (c *count) adopt() {
	since := func(t *time.Time, differs bool) {
		switch {
		case !differs:
			*t = time.Time{}
		case t.IsZero():
			*t = c.now
		}
	}
	since(&c.m.Fewer, c.there < c.m.Wanted)
	since(&c.m.More, c.there > c.m.Wanted)
	gather := !c.m.Began.IsZero() && c.now.Sub(c.m.Began) < gathering
	if c.there > c.m.Wanted && (gather || c.now.Sub(c.m.More) >= c.StartTimeout) {
		c.m.Wanted, c.m.More = c.bounded(c.there), time.Time{}
	}
}

// out advises more hosts, and says why or why not.
func (c *count) out() string {
	why := fmt.Sprintf("utilization %s is over %s: %s", tenths(math.Ceil, c.utilization(c.connections)), percent(c.over()), c.figures(c.connections))
	coming, there := c.coming, c.there
	target := c.needed(c.connections) + len(c.a.Unknown)
	if c.asked() {
		there = max(there, c.m.Asked)
	}
	late := !c.m.Waits.IsZero() && c.now.Sub(c.m.Waits) >= c.StartTimeout
	if late { // they are there, and are no help
		coming, target, there = 0, target+c.starting, c.a.Hosts+c.starting
	}
	target = c.bounded(target)
	switch {
	case coming > 0 && c.with(coming) <= c.over():
		if c.m.Waits.IsZero() {
			c.m.Waits = c.now
		}
		return fmt.Sprintf("%s; %s coming: then it is %s", why, are(coming), percent(c.with(coming)))
	case target <= there:
		return fmt.Sprintf("%s; no more than %s allowed", why, are(c.MaxHosts))
	case c.held(c.OutCooldown, c.m.Out, c.m.In):
		return fmt.Sprintf("%s; %s needed, held back by the cooldown", why, are(target))
	}
	c.grow(target, there)
	return fmt.Sprintf("%s; with %s it is %s", why, plural(target, "host"), percent(c.with(target-c.a.Hosts)))
}

// keep says why nothing changes. A fleet that has too few hosts for long gets them.
func (c *count) keep() string {
	why := fmt.Sprintf("utilization %s is from %s to %s: %s", percent(c.utilization(c.peak)), percent(c.under()), percent(c.over()), c.figures(c.peak))
	few := c.a.Hosts + c.coming
	if few < c.MinHosts && !c.m.Fewer.IsZero() && c.now.Sub(c.m.Fewer) >= c.OutCooldown && !c.held(c.OutCooldown, c.m.Out, c.m.In) {
		c.grow(c.MinHosts, few)
		return fmt.Sprintf("%s there, %s the least: %s", are(few), are(c.MinHosts), c.figures(c.connections))
	}
	return why
}

// grow asks for hosts, beside those that are there or coming. A host that drains is back
// sooner than a new one is there: those with the most connections are resumed first.
func (c *count) grow(target, there int) {
	slices.SortFunc(c.leaving, func(a, b *Host) int {
		return cmp.Or(cmp.Compare(valueOr0(b.Connections), valueOr0(a.Connections)), strings.Compare(a.ID, b.ID))
	})
	for _, h := range c.leaving[:min(len(c.leaving), target-there)] {
		delete(c.m.Orders, h.ID)
		c.a.Drain = slices.DeleteFunc(c.a.Drain, func(id string) bool { return id == h.ID })
		c.there++
		if h.State == StateDraining {
			c.order(h.ID, Order{Boot: h.Boot, Resume: true, Since: c.now})
			c.a.Resume = append(c.a.Resume, h.ID)
		}
	}
	if c.missing() > 0 { // and may be back: the number that is wanted does not fall
		c.m.Wanted = max(c.m.Wanted, target)
	} else {
		c.m.Wanted = target
	}
	c.m.Asked, c.m.Out, c.m.Waits = target, c.now, time.Time{}
	c.coming = target - c.a.Hosts
}

// in advises fewer hosts, and says why or why not. All hosts that are too many drain at
// once: a client that leaves one of them would else go to the emptiest of the others,
// which is the next to drain, and be moved again. What stays has room for all.
func (c *count) in() string {
	why := fmt.Sprintf("utilization %s is under %s: %s", tenths(math.Floor, c.utilization(c.peak)), percent(c.under()), c.figures(c.peak))
	target := c.bounded(c.needed(c.peak) + len(c.a.Unknown))
	leave := c.emptiest(c.a.Hosts - target)
	switch missing := c.missing(); {
	case c.a.Hosts <= c.MinHosts:
		return fmt.Sprintf("%s; %s the least", why, are(c.MinHosts))
	case len(leave) == 0:
		return why + "; fewer could not hold them"
	case c.coming > 0:
		return fmt.Sprintf("%s; first %s coming", why, are(c.coming))
	case missing > 0:
		return fmt.Sprintf("%s; %s missing, and may be back", why, are(missing))
	case c.held(c.InCooldown, c.m.Out, c.m.In, c.m.Began):
		return fmt.Sprintf("%s; %s enough, held back by the cooldown", why, are(target))
	}
	room := c.capacity
	for _, s := range leave {
		room -= s.capacity
		c.orders++
		c.order(s.ID, Order{Boot: s.Boot, Since: c.now})
		c.a.Drain = append(c.a.Drain, s.ID)
	}
	c.m.Wanted, c.m.In, c.m.Fewer, c.m.More = c.a.Hosts-len(leave), c.now, time.Time{}, time.Time{}
	return fmt.Sprintf("%s; with %s it is %s", why, plural(c.m.Wanted, "host"), percent(100*float64(c.peak)/float64(room)))
}

// emptiest returns the n hosts with the fewest connections, or as many of them as the
// others can do without.
func (c *count) emptiest(n int) []server {
	if n <= 0 {
		return nil
	}
	all := slices.Clone(c.serving)
	slices.SortFunc(all, func(a, b server) int {
		return cmp.Or(cmp.Compare(a.connections, b.connections), strings.Compare(a.ID, b.ID))
	})
	room := float64(c.capacity)
	n = min(n, len(all)-1)
	for i, s := range all {
		room -= float64(s.capacity)
		if i == n || float64(c.peak) > room*c.MaxUtilization/100 {
			return all[:i]
		}
	}
	return nil // not reached: n is less than all
}

// held reports whether a cooldown since one of the times is not over, and notes its end.
func (c *count) held(cooldown time.Duration, since ...time.Time) bool {
	for _, t := range since {
		if until := t.Add(cooldown); !t.IsZero() && until.After(c.now) && (c.a.Until == nil || until.After(*c.a.Until)) {
			c.a.Until = &until
		}
	}
	return c.a.Until != nil
}

func (c *count) conclude(reason string) {
	a := &c.a
	a.HostsWanted, a.Coming = c.m.Wanted, c.coming
	switch {
	case c.asked() && c.coming > 0:
		a.Direction = Out
		a.Add = max(0, c.m.Asked-c.there)
		if t := c.m.Told; c.recent(t.Out) {
			a.Add = max(0, min(a.Add, c.m.Asked-t.Asked))
		}
	case c.orders > 0:
		a.Direction = In
	}
	c.m.Told.Remove = slices.DeleteFunc(c.m.Told.Remove, func(id string) bool { _, ok := c.m.Orders[id]; return !ok })
	notes := []string{reason}
	if lost := c.m.Wanted - c.there; lost > 0 && a.Direction != Out {
		notes = append(notes, fmt.Sprintf("%d of %s missing", lost, plural(c.m.Wanted, "host")))
	}
	if n := len(a.Unknown); n > 0 {
		notes = append(notes, fmt.Sprintf("%s no part, as figures are missing, old or of two hosts: %s", some(n, "host takes", "hosts take"), few(a.Unknown)))
	}
	if c.drained > 0 {
		notes = append(notes, are(c.drained)+" drained by somebody else")
	}
	a.Reason = strings.Join(notes, "; ")
}

func (c *count) figures(connections int64) string {
	return fmt.Sprintf("%s on %s of %d", plural(int(connections), "connection"), plural(len(c.serving), "host"), int64(math.Round(c.mean())))
}

func valueOr0(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// some is so many things, in words for one and for several.
func some(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, several)
}

func plural(n int, what string) string { return some(n, what, what+"s") }

func are(hosts int) string { return some(hosts, "host is", "hosts are") }

func percent(p float64) string { return tenths(math.Round, p) }

// tenths is a percentage with one digit after the point, rounded.
func tenths(round func(float64) float64, p float64) string {
	return strconv.FormatFloat(round(min(p, 1e6)*10)/10, 'f', -1, 64) + "%"
}

func few(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
