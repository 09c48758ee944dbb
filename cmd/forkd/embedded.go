package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/fleet"
)

// embeddedCommand is the process of redis.url = "embedded": a master starts it, and
// nobody types it. It serves the listening socket that it gets as descriptor 3, and
// ends with its parent.
func embeddedCommand() *cobra.Command {
	var parent int
	cmd := &cobra.Command{
		Use:    "embedded-redis",
		Short:  "serve a small Redis on descriptor 3",
		Hidden: true,
		Args:   exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, err := whileParentLives(cmd.Context(), parent)
			if err != nil {
				return err
			}
			ln, err := passedListener()
			if err != nil {
				return err
			}
			// What is sent to all (by a terminal, by a service manager) is the master's
			// to act on. The name is what top shows: it is run as /proc/self/exe.
			signal.Ignore(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGTERM)
			_ = os.WriteFile("/proc/self/comm", []byte("forkd-redis"), 0)
			if err := fleet.ServeEmbedded(ctx, ln); err != nil && ctx.Err() == nil {
				return fmt.Errorf("cannot serve Redis: %v", err)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&parent, "parent", 0, "the `PID` of who has started it; 0: whoever is its parent")
	return cmd
}

// embeddedCommandLine is how a master starts it.
func embeddedCommandLine() []string { return []string{"forkd", "embedded-redis"} }

// passedListener is the listening socket on descriptor 3.
func passedListener() (net.Listener, error) {
	const fd = 3
	file := os.NewFile(fd, "listener")
	ln, err := net.FileListener(file)
	if err != nil {
		return nil, usage("descriptor %d is no listening socket: forkd run starts this by itself, for redis.url = %q", fd, "embedded")
	}
	_ = file.Close() // ln has its own
	return ln, nil
}

// whileParentLives returns a context that ends with the parent process. A
// parent-death signal would not do: it is of the thread that has forked.
func whileParentLives(ctx context.Context, parent int) (context.Context, error) {
	if parent == 0 {
		parent = unix.Getppid()
	}
	pidfd, err := unix.PidfdOpen(parent, 0)
	if err != nil || unix.Getppid() != parent {
		return ctx, fmt.Errorf("the master, process %d, is gone", parent)
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		defer unix.Close(pidfd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
			if err != unix.EINTR {
				return
			}
		}
	}()
	return ctx, nil
}
