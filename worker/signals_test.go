package worker

import (
	"testing"
	"time"
)

// Two deliveries of one request count once: the second is too early to end the worker.
func TestSecondSignal(t *testing.T) {
	first := time.Now()
	for _, test := range []struct {
		first time.Time
		after time.Duration
		want  bool
	}{
		{time.Time{}, time.Hour, false},
		{first, 0, false},
		{first, time.Millisecond, false},
		{first, repeatWindow, true},
		{first, time.Hour, true},
	} {
		if got := isSecond(test.first, first.Add(test.after)); got != test.want {
			t.Errorf("%v after the first: %v", test.after, got)
		}
	}
}
