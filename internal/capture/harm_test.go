package capture

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing/closingtest"
	"github.com/forkd/forkd/test/ports"
)

// Whatever the memory becomes meanwhile, the program gets what one of its contents brings.
func TestRacedMemory(t *testing.T) {
	c := children(t)
	fd, ours := listen(t, "tcp4", "127.0.0.1:0")
	other := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(ports.Free(t, 1)))
	for _, test := range []struct {
		families string
		allowed  []string
	}{
		// The kernel reads for itself what goes on.
		{"", []string{"ours", "other", "address already in use"}},
		{"and families", []string{"ours", "other", "address already in use", "address family not supported by protocol"}},
	} {
		args := []string{ours.String(), other.String()}
		if test.families != "" {
			args = append(args, test.families)
		}
		w := start(t, c, program(t, "raced", args...), give(t, fd, ours.Port()))
		got := strings.Split(w.rest(t), "\n")
		for _, result := range got {
			if !slices.Contains(test.allowed, result) {
				t.Errorf("a bind said %q", result)
			}
		}
		if !slices.Contains(got, "ours") || !slices.Contains(got, "other") {
			t.Errorf("no race: %q", got)
		}
	}
}

func TestManyAddresses(t *testing.T) {
	c := children(t)
	port := ports.Free(t, 1)
	w := start(t, c, program(t, "many", fmt.Sprint(port)), leave)
	expect(t, "failed", w.line(t), "0")
	addresses := map[netip.AddrPort]bool{}
	for _, call := range w.seen() {
		addresses[call.Address] = true
	}
	expect(t, "addresses", len(addresses), 10_000)
}

// No answer is lost where signals end calls, and no thread stays behind.
func TestSignals(t *testing.T) {
	storm := compiled(t, "storm.c")
	c := children(t)
	fd, at := listen(t, "tcp4", "127.0.0.1:0")
	for _, signals := range []string{"restart", "interrupt"} {
		w := start(t, c, command(storm, fmt.Sprint(at.Port()), "800", signals), give(t, fd, at.Port()))
		expect(t, "begun", w.line(t), "begun")
		var done, interrupted, wrong, came int
		_, err := fmt.Sscan(w.line(t), &done, &interrupted, &wrong, &came)
		check(t, err)
		t.Logf("%s: %d binds, %d interrupted", signals, done, interrupted)
		if done != 3_200 || wrong != 0 || came != 1 || signals == "restart" && interrupted != 0 {
			t.Errorf("%s: %d binds, %d interrupted, %d wrong, signals came: %d", signals, done, interrupted, wrong, came)
		}
		receive(t, w.served, "Serve's end")
	}
}

// One that binds in a loop gets so many answers a second, and another is served meanwhile.
func TestStorm(t *testing.T) {
	storm := compiled(t, "storm.c")
	c := children(t)
	fd, at := listen(t, "tcp4", "127.0.0.1:0")
	began := time.Now()
	wild := prepare(t, c, command(storm, fmt.Sprint(at.Port()), "0"), true)
	wild.listener.rate = 300
	go wild.serve(give(t, fd, at.Port()))
	expect(t, "begun", wild.line(t), "begun")
	eventually(t, "more than a second's worth", func() bool { return len(wild.seen()) > 150 })
	if n, most := len(wild.seen()), 100*(1+time.Since(began).Seconds())+1; float64(n) > most {
		t.Errorf("%d answers, at most %.0f", n, most)
	}
	calm := start(t, c, command(storm, fmt.Sprint(at.Port()), "250"), give(t, fd, at.Port()))
	expect(t, "begun", calm.line(t), "begun")
	expect(t, "the other's", calm.line(t), "1000 0 0 0")
	check(t, wild.Signal(syscall.SIGKILL))
	receive(t, wild.served, "Serve's end")
}

// Handlers that wait leave room for others, within bounds.
func TestHandlersWait(t *testing.T) {
	c := children(t)
	const threads = maxHandled + 8
	entered, release := make(chan struct{}, threads+1), make(chan struct{})
	w := start(t, c, program(t, "waiting", "127.9.8.6:4321", fmt.Sprint(threads)), func(Call) Answer {
		entered <- struct{}{}
		<-release
		return Answer{Handled: true, Socket: -1}
	})
	for range maxHandled {
		receive(t, entered, "a handler")
	}
	eventually(t, "all threads wait", func() bool {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", w.PID()))
		check(t, err)
		waiting := 0
		for _, file := range files {
			text, err := os.ReadFile(file)
			check(t, err)
			if strings.HasPrefix(string(text), fmt.Sprint(unix.SYS_BIND, " ")) {
				waiting++
			}
		}
		return waiting == threads
	})
	expect(t, "more handlers", len(entered), 0)
	close(release)
	expect(t, "binds", w.rest(t), strings.TrimSuffix(strings.Repeat("<nil>\n", threads+1), "\n"))
}

