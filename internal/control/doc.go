// Package control is how people and programs talk to a running app: the control
// socket's paths and replies (docs/contract.md, sections 5 and 9), its server in
// the master, its client in the forkd command, and the runtime directory in
// which both meet.
//
// The invariant it keeps: one live master per name and directory, by a lock that
// dies with the process; and no client, however slow, silent or many, holds up
// the master or makes its memory grow. It decides nothing about workers: what is
// asked goes to a [Backend], what is seen comes from it.
package control
