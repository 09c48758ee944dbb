package advise

import (
	"math"
	"time"
)

// mostCount is the largest number of connections that is counted: JSON carries no more.
const mostCount = 1 << 53

// server is a host that serves and whose figures are known.
type server struct {
	*Host

	connections, capacity int64
}

func (s *server) percent() float64 { return 100 * float64(s.connections) / float64(s.capacity) }

// count is a fleet at a time, as its hosts report it.
type count struct {
	Policy

	now         time.Time
	m           Memory
	serving     []server
	leaving     []*Host // that drain to be removed, and can be resumed
	connections int64   // of all hosts that are known
	peak        int64   // the most of the last minutes
	served      int64   // of these, the connections of serving
	capacity    int64   // of serving
	there       int     // hosts that serve, also those whose figures are not known, and those that start or resume
	starting    int
	resuming    int
	drained     int // by somebody else
	orders      int // to drain, of hosts that are there
	coming      int // starting, resuming, or asked for
	a           Advice
}

// take counts the hosts, and drops the orders that are done.
func (p Policy) take(now time.Time, m Memory, hosts []Host) *count {
	c := &count{Policy: p, now: now, m: m}
	c.a = Advice{Drain: []string{}, Resume: []string{}, Remove: []string{}, Shed: []Shed{}, Unknown: []string{}}
	var live map[string]bool
	if len(c.m.Orders) > 0 {
		live = map[string]bool{}
	}
	for i := range hosts {
		h := &hosts[i]
		if h.Vanished {
			continue
		}
		if order, ordered := c.m.Orders[h.ID]; ordered {
			live[h.ID] = true
			c.obey(h, order)
		}
		c.place(h)
	}
	for id, order := range c.m.Orders { // of a host that is lost, and may be back
		if !live[id] && now.Sub(order.Since) >= p.DrainTimeout+p.StartTimeout {
			delete(c.m.Orders, id)
		}
	}
	c.a.Hosts = len(c.serving) + len(c.a.Unknown)
	c.there = c.a.Hosts + c.starting + c.resuming
	if c.m.Wanted == 0 {
		c.m.Wanted = c.there
	}
	c.m.Wanted = c.bounded(c.m.Wanted)
	c.coming = c.starting + c.resuming
	if c.asked() {
		c.coming += max(0, c.m.Asked-c.there)
	}
	c.a.Connections = c.connections
	c.peak = c.m.peak(c.connections, now, min(peakWindow, p.InCooldown))
	if c.capacity > 0 {
		c.a.Capacity = new(c.capacity)
		c.a.Utilization = new(c.utilization(c.connections))
	}
	return c
}

func (c *count) order(id string, o Order) {
	if c.m.Orders == nil {
		c.m.Orders = map[string]Order{}
	}
	c.m.Orders[id] = o
}

// obey drops the order of a host if it does not hold any more: done, of another boot, or
// overruled by an operator, who has resumed what was drained or drained what was resumed.
func (c *count) obey(h *Host, o Order) {
	o.Seen = o.Seen || h.State == StateDraining
	switch {
	case h.Boot != "" && h.Boot != o.Boot,
		o.Resume && (h.State != StateDraining || c.now.Sub(o.Since) >= c.StartTimeout),
		!o.Resume && o.Seen && h.State == StateReady:
		delete(c.m.Orders, h.ID)
	default:
		c.m.Orders[h.ID] = o
	}
}

func (c *count) place(h *Host) {
	order, ordered := c.m.Orders[h.ID]
	connections := int64(-1) // not known
	if h.Connections != nil && !h.Stale {
		connections = min(max(*h.Connections, 0), mostCount)
		c.connections = min(c.connections+connections, mostCount)
	}
	switch {
	case ordered && !order.Resume:
		c.leave(h, connections, order)
	case h.State == StateStopping:
	case h.State == StateDraining && ordered:
		c.resuming++
		c.a.Resume = append(c.a.Resume, h.ID)
	case h.State == StateDraining:
		c.drained++
	case h.State == StateStarting && !h.Stale:
		c.starting++
	case h.State == StateReady && connections >= 0 && c.limit(h) > 0:
		s := server{h, connections, c.limit(h)}
		c.serving = append(c.serving, s)
		c.served = min(c.served+connections, mostCount)
		c.capacity = min(c.capacity+s.capacity, mostCount)
	default:
		c.a.Unknown = append(c.a.Unknown, h.ID)
	}
}

func (c *count) leave(h *Host, connections int64, o Order) {
	c.orders++
	overdue := c.now.Sub(o.Since) >= c.DrainTimeout
	switch {
	case overdue || h.State == StateDraining && connections == 0:
		c.a.Remove = append(c.a.Remove, h.ID)
		return
	case h.State == StateStopping:
		return
	case h.State != StateDraining:
		c.a.Drain = append(c.a.Drain, h.ID)
	}
	if !h.Stale {
		c.leaving = append(c.leaving, h)
	}
}

// limit is how many connections a host can hold; 0: not known.
func (p Policy) limit(h *Host) int64 {
	switch {
	case p.Limit > 0:
		return p.Limit
	case h.Capacity != nil:
		return min(max(*h.Capacity, 0), mostCount)
	default:
		return 0
	}
}

func (p Policy) bounded(hosts int) int { return min(max(hosts, p.MinHosts), p.MaxHosts) }

// asked reports whether hosts that the last out asked for may still come.
func (c *count) asked() bool { return c.recent(c.m.Out) }

// recent reports whether hosts that an out asked for then may still come: after an in none
// do, because it has waited for them.
func (c *count) recent(out time.Time) bool {
	return !out.IsZero() && !c.m.In.After(out) && c.now.Sub(out) < c.StartTimeout
}

// missing is how many hosts there are too few, for not so long that they won't come back.
func (c *count) missing() int {
	if c.m.Fewer.IsZero() || c.now.Sub(c.m.Fewer) >= c.StartTimeout {
		return 0
	}
	return max(0, c.m.Wanted-c.there)
}

// utilization is U = 100 S/(H L).
func (c *count) utilization(connections int64) float64 {
	return 100 * float64(connections) / float64(c.capacity)
}

// with is the utilization with so many more hosts.
func (c *count) with(more int) float64 {
	return 100 * float64(c.connections) / (float64(c.capacity) + float64(more)*c.mean())
}

// needed is how many hosts with known figures S takes: S/(L MaxUtilization/100), rounded
// up, at least 1.
func (c *count) needed(connections int64) int {
	const rounding = 1e-9
	hosts := math.Ceil(float64(connections)/(c.mean()*c.MaxUtilization/100) - rounding)
	return int(min(max(hosts, 1), mostHosts))
}

func (c *count) mean() float64 { return float64(c.capacity) / float64(len(c.serving)) }
