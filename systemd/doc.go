// Package systemd is how the master and the service manager above it deal with
// each other: what the master says (sd_notify(3)) and gives to keep (the file
// descriptor store), what it is passed (sd_listen_fds(3)), what it can find out
// about its unit, and the unit files themselves. The workers have notify
// sockets and variables of the master's own and never speak to systemd.
//
// It keeps one invariant: whoever tells is never held up, whatever the service
// manager does. It decides nothing.
package systemd
