package main

import (
	"cmp"
	"slices"
)

// quartiles returns the lower quartile, the median and the upper quartile of
// values, linearly interpolated.
func quartiles[T ~int64 | ~float64](values []T) (low, median, high T) {
	sorted := slices.SortedFunc(slices.Values(values), cmp.Compare[T])
	at := func(q float64) T {
		if len(sorted) == 0 {
			return 0
		}
		place := q * float64(len(sorted)-1)
		below := int(place)
		above := min(below+1, len(sorted)-1)
		part := place - float64(below)
		return T(float64(sorted[below])*(1-part) + float64(sorted[above])*part)
	}
	return at(0.25), at(0.5), at(0.75)
}

func median[T ~int64 | ~float64](values []T) T {
	_, m, _ := quartiles(values)
	return m
}
