package load

import (
	"math"
	"testing"
	"time"
)

func TestQuantilesAreCloseAtEveryScale(t *testing.T) {
	for scale := time.Duration(1); scale <= 10*time.Second; scale *= 10 {
		var h Histogram
		for i := range 1000 {
			h.Record(scale * time.Duration(i+1))
		}
		for _, q := range []float64{0.001, 0.5, 0.99, 1} {
			exact := float64(scale) * math.Round(1000*q)
			got := float64(h.Quantile(q))
			if got < exact || got > exact*(1+1.0/fine)+1 {
				t.Errorf("scale %v: quantile %v is %v, want %v and at most 1/%d more", scale, q, got, exact, fine)
			}
		}
	}
}

func TestHistogramsAddUp(t *testing.T) {
	var fast, slow Histogram
	for range 99 {
		fast.Record(time.Millisecond)
	}
	slow.Record(time.Hour)
	fast.add(&slow)
	if got := fast.Quantile(0.99); got > 2*time.Millisecond {
		t.Errorf("p99 is %v: 99 of 100 took a millisecond", got)
	}
	if got := fast.Quantile(1); got < time.Hour {
		t.Errorf("the longest is %v, want an hour", got)
	}
	if got := (&Histogram{}).Quantile(0.99); got != 0 {
		t.Errorf("p99 of nothing is %v", got)
	}
}

func TestBucketsLeaveNoGap(t *testing.T) {
	for i := range bucketCount - fine {
		if end := longest(i); bucket(end) != i || end < math.MaxInt64 && bucket(end+1) != i+1 {
			t.Fatalf("bucket %d ends at %d, which is in %d and followed by %d", i, end, bucket(end), bucket(end+1))
		}
		if longest(i) == math.MaxInt64 {
			return
		}
	}
	t.Error("the longest duration fits into no bucket")
}
