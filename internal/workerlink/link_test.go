package workerlink

import (
	"testing"

	"github.com/forkd/forkd/internal/closing"
	"github.com/forkd/forkd/ipc"
)

// The page may be read on another goroutine than the one that closes the link.
func TestCountersWhileItCloses(t *testing.T) {
	l, err := Open(Config{Dir: t.TempDir(), Name: "notify", UID: -1, GID: -1, Channel: ipc.ChannelForkd, Closer: new(closing.Closer)})
	if err != nil {
		t.Fatal(err)
	}
	page, err := ipc.OpenPage(l.Files()[1])
	if err != nil {
		t.Fatal(err)
	}
	page.Attach(false)
	page.Opened()
	read, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for c, known := l.Counters(); known; c, known = l.Counters() {
			if c.Accepts != 1 {
				t.Errorf("counted %+v", c)
				return
			}
			select {
			case read <- struct{}{}:
			default:
			}
		}
	}()
	<-read
	l.Close()
	<-ended
}
