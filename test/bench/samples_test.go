package main

import "testing"

func TestQuartiles(t *testing.T) {
	low, mid, high := quartiles([]float64{5, 1, 3, 2, 4})
	if low != 2 || mid != 3 || high != 4 {
		t.Errorf("quartiles of 1..5 are %v, %v, %v", low, mid, high)
	}
	if mid := median([]float64{1, 2}); mid != 1.5 {
		t.Errorf("the median of 1 and 2 is %v", mid)
	}
}
