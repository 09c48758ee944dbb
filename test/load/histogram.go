package load

import (
	"math/bits"
	"time"
)

// A Histogram counts durations in buckets that are 1/64 of their power of two
// wide, so that a quantile is at most 1.6 % off, whatever the range. The zero
// value is empty. It belongs to one goroutine; add joins those of several.
type Histogram struct {
	buckets [bucketCount]uint64
	count   uint64
}

const (
	fineBits    = 6
	fine        = 1 << fineBits
	bucketCount = (64 - fineBits + 1) * fine
)

// Record counts one duration.
func (h *Histogram) Record(d time.Duration) {
	h.buckets[bucket(d)]++
	h.count++
}

func (h *Histogram) add(other *Histogram) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.count += other.count
}

// Quantile returns the duration that a share q of all is not longer than, 0
// when there is none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := max(1, uint64(q*float64(h.count)+0.5))
	for i, n := range h.buckets {
		if n >= rank {
			return longest(i)
		}
		rank -= n
	}
	return 0
}

func bucket(d time.Duration) int {
	v := uint64(max(0, d))
	if v < fine {
		return int(v)
	}
	shift := bits.Len64(v) - fineBits - 1
	return shift<<fineBits + int(v>>shift)
}

// longest is the upper end of a bucket.
func longest(bucket int) time.Duration {
	if bucket < fine {
		return time.Duration(bucket)
	}
	shift := bucket>>fineBits - 1
	return time.Duration((uint64(bucket-shift<<fineBits)+1)<<shift - 1)
}
