package fleet_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/fleet"
)

// filled is a server to which so many hosts have reported once: sim-00000 and on.
func filled(t testing.TB, hosts, workers int) (s *server, at fleet.Settings) {
	t.Helper()
	s = start(t, options{})
	at = fleet.Settings{URL: "redis://" + s.address, Interval: 10 * time.Minute}
	status := newApp("b1", workers).status
	client := redis.NewClient(&redis.Options{Addr: s.address, Protocol: 2})
	defer client.Close()
	script := fleet.HeartbeatScript()
	if err := script.Load(t.Context(), client).Err(); err != nil {
		t.Fatal(err)
	}
	for first := 0; first < hosts; first += 100 {
		_, err := client.Pipelined(t.Context(), func(p redis.Pipeliner) error {
			for i := first; i < min(first+100, hosts); i++ {
				host := at
				host.HostID = fmt.Sprintf("sim-%05d", i)
				keys, args := fleet.Heartbeat(host, fleet.App{Name: "shop", Boot: "b1", StartedAt: status.StartedAt}, status, 1, nil)
				script.EvalSha(t.Context(), p, keys, args...)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
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
