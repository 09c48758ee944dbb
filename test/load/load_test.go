package load

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

func TestClosedLoopCountsEachRequestOnce(t *testing.T) {
	var served atomic.Int64
	address := listen(t, func(int) string { served.Add(1); return answer })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	o := ClosedLoop(ctx, address, Mix(8), 0)
	if len(o.Failures) > 0 {
		t.Fatalf("%v failed, first %v", Count(o.Failures), o.Failures[0].Err)
	}
	if int64(o.Requests) != served.Load() || o.Latency.count != uint64(o.Requests) {
		t.Errorf("%d requests and %d times counted, %d served", o.Requests, o.Latency.count, served.Load())
	}
}

// A server that stalls once must be charged for all requests that were due
// meanwhile, though the client could not send them: a naive client would see
// one slow request per connection.
func TestFixedRateChargesAStall(t *testing.T) {
	const before, stall, all = time.Second, 2 * time.Second, 5 * time.Second
	var began atomic.Int64
	start := time.Now()
	address := listen(t, func(int) string {
		since := time.Since(start)
		if since > before && since < before+stall {
			began.CompareAndSwap(0, int64(since))
			time.Sleep(before + stall - since)
		}
		return answer
	})
	o := FixedRate(t.Context(), address, Keeping, 2, 50, all)
	if o.Requests != 250 || len(o.Failures) > 0 {
		t.Fatalf("%d answered, %v failed, want 250 and none", o.Requests, Count(o.Failures))
	}
	// 100 of 250 were due in the stall, evenly: half of these waited for over half of it.
	if p80 := o.Latency.Quantile(0.8); p80 < stall/4 {
		t.Errorf("p80 is %v: the requests that were due in a stall of %v are missing", p80, stall)
	}
	if p50 := o.Latency.Quantile(0.5); p50 > stall/4 {
		t.Errorf("p50 is %v: the requests outside of the stall are late too", p50)
	}
}
