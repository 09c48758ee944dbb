package sockets

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// CanSteer returns why the kernel takes no program that picks a socket of a group.
func CanSteer() error {
	return try(func(fd int) error {
		if err := share(fd); err != nil {
			return err
		}
		return setProgram(fd, unix.SO_ATTACH_REUSEPORT_CBPF, []bpf.Instruction{bpf.RetConstant{Val: 0}})
	})
}

// CanCount returns why connections of programs can't be counted from outside.
func CanCount() error {
	_, err := Counting{ports: []int{1}}.Connections()
	return err
}

// CanMark returns why sockets can't be marked (SO_MARK, socket(7)), and what to do.
func CanMark() error {
	return try(func(fd int) error {
		err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1)
		if errors.Is(err, unix.EPERM) {
			return errors.New("CAP_NET_ADMIN is missing: grant it (AmbientCapabilities= in a systemd unit, --cap-add NET_ADMIN in Docker)")
		}
		return os.NewSyscallError("setsockopt SO_MARK", err)
	})
}

// MaxBacklog returns net.core.somaxconn of the network namespace, to which the kernel cuts a
// backlog (listen(2)); 0: unknown.
func MaxBacklog() int {
	text, _ := os.ReadFile("/proc/sys/net/core/somaxconn")
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

func try(f func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return f(fd)
}
