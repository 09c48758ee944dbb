package fleet_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/fleet"
)

// filled is a server to which so many hosts have reported once.
func filled(t testing.TB, hosts, workers int) (s *server, at fleet.Settings) {
	t.Helper()
	s = start(t, options{})
	at = fleet.Settings{URL: "redis://" + s.address, Interval: 10 * time.Minute}
	o := fleet.Simulation{App: "shop", Hosts: hosts, Workers: workers, Once: true}
	if err := fleet.Simulate(t.Context(), at, o, func(fleet.Simulated) {}); err != nil {
		t.Fatal(err)
	}
	return s, at
}

// BenchmarkFleet reads 10,000 hosts of 64 workers each.
func BenchmarkFleet(b *testing.B) {
	s, at := filled(b, 10_000, 64)
	memory, _ := strconv.ParseFloat(s.info("memory", "used_memory"), 64)
	for _, withWorkers := range []bool{false, true} {
		b.Run("workers="+strconv.FormatBool(withWorkers), func(b *testing.B) {
			r, err := fleet.Open(at)
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			b.ReportAllocs()
			for b.Loop() {
				f, err := r.Fleet(b.Context(), "shop", withWorkers)
				if err != nil || f.Totals.Serving != 10_000 || f.Totals.Problems != 0 {
					b.Fatalf("%v: %+v", err, f.Totals)
				}
				if withWorkers && len(f.Hosts[9999].Workers) != 64 {
					b.Fatal("there are workers missing")
				}
			}
			b.ReportMetric(memory/1e6, "MB-in-Redis")
		})
	}
}

// BenchmarkSimulate has 10,000 hosts of 64 workers report: at their pace, and as
// fast as Redis takes it.
func BenchmarkSimulate(b *testing.B) {
	for _, fullSpeed := range []bool{false, true} {
		b.Run("full="+strconv.FormatBool(fullSpeed), func(b *testing.B) {
			s := start(b, options{})
			for b.Loop() {
				ctx, cancel := context.WithTimeout(b.Context(), 12*time.Second)
				o := fleet.Simulation{App: "shop", Hosts: 10_000, Workers: 64, FullSpeed: fullSpeed}
				err := fleet.Simulate(ctx, fleet.Settings{URL: "redis://" + s.address}, o, func(p fleet.Simulated) {
					used := int64(0)
					if p.UsedMemory != nil {
						used = *p.UsedMemory
					}
					b.Logf("%5.1fs %d hosts, %.0f beats/s of %.0f, failed %d %s, late %s, trip %s %s %s, %d bytes a beat, %d MB",
						p.Elapsed.Seconds(), p.Hosts, p.PerSecond, p.Wanted, p.Failed, p.Error, p.Late, p.Median, p.P99, p.Worst, p.BeatBytes, used/1e6)
				})
				cancel()
				if err != nil {
					b.Fatal(err)
				}
				b.Log(s.do("KEYS", "*"), s.info("stats", "total_commands_processed"))
			}
		})
	}
}