// The threads whose calls wait end, because their process executes another program.
func TestThreadsDie(t *testing.T) {
	c := children(t)
	fd, at := listen(t, "tcp4", "127.0.0.1:0")
	entered, release := make(chan struct{}, 3), make(chan struct{})
	w := start(t, c, program(t, "waiting", "127.9.8.7:4321", "3", "one", at.String()), func(c Call) Answer {
		if c.Address.Addr() == at.Addr() {
			return give(t, fd, at.Port())(c)
		}
		entered <- struct{}{}
		<-release
		return Answer{Handled: true, Socket: -1}
	})
	for range 3 {
		receive(t, entered, "a handler")
	}
	w.write(t, "\n")
	expect(t, "the next program", w.line(t), "<nil> <nil> <nil>")
	close(release)
	receive(t, w.served, "Serve's end")
}

func TestKilledWhileItWaits(t *testing.T) {
	c := children(t)
	fd, at := listen(t, "tcp4", "127.0.0.1:0")
	entered, release := make(chan struct{}), make(chan struct{})
	w := start(t, c, program(t, "one", at.String()), func(c Call) Answer {
		close(entered)
		<-release
		return give(t, fd, at.Port())(c)
	})
	receive(t, entered, "the handler")
	check(t, w.Signal(syscall.SIGKILL))
	expect(t, "its end", receive(t, w.exited, "its end").Signal, syscall.SIGKILL)
	close(release)
	receive(t, w.served, "Serve's end")
}

// What a process has opened at the number meanwhile stays its own.
func TestReplacedDescriptor(t *testing.T) {
	c := children(t)
	fd, at := listen(t, "tcp4", "127.0.0.1:0")
	entered, release := make(chan struct{}), make(chan struct{})
	w := start(t, c, program(t, "replaced", at.String()), func(c Call) Answer {
		close(entered)
		<-release
		return give(t, fd, at.Port())(c)
	})
	receive(t, entered, "the handler")
	w.write(t, "\n")
	expect(t, "dup2", w.line(t), "<nil>")
	close(release)
	expect(t, "bind", w.line(t), "bad file descriptor")
	expect(t, "it is as it was", w.line(t), "true")
}

// A thread with descriptors of its own: older kernels can't copy from it.
func TestOwnDescriptors(t *testing.T) {
	c := children(t)
	fd, at := listen(t, "tcp4", "127.0.0.1:0")
	for _, thread := range []int{unix.PIDFD_THREAD, 0} {
		w := prepare(t, c, program(t, "apart", at.String()), true)
		w.listener.thread = thread
		go w.serve(give(t, fd, at.Port()))
		want, calls := fmt.Sprintf("true <nil> %d", cookie(t, fd)), 1
		if thread == 0 {
			want, calls = "true address already in use", 0
		}
		expect(t, "unshare", w.line(t), "<nil>")
		if got := w.line(t); !strings.HasPrefix(got, want) {
			t.Errorf("with %#x: %s, want %s", thread, got, want)
		}
		expect(t, "calls", len(w.seen()), calls)
	}
}

// A program may have filters of its own. It can't have a listener beside ours.
func TestOwnFilter(t *testing.T) {
	c := children(t)
	fd, at := listen(t, "tcp4", "127.0.0.1:0")
	w := start(t, c, program(t, "own", at.String()), give(t, fd, at.Port()))
	expect(t, "filters", w.line(t), "<nil> device or resource busy <nil>")
	expect(t, "bind, listen", w.line(t), "<nil> <nil> <nil>")
	expect(t, "calls", len(w.seen()), 2)
}

// Calls of another architecture are nobody's but the program's.
func TestI386(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("only amd64 has calls of i386")
	}
	i386 := compiled(t, "i386.c")
	c := children(t)
	spec := command(i386, fmt.Sprint(ports.Free(t, 1)))
	alone := start(t, c, spec, nil).rest(t)
	expect(t, "alone", alone, "0 0\n0 0")
	w := start(t, c, spec, leave)
	expect(t, "captured", w.rest(t), alone)
	expect(t, "calls", len(w.seen()), 0)
}

// The copy may be the last of a connection whose close(2) waits for its peer.
func TestCopyLingers(t *testing.T) {
	silent := closingtest.Silent(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	check(t, closingtest.Fill(fd, silent))
	closingtest.Returns(t, "discard", func() { new(Listener).discard(fd) })
}
