package process

import "golang.org/x/sys/unix"

// The calls that other platforms do not have.
const (
	sysEpollWait = unix.SYS_EPOLL_WAIT
	sysPoll      = unix.SYS_POLL
	sysSelect    = unix.SYS_SELECT
)
