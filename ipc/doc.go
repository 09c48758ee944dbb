// Package ipc is the contract between the master and a worker: the names of the
// environment variables, the numbers of the passed descriptors, the messages of
// the channel and the page of counters. Both sides use it, and a worker in
// another language may be written from it.
//
// It keeps one invariant: whatever the other side sends or writes, reading it is
// bounded and ends in a value or in an error that says what was wrong.
//
// It decides nothing and starts no goroutine: who may send what, and what
// follows from a message, is for the callers.
package ipc
