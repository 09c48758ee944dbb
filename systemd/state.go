package systemd

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Reloading is what to tell when the configuration is about to be read again;
// the next READY=1 ends it. systemd 253 takes it for the answer to its
// ReloadSignal= only with the time of CLOCK_MONOTONIC (sd_notify(3)).
func Reloading() string {
	var now unix.Timespec
	// It can't fail: the clock is always there (clock_gettime(2)).
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond))
}

// Extend is what to tell so that the service manager waits for as long as d
// from now for whatever it waits for, a start, a stop, whatever its own
// timeouts say (EXTEND_TIMEOUT_USEC in sd_notify(3)).
func Extend(d time.Duration) string {
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", max(d, 0).Microseconds())
}
