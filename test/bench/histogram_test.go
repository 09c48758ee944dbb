package main

import (
	"math"
	"testing"
	"time"
)

func TestQuantilesAreCloseAtEveryScale(t *testing.T) {
	for scale := time.Duration(1); scale <= 10*time.Second; scale *= 10 {
		var h histogram
		for i := range 1000 {
			h.record(scale * time.Duration(i+1))
		}
		for _, q := range []float64{0.001, 0.5, 0.99, 1} {
			exact := float64(scale) * math.Round(1000*q)
			got := float64(h.quantile(q))
			if got < exact || got > exact*(1+1.0/fine)+1 {
				t.Errorf("scale %v: quantile %v is %v, want %v and at most 1/%d more", scale, q, got, exact, fine)
			}
		}
	}
}

func TestHistogramsAddUp(t *testing.T) {
	var fast, slow histogram
	for range 99 {
		fast.record(time.Millisecond)
	}
	slow.record(time.Hour)
	fast.add(&slow)
	if got := fast.quantile(0.99); got > 2*time.Millisecond {
		t.Errorf("p99 is %v: 99 of 100 took a millisecond", got)
	}
	if got := fast.quantile(1); got < time.Hour {
		t.Errorf("the longest is %v, want an hour", got)
	}
	if got := (&histogram{}).quantile(0.99); got != 0 {
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

func TestQuartiles(t *testing.T) {
	low, mid, high := quartiles([]float64{5, 1, 3, 2, 4})
	if low != 2 || mid != 3 || high != 4 {
		t.Errorf("quartiles of 1..5 are %v, %v, %v", low, mid, high)
	}
	if mid := median([]float64{1, 2}); mid != 1.5 {
		t.Errorf("the median of 1 and 2 is %v", mid)
	}
}
