// Package process starts the workers, signals them and reaps whatever dies.
//
// A worker is born in two steps. One locked thread forks the master's own
// binary as the shim, which sheds what is the master's (descriptors,
// capabilities, user, signal state, OOM score) and becomes the worker's program.
// One goroutine reaps, for the workers and for every stranger that the master,
// as subreaper or as PID 1, inherits.
//
// The invariant: a worker stays unreaped for as long as another process of its
// group lives. So its pid, which is the group's number too, can't be given to
// somebody else while anyone may still signal either of them, and nothing that a
// worker leaves behind is forgotten.
//
// A program that uses Children must not wait for processes by other means:
// os/exec's Wait would find its child reaped. The package decides nothing: when
// to start, whom to signal and what an exit means is its caller's.
package process
