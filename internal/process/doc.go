// Package process starts workers, signals them and reaps all children.
//
// A worker starts in two steps. One locked thread forks the master's own binary as the
// shim, which drops what belongs to the master (descriptors, capabilities, user, signal
// state, OOM score) and then executes the worker's program. One goroutine reaps: workers,
// and the foreign children that the master gets as subreaper or PID 1.
//
// The invariant: a worker is not reaped while another process of its group lives. So its
// pid, which is also the group's number, can't be reused while either may be signaled, and
// no left-over process is lost.
//
// A program that uses Children must not wait for processes by other means: os/exec's Wait
// would find its child reaped. When to start, whom to signal and what an exit means is
// decided by the caller.
package process
