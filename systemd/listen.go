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
	Name   string // FileDescriptorName=, the socket unit's name, or its name in the store; "": none
}

const (
	firstFD = 3     // SD_LISTEN_FDS_START
	maxFDs  = 65536 // more than any store or socket unit may hold
)

// ListenFDs returns the descriptors passed to this process, as
// sd_listen_fds_with_names(3) does, sets them close-on-exec and removes the variables, so
// that children do not use them. None if LISTEN_PID is another process. The error, for
// users, says that the variables are wrong or a descriptor is not open.
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

// parseListen parses the three variables for the process pid.
func parseListen(forPID, count, names string, pid int) ([]FD, error) {
	meant, err := strconv.Atoi(forPID)
	switch {
	case forPID == "":
		return nil, nil
	case err != nil || meant <= 0:
		return nil, fmt.Errorf("cannot read LISTEN_PID: %s is not the number of a process: unset it, or let systemd set it", quote(forPID))
	case meant != pid || count == "":
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n <= 0 || n > maxFDs {
		return nil, fmt.Errorf("cannot read LISTEN_FDS: %s is not a number of descriptors from 1 to %d: unset it, or let systemd set it", quote(count), maxFDs)
	}
	// Counted before they are split, so that a long list takes no memory.
	if got := strings.Count(names, ":") + 1; names != "" && got != n {
		return nil, fmt.Errorf("cannot read LISTEN_FDNAMES: it has %d names for %d descriptors: unset it, or let systemd set it", got, n)
	}
	fds := make([]FD, n)
	for i := range fds {
		fds[i].Number = firstFD + i
		fds[i].Name, names, _ = strings.Cut(names, ":")
	}
	return fds, nil
}

// quote quotes at most 32 bytes of a value.
func quote(value string) string {
	const enough = 32
	if len(value) > enough {
		return strconv.Quote(value[:enough]) + "..."
	}
	return strconv.Quote(value)
}
