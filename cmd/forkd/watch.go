package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// watch draws each second until ctx ends, over the last frame on a terminal. An error of
// the first query is returned; later ones are drawn, as the query says.
func watch(ctx context.Context, std stdio, query func(s screen) ([]string, error)) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for first := true; ; first = false {
		s := screenOf(std.out)
		lines, err := query(s)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		}
		if _, err := fmt.Fprint(std.out, drawFrame(s, lines, first)); err != nil {
			return fmt.Errorf("cannot print the status: %v", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// drawFrame clears a terminal before the first frame, and draws over the last one
// after that. Elsewhere frames follow each other.
func drawFrame(s screen, lines []string, first bool) string {
	const (
		home      = "\x1b[H"
		clearAll  = "\x1b[2J"
		clearLine = "\x1b[K"
		clearRest = "\x1b[J"
	)
	switch {
	case s.height > 0 && first:
		return clearAll + home + strings.Join(s.crop(lines), "\n") + "\n"
	case s.height > 0:
		return home + strings.Join(s.crop(lines), clearLine+"\n") + clearLine + "\n" + clearRest
	case first:
		return strings.Join(lines, "\n") + "\n"
	default:
		return "\n" + strings.Join(lines, "\n") + "\n"
	}
}

// crop leaves out the lines for which the screen has no room: frames must not scroll.
func (s screen) crop(lines []string) []string {
	if s.height < 2 || len(lines) < s.height {
		return lines
	}
	rest := len(lines) - (s.height - 2)
	return append(lines[:s.height-2:s.height-2], s.paint(dim, plural(rest, "more line")))
}

// whileRead returns a context that ends when the other end of out, a pipe or a
// socket, is closed: a command that waits for news would notice at the next news only.
func whileRead(ctx context.Context, out *os.File) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	fds := []unix.PollFd{{Fd: int32(out.Fd())}} // POLLERR and POLLHUP are always polled for (poll(2))
	go func() {
		for ctx.Err() == nil {
			const timeout = 500 // ms, to check ctx
			_, err := unix.Poll(fds, timeout)
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
