package main

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// whileRead returns a context that ends when nobody can read out any more: a pipe
// or a socket whose other end is closed. A command that waits for news would notice
// that at the next news only. The second result ends the context and its goroutine.
func whileRead(ctx context.Context, out *os.File) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	fds := []unix.PollFd{{Fd: int32(out.Fd())}} // POLLERR and POLLHUP are always asked for (poll(2))
	go func() {
		for ctx.Err() == nil {
			const look = 500 // ms between looks at ctx; the end of the reader is noticed at once
			_, err := unix.Poll(fds, look)
			switch {
			case err != nil && err != unix.EINTR:
				return
			case err == nil && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0:
				cancel()
			}
		}
	}()
	return ctx, cancel
}
