package sockets

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A user without any privilege can open, steer and restore.
func TestUnprivileged(t *testing.T) { runHelper(t, helperCommand(t, "unprivileged")) }

func helpUnprivileged() error {
	if err := becomeNobody(); err != nil {
		return err
	}
	s, err := openApp([]Listener{tcp("http", "127.0.0.1", 0)}, 4)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.steer(false, false, true, false); err != nil {
		return err
	}
	for range 20 {
		if err := connectOnce(s.port("http")); err != nil {
			return err
		}
	}
	counts, err := acceptFrom(s, 20)
	if err != nil {
		return err
	}
	if !slices.Equal(counts, []int{0, 0, 20, 0}) {
		return fmt.Errorf("connections by slot: %v", counts)
	}
	fds, err := s.files(1)
	if err != nil {
		return err
	}
	if err := unix.Shutdown(fds[0], unix.SHUT_RDWR); err != nil {
		return err
	}
	if undone, err := s.Restore(1); undone == "" || err != nil {
		return fmt.Errorf("restored: %v, %w", undone, err)
	}
	return nil
}

// connectOnce opens a connection and closes it at once; it stays in the queue.
func connectOnce(port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port})
}

// In a namespace of its own, where no sysctl of the host frees the low ports.
func TestPrivilegedPort(t *testing.T) {
	cmd := helperCommand(t, "privileged")
	cmd.SysProcAttr = namespaces(65534)
	runHelper(t, cmd)
}

func helpPrivilegedPort() error {
	_, err := openApp([]Listener{tcp("http", "", 80)}, 1)
	const want = "cannot listen on :80: ports below 1024 need root or CAP_NET_BIND_SERVICE"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		return fmt.Errorf("got %v, want %s", err, want)
	}
	return nil
}

// To root it is not said that it should be root.
func TestPrivilegedPortOfRoot(t *testing.T) {
	const want = "cannot listen on :80: permission denied: this root is without CAP_NET_BIND_SERVICE"
	if err := (endpoint{}).explain(tcp("http", "", 80), unix.EACCES); os.Geteuid() == 0 && !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Too few descriptors: the error counts them, and nothing stays open.
func TestDescriptorLimit(t *testing.T) { runHelper(t, helperCommand(t, "limit")) }

func helpLimit() error {
	before := openFiles()
	limit := syscall.Rlimit{Cur: 100, Max: 100}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	_, err := openApp([]Listener{tcp("a", "127.0.0.1", 0), tcp("b", "127.0.0.1", 0)}, 80)
	if err == nil {
		return fmt.Errorf("160 sockets fit into a limit of 100")
	}
	want := fmt.Sprintf("too many open files: the sockets need 160 descriptors beside the %d in use, and the limit is 100: raise `ulimit -n`", before)
	if !strings.Contains(err.Error(), want) {
		return fmt.Errorf("got %q, want %q", err, want)
	}
	if after := openFiles(); after != before {
		return fmt.Errorf("%d descriptors before, %d after", before, after)
	}
	return nil
}
