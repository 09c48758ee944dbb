// Package control is how people and programs talk to a running app: the control
// socket's paths and replies (docs/contract.md, sections 5 and 9), its server in the
// master, its client for the forkd command, and the runtime directory where the
// client finds the socket.
//
// The invariant it keeps: one live master per name and directory, by a lock that
// dies with the process; and no client, however slow, silent or many, blocks the
// master or makes its memory grow. It decides nothing about workers: requests go to
// a [Backend], answers come from it.
package control
