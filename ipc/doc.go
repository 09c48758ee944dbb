// Package ipc is the contract between the master and a worker: environment variables,
// descriptor numbers, the messages of the channel, and the counters page. A worker in
// another language may be written from it.
//
// Whatever the other side writes, reading it takes bounded time and memory and returns a
// value or an error that says what is wrong. The package starts no goroutine, and does
// not know who may send what.
package ipc
