package advise_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/advise"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	if err := advise.Default().Check(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for field, changes := range map[string][]func(*advise.Policy){
		"connection-limit-per-host":       {func(p *advise.Policy) { p.Limit = -1 }, func(p *advise.Policy) { p.Limit = math.MaxInt64 }},
		"max-utilization-percent":         {func(p *advise.Policy) { p.MaxUtilization = 0 }, func(p *advise.Policy) { p.MaxUtilization = 101 }, func(p *advise.Policy) { p.MaxUtilization = math.NaN() }},
		"min-utilization-percent":         {func(p *advise.Policy) { p.MinUtilization = 75 }, func(p *advise.Policy) { p.MinUtilization = -1 }, func(p *advise.Policy) { p.MinUtilization = math.NaN() }},
		"overutilized-tolerance-percent":  {func(p *advise.Policy) { p.OverTolerance = 26 }, func(p *advise.Policy) { p.OverTolerance = -1 }},
		"underutilized-tolerance-percent": {func(p *advise.Policy) { p.UnderTolerance = 31 }, func(p *advise.Policy) { p.UnderTolerance = math.Inf(-1) }},
		"min-hosts":                       {func(p *advise.Policy) { p.MinHosts = 0 }, func(p *advise.Policy) { p.MinHosts = 100_001 }},
		"max-hosts":                       {func(p *advise.Policy) { p.MaxHosts = 0 }, func(p *advise.Policy) { p.MinHosts = 101 }, func(p *advise.Policy) { p.MaxHosts = 100_001 }},
		"out-cooldown":                    {func(p *advise.Policy) { p.OutCooldown = -1 }, func(p *advise.Policy) { p.OutCooldown = 200 * time.Hour }},
		"in-cooldown":                     {func(p *advise.Policy) { p.InCooldown = -1 }},
		"start-timeout":                   {func(p *advise.Policy) { p.StartTimeout = 0 }},
		"drain-timeout":                   {func(p *advise.Policy) { p.DrainTimeout = time.Millisecond }},
		"shed-per-second":                 {func(p *advise.Policy) { p.ShedPerSecond = -1 }, func(p *advise.Policy) { p.ShedPerSecond = math.NaN() }, func(p *advise.Policy) { p.ShedPerSecond = math.Inf(1) }},
	} {
		for i, change := range changes {
			p := advise.Default()
			change(&p)
			if bad, ok := errors.AsType[*advise.Setting](p.Check()); !ok || bad.Name != field || bad.Text == "" {
				t.Errorf("%s, %d: %v", field, i, p.Check())
			}
		}
	}
}
