package fleet

import (
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
)

// BenchmarkHost reads a host of 64 workers.
func BenchmarkHost(b *testing.B) {
	slots := make([]control.Slot, 64)
	for i := range slots {
		n := new(int64(i) * 12345)
		slots[i] = control.Slot{Slot: i, State: "ready", Workers: []control.Worker{{
			PID: 1000 + i, Generation: 1, State: "ready", Connections: n, Accepted: n, Requests: n, Queue: n, CPUPercent: new(12.5), RSSBytes: n,
		}}}
	}
	values := fields(map[string]string{"workers": string(appendColumns(nil, slots))})
	b.ReportAllocs()
	for b.Loop() {
		if h := parseHost("web-1", values, noon(), noon().Add(time.Second)); h.Problem != "" || len(h.Workers) != 64 {
			b.Fatalf("%+v", h)
		}
	}
}
