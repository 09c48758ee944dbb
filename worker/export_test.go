package worker

import (
	"time"

	"github.com/forkd/forkd/ipc"
)

// StartPassed is New with what a master passes, and without the changes to the process. A
// successor has as long for a reply as a test gives it.
func StartPassed(passed ipc.Passed, replyWithin time.Duration) *Worker {
	w := start(passed, nil, "")
	w.handoff.mu.Lock()
	defer w.handoff.mu.Unlock()
	w.handoff.replyWithin = replyWithin
	return w
}
