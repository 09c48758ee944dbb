package advise

import (
	"fmt"
	"math"
	"time"
)

// Policy is how an app's fleet scales.
type Policy struct {
	Limit          int64         // connections that a host may hold; 0: the capacity that each host reports
	MaxUtilization float64       // percent that an out and an in aim at, more than 0, at most 100
	MinUtilization float64       // percent, less than MaxUtilization
	OverTolerance  float64       // percentage points: out above MaxUtilization + OverTolerance; a host sheds above the mean + OverTolerance
	UnderTolerance float64       // percentage points: in below MinUtilization - UnderTolerance
	MinHosts       int           // from 1
	MaxHosts       int           // from MinHosts
	OutCooldown    time.Duration // no out sooner after an out or an in
	InCooldown     time.Duration // no in sooner after an in or an out
	StartTimeout   time.Duration // a host that was asked for, or is starting, is waited for this long
	DrainTimeout   time.Duration // a host that drains to be removed may be removed after this, empty or not
	ShedPerSecond  float64       // connections that a host may shed in a second to even the load; 0: none
}

// Default returns the policy of an app that sets nothing.
func Default() Policy {
	return Policy{
		MaxUtilization: 75, MinUtilization: 30, OverTolerance: 5, UnderTolerance: 5, MinHosts: 1, MaxHosts: 100,
		OutCooldown: 3 * time.Minute, InCooldown: 10 * time.Minute, StartTimeout: 10 * time.Minute, DrainTimeout: 30 * time.Minute,
	}
}

// The bounds of a Policy.
const (
	mostHosts   = 100_000 // as many as are read of a fleet
	mostTime    = 7 * 24 * time.Hour
	mostLimit   = 1 << 40
	mostPerSec  = 1e6
	wholeHost   = 100.0 // percent
	shortestFor = time.Second
)

// Setting is a Policy's setting that cannot be, by its name: max-utilization-percent.
type Setting struct{ Name, Text string }

// Error says what is wrong, without the name.
func (s *Setting) Error() string { return s.Text }

// Check returns a [*Setting] for the first setting that is out of its bounds.
func (p Policy) Check() error {
	bad := func(name, format string, args ...any) error {
		return &Setting{name, fmt.Sprintf(format, args...)}
	}
	within := func(v, least, most float64) bool { return v >= least && v <= most } // NaN is not
	switch {
	case p.Limit < 0 || p.Limit > mostLimit:
		return bad("connection-limit-per-host", "%d: use 1 to %d, or 0 for what each host reports", p.Limit, int64(mostLimit))
	case !within(p.MaxUtilization, 1, wholeHost):
		return bad("max-utilization-percent", "%v: use 1 to 100", p.MaxUtilization)
	case !within(p.MinUtilization, 0, p.MaxUtilization) || p.MinUtilization == p.MaxUtilization:
		return bad("min-utilization-percent", "%v: use 0 to less than the maximum, %v", p.MinUtilization, p.MaxUtilization)
	case !within(p.OverTolerance, 0, wholeHost-p.MaxUtilization):
		return bad("overutilized-tolerance-percent", "%v: use 0 to %v: with the maximum it is at most 100", p.OverTolerance, wholeHost-p.MaxUtilization)
	case !within(p.UnderTolerance, 0, p.MinUtilization):
		return bad("underutilized-tolerance-percent", "%v: use 0 to the minimum, %v", p.UnderTolerance, p.MinUtilization)
	case p.MinHosts < 1 || p.MinHosts > mostHosts:
		return bad("min-hosts", "%d: use 1 to %d", p.MinHosts, mostHosts)
	case p.MaxHosts < p.MinHosts || p.MaxHosts > mostHosts:
		return bad("max-hosts", "%d: use %d, the minimum, to %d", p.MaxHosts, p.MinHosts, mostHosts)
	case math.IsNaN(p.ShedPerSecond) || !within(p.ShedPerSecond, 0, mostPerSec):
		return bad("shed-per-second", "%v: use 0 to %d", p.ShedPerSecond, int64(mostPerSec))
	}
	for _, d := range []struct {
		name        string
		value, from time.Duration
	}{
		{"out-cooldown", p.OutCooldown, 0},
		{"in-cooldown", p.InCooldown, 0},
		{"start-timeout", p.StartTimeout, shortestFor},
		{"drain-timeout", p.DrainTimeout, shortestFor},
	} {
		if d.value < d.from || d.value > mostTime {
			return bad(d.name, "%s: use %s to %s", d.value, d.from, mostTime)
		}
	}
	return nil
}

// over and under are the percentages outside of which the fleet is to change.
func (p Policy) over() float64  { return p.MaxUtilization + p.OverTolerance }
func (p Policy) under() float64 { return p.MinUtilization - p.UnderTolerance }
