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
