package supervisor

import (
	"context"
	"testing"
)

// An app may end, and with it the context of every request, before the one that
// ended it is answered.
func TestStopOfAnAppThatEndsIsDone(t *testing.T) {
	t.Parallel()
	ctx, end := context.WithCancel(t.Context())
	b := &backend{loop: &loop{inbox: newInbox()}}
	go func() {
		<-b.loop.posts
		end()
	}()
	if err := b.Stop(ctx, false); err != nil {
		t.Error(err)
	}
}
