package control

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// helperVariable makes the test binary a master of its own: its value is the
// directory and the name of the app.
const helperVariable = "CONTROL_TEST_MASTER"

// groupVariable makes it take a name for a group that it is not in: its value is
// the directory.
const groupVariable = "CONTROL_TEST_GROUP"

// fullVariable makes that master one without descriptors.
const fullVariable = "CONTROL_TEST_FULL"

// squatVariable makes it bind its value, a name, and listen too where it is not the
// tests' own user, until its stdin ends.
const squatVariable = "CONTROL_TEST_SQUAT"

func TestMain(m *testing.M) {
	if name := os.Getenv(squatVariable); name != "" {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: name})
		}
		if err == nil && os.Getuid() == 65534 {
			err = unix.Listen(fd, 1)
		}
		fmt.Println(err)
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	if dir := os.Getenv(groupVariable); dir != "" {
		place, err := createIn(dir, "shop", 12345)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		place.Remove()
		os.Exit(0)
	}
	if place := os.Getenv(helperVariable); place != "" {
		if err := master(filepath.Dir(place), filepath.Base(place)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// master takes the name, starts a child that outlives it, says so with the
// child's pid, and serves until it is asked to stop.
func master(dir, app string) error {
	place, err := createIn(dir, app, -1)
	if err != nil {
		return err
	}
	defer place.Remove()
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &fake{app: sample(), stop: func(bool) { cancel() }}
	b.happen("up", "")
	b.say(0, "up")
	l := newListener(ctx, &place.listener, patient())
	if os.Getenv(fullVariable) != "" {
		err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: 64})
		for err == nil {
			_, err = unix.Open(os.DevNull, unix.O_RDONLY, 0)
		}
	}
	fmt.Println(child.Process.Pid)
	return newAPI(b, patient(), access{owner: os.Geteuid(), group: -1}).serveOn(ctx, l)
}

// startMaster runs the master of shop in a process of its own. Its child is killed when
// the test ends.
func startMaster(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"="+filepath.Join(dir, "shop"), "GORACE=atexit_sleep_ms=0") // else it takes a second to end
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the master has not started: %v", err)
	}
	child := 0
	if _, err := fmt.Sscan(strings.TrimSpace(line), &child); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = syscall.Kill(child, syscall.SIGKILL) // it sleeps, and nobody reuses a living pid
	})
	return cmd
}
