package systemd

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FD is a descriptor that the service manager has passed.
type FD struct {
	Number int
	Name   string // its FileDescriptorName= or the socket unit's; what it was stored as; "" where nobody named it
}

const (
	firstFD = 3     // SD_LISTEN_FDS_START
	maxFDs  = 65536 // more than any store or socket unit may hold; a number beyond it is a mistake
)

// ListenFDs takes the descriptors that were passed to this process, as
// sd_listen_fds_with_names(3) does, out of the environment: who is started from
// here never takes them for its own. They are close-on-exec from now on. None
// where LISTEN_PID names another process. The error is for users: what was
// passed makes no sense, or is not there.
func ListenFDs() ([]FD, error) {
	fds, err := parseListen(os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES"), os.Getpid())
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(name)
	}
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd.Number), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("cannot use the sockets that were passed: LISTEN_FDS says %d, but descriptor %d is not open: start forkd by what passes them, and with nothing between that closes them", len(fds), fd.Number)
		}
	}
	return fds, nil
}

// parseListen reads the three variables for the process pid.
func parseListen(forPID, count, names string, pid int) ([]FD, error) {
	if forPID == "" {
		return nil, nil
	}
	meant, err := strconv.Atoi(forPID)
	switch {
	case err != nil || meant <= 0:
		return nil, fmt.Errorf("cannot read LISTEN_PID: %s is not the number of a process: unset it, or let systemd set it", quote(forPID))
	case meant != pid:
		return nil, nil
	}
	if count == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n <= 0 || n > maxFDs {
		return nil, fmt.Errorf("cannot read LISTEN_FDS: %s is not a number of descriptors from 1 to %d: unset it, or let systemd set it", quote(count), maxFDs)
	}
	called := make([]string, n)
	if names != "" {
		// Counted before they are cut up: a long list is not worth the memory.
		if got := strings.Count(names, ":") + 1; got != n {
			return nil, fmt.Errorf("cannot read LISTEN_FDNAMES: it has %d names for %d descriptors: unset it, or let systemd set it", got, n)
		}
		called = strings.Split(names, ":")
	}
	fds := make([]FD, n)
	for i := range fds {
		fds[i] = FD{Number: firstFD + i, Name: called[i]}
	}
	return fds, nil
}

// quote shows a value, and no more of it than fits in a line.
func quote(value string) string {
	const enough = 32
	if len(value) > enough {
		return strconv.Quote(value[:enough]) + "..."
	}
	return strconv.Quote(value)
}
