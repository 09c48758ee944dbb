package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// inTerminal runs a command in a terminal of its own, copies what the command
// prints there to stdout, and exits as the command does. What it reads from the
// file (a FIFO) that its first argument names is typed, but for a line "hang up",
// which closes the terminal.
func inTerminal() {
	terminal, tty := openTerminal()
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	orDie(cmd.Start())
	tty.Close()
	copied := make(chan struct{})
	go func() {
		_, _ = io.Copy(os.Stdout, terminal) // EIO when the last one has closed it
		close(copied)
	}()
	go typeInto(terminal, os.Args[1])
	err := cmd.Wait()
	<-copied
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
	orDie(err)
}

func typeInto(terminal *os.File, path string) {
	// For writing too, so that it does not end with the first who types.
	fifo, err := os.OpenFile(path, os.O_RDWR, 0)
	orDie(err)
	for lines := bufio.NewScanner(fifo); lines.Scan(); {
		if lines.Text() == "hang up" {
			orDie(terminal.Close())
			continue
		}
		_, err := io.WriteString(terminal, lines.Text())
		orDie(err)
	}
}

// openTerminal makes a pseudoterminal (pty(7)).
func openTerminal() (terminal, tty *os.File) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	orDie(err)
	raw, err := terminal.SyscallConn()
	orDie(err)
	number := 0
	orDie(raw.Control(func(fd uintptr) {
		orDie(unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
		orDie(unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0))
		number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		orDie(err)
	}))
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	orDie(err)
	return terminal, tty
}
