package load

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// tick is how often the pacer looks at the clock: it bounds how late a request
// may start by the pacer's own fault.
const tick = 100 * time.Microsecond

// pace sends count due times, rate a second from start on, each when it has
// come. Timers of the Go runtime may be a millisecond late on an idle machine;
// a thread of its own that sleeps in the kernel is not (prctl(2),
// PR_SET_TIMERSLACK).
func pace(ctx context.Context, start time.Time, rate float64, count int, due chan<- time.Time) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }() // 0: the default again

	for sent := 0; sent < count && ctx.Err() == nil; {
		elapsed := time.Since(start)
		for sent < count {
			offset := time.Duration(float64(sent) / rate * float64(time.Second))
			if offset > elapsed {
				break
			}
			due <- start.Add(offset)
			sent++
		}
		nap := unix.NsecToTimespec(int64(tick))
		_ = unix.Nanosleep(&nap, nil)
	}
}
