package supervisor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/forkd/forkd/internal/pool"
)

// A worker without a socket, in an app that learns none, gives watch nothing to see.
func TestWatchEndsWithTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, w := &executor{inbox: newInbox()}, &worker{release: &release{}, look: make(chan struct{}, 1), gone: make(chan struct{})}
		w.inodes.Store(new([]uint64))
		go w.watch(e)
		for range 100 {
			time.Sleep(watchInterval)
			w.lookNow()
		}
		synctest.Wait()
		if n := e.watching.Load(); n != 1 {
			t.Fatalf("%d workers are looked at while one is starting", n)
		}
		w.becomes(pool.StateReady)
		time.Sleep(watchInterval)
		synctest.Wait()
		if n := e.watching.Load(); n != 0 {
			t.Fatalf("%d workers are looked at after the start", n)
		}
	})
}

// A worker that has said that it is ready is seen to wait within a moment, whatever a look
// takes; one that takes long to start costs little.
func TestLooks(t *testing.T) {
	const long = 3 * time.Millisecond
	at, n := time.Duration(0), 0
	for interval := watchAtOnce; at < 4*time.Millisecond; n++ {
		interval = nextLook(interval, long, 1) // after the one at once
		at += interval
	}
	if n < 3 {
		t.Errorf("%d looks in the first %v", n, at)
	}
	for _, test := range []struct {
		took    time.Duration
		watched int
		want    time.Duration // in the end
	}{{0, 1, watchInterval}, {long, 1, watchInterval}, {0, 100, 100 * watchClosely}, {time.Second, 1, watchShare * time.Second}} {
		interval := watchClosely
		for range 100 {
			interval = nextLook(interval, test.took, test.watched)
		}
		if interval != test.want {
			t.Errorf("%+v: %v", test, interval)
		}
	}
}
