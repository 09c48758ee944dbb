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
		"Limit":          {func(p *advise.Policy) { p.Limit = -1 }, func(p *advise.Policy) { p.Limit = math.MaxInt64 }},
		"MaxUtilization": {func(p *advise.Policy) { p.MaxUtilization = 0 }, func(p *advise.Policy) { p.MaxUtilization = 101 }, func(p *advise.Policy) { p.MaxUtilization = math.NaN() }},
		"MinUtilization": {func(p *advise.Policy) { p.MinUtilization = 75 }, func(p *advise.Policy) { p.MinUtilization = -1 }, func(p *advise.Policy) { p.MinUtilization = math.NaN() }},
		"OverTolerance":  {func(p *advise.Policy) { p.OverTolerance = 26 }, func(p *advise.Policy) { p.OverTolerance = -1 }},
		"UnderTolerance": {func(p *advise.Policy) { p.UnderTolerance = 31 }, func(p *advise.Policy) { p.UnderTolerance = math.Inf(-1) }},
		"MinHosts":       {func(p *advise.Policy) { p.MinHosts = 0 }, func(p *advise.Policy) { p.MinHosts = 100_001 }},
		"MaxHosts":       {func(p *advise.Policy) { p.MaxHosts = 0 }, func(p *advise.Policy) { p.MinHosts = 101 }, func(p *advise.Policy) { p.MaxHosts = 100_001 }},
		"OutCooldown":    {func(p *advise.Policy) { p.OutCooldown = -1 }, func(p *advise.Policy) { p.OutCooldown = 200 * time.Hour }},
		"InCooldown":     {func(p *advise.Policy) { p.InCooldown = -1 }},
		"StartTimeout":   {func(p *advise.Policy) { p.StartTimeout = 0 }},
		"DrainTimeout":   {func(p *advise.Policy) { p.DrainTimeout = time.Millisecond }},
		"ShedPerSecond":  {func(p *advise.Policy) { p.ShedPerSecond = -1 }, func(p *advise.Policy) { p.ShedPerSecond = math.NaN() }, func(p *advise.Policy) { p.ShedPerSecond = math.Inf(1) }},
	} {
		for i, change := range changes {
			p := advise.Default()
			change(&p)
			if bad, ok := errors.AsType[*advise.Setting](p.Check()); !ok || bad.Field != field || bad.Text == "" {
				t.Errorf("%s, %d: %v", field, i, p.Check())
			}
		}
	}
}
