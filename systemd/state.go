package systemd

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Reloading is the message that the configuration is being read again; the next READY=1
// ends that. systemd 253 needs the time for its ReloadSignal= (sd_notify(3)).
func Reloading() string {
	var now unix.Timespec
	// It can't fail (clock_gettime(2)).
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond))
}

// Extend is the message that extends the service manager's current timeout to d from
// now (EXTEND_TIMEOUT_USEC in sd_notify(3)).
func Extend(d time.Duration) string {
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", max(d, 0).Microseconds())
}
