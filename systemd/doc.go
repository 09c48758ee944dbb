// Package systemd talks to the service manager of the master: notifications
// (sd_notify(3)), the file descriptor store, passed sockets (sd_listen_fds(3)),
// properties of its unit, and the unit files. Workers get notify sockets and variables
// from the master and never talk to systemd.
//
// The invariant: no caller blocks, whatever the service manager does.
package systemd
