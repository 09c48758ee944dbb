package worker

import "github.com/forkd/forkd/ipc"

// StartPassed is New with what a master passes, and without the changes to the process.
func StartPassed(passed ipc.Passed) *Worker { return start(passed, nil, "") }
