package capture

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A program gets the socket at its descriptor, with its flag of that, and nothing else of
// it changes.
func TestAnswered(t *testing.T) {
	for _, test := range []struct {
		network, address, options string
	}{
		{"tcp4", "127.0.0.1:0", ""},
		{"tcp4", "127.0.0.1:0", "n"},
		{"tcp4", "0.0.0.0:0", "e"},
		{"tcp6", "[::1]:0", "ne"},
		{"tcp6", "[::]:0", "6"},
		{"tcp", "[::]:0", "e"},
	} {
		for _, thread := range []int{unix.PIDFD_THREAD, 0} {
			t.Run(fmt.Sprint(test, thread), func(t *testing.T) {
				c := children(t)
				fd, at := listen(t, test.network, test.address)
				w := prepare(t, c, program(t, "one", at.String(), test.options), true)
				w.listener.thread = thread
				go w.serve(give(t, fd, at.Port()))
				expect(t, "bind, listen", w.line(t), "<nil> <nil> <nil>")
				calls := w.seen()
				if len(calls) != 2 {
					t.Fatalf("calls: %+v", calls)
				}
				first, second := calls[0], calls[1]
				closeOnExec := !strings.Contains(test.options, "e")
				expect(t, "it is", w.line(t), fmt.Sprintf("%d %d %d %t <nil>", first.FD, at.Port(), cookie(t, fd), closeOnExec))
				want := Call{
					PID: w.PID(), FD: first.FD, Socket: first.Socket, Cookie: first.Cookie, Network: "tcp", Address: at, V6: at.Addr().Is6(),
					V6Only: strings.Contains(test.options, "6"), Nonblocking: strings.Contains(test.options, "n"), CloseOnExec: closeOnExec,
				}
				expect(t, "bind", first, want)
				only, _ := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
				want.Listen, want.Socket, want.Cookie, want.Nonblocking, want.V6Only = true, second.Socket, cookie(t, fd), true, only != 0
				expect(t, "listen", second, want)
				receive(t, w.served, "Serve's end")
			})
		}
	}
}

// The same program prints the same, captured or not.
func TestOthersGoOn(t *testing.T) {
	c := children(t)
	_, taken := listen(t, "tcp4", "127.0.0.1:0")
	free := netip.AddrPortFrom(netip.MustParseAddr("127.9.8.7"), taken.Port())
	path := filepath.Join(t.TempDir(), "socket")
	spec := program(t, "odd", free.String(), taken.String(), path)
	alone := start(t, c, spec, nil).rest(t)
	check(t, os.Remove(path))
	w := start(t, c, spec, leave)
	captured := w.rest(t)
	a, b := strings.Split(alone, "\n"), strings.Split(captured, "\n")
	for i := range min(len(a), len(b)) {
		expect(t, "captured", b[i], a[i])
	}
	if len(a) < 50 || len(a) != len(b) {
		t.Errorf("%d lines alone, %d captured:\n%s", len(a), len(b), captured)
	}
	got := map[string]int{}
	for _, call := range w.seen() {
		if call.Listen {
			got["listen"]++
		} else {
			got[call.Address.String()]++
		}
	}
	there := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), free.Port())
	// The free one: twice, and with the lengths 16, 17, 128. listen: of port 0, which is one by now.
	expect(t, "asked", fmt.Sprint(got), fmt.Sprint(map[string]int{taken.String(): 1, there.String(): 1, free.String(): 4, "listen": 1}))
}

func TestPaths(t *testing.T) {
	c := children(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	check(t, os.Mkdir(filepath.Join(dir, "gone"), 0o700))
	check(t, os.Mkdir(filepath.Join(dir, "proc"), 0o700))
	for _, test := range []struct {
		name string
		args []string
		want string // "": nobody is asked
	}{
		{"absolute", []string{dir + "//x/../absolute", dir}, dir + "/absolute"},
		{"relative", []string{"relative", dir}, dir + "/relative"},
		{"above", []string{"../above", dir + "/proc"}, dir + "/above"},
		{"descriptor", []string{"/proc/self/cwd/mine", dir}, ""},
		{"removed directory", []string{"x", dir + "/gone", "remove"}, ""},
	} {
		if test.name == "absolute" {
			check(t, os.Mkdir(filepath.Join(dir, "x"), 0o700))
		}
		spec := program(t, "path", test.args...)
		w := start(t, c, spec, func(call Call) Answer {
			return Answer{Handled: true, Socket: -1}
		})
		line, calls := w.rest(t), w.seen()
		if test.want == "" {
			if went := map[bool]string{true: "<nil> <nil> <nil>", false: "<nil> no such file or directory invalid argument"}[test.name == "descriptor"]; len(calls) != 0 || line != went {
				t.Errorf("%s: %s, %+v", test.name, line, calls)
			}
			continue
		}
		if len(calls) != 1 || calls[0].Path != test.want || calls[0].Network != "unix" || calls[0].Address.IsValid() || line != "<nil> <nil> invalid argument" {
			t.Errorf("%s: %s, %+v", test.name, line, calls)
		}
	}
	w := start(t, c, program(t, "path", "bound", dir), leave)
	expect(t, "bound and listening", w.line(t), "<nil> <nil> <nil>")
	calls := w.seen()
	if len(calls) != 2 || calls[1].Path != dir+"/bound" || !calls[1].Listen || calls[1].Cookie != calls[0].Cookie {
		t.Errorf("%+v", calls)
	}
}

// What is at an address of another namespace or root is nothing of the caller's.
func TestElsewhere(t *testing.T) {
	c := children(t)
	for _, test := range [][]string{{"net", "0.0.0.0:4321"}, {"mount", t.TempDir() + "/x", "/"}, {"root", "/x", "/"}} {
		w := start(t, c, program(t, "elsewhere", append([]string{t.TempDir()}, test...)...), leave)
		expect(t, test[0], w.line(t), "<nil>")
		expect(t, test[0], w.line(t), "<nil> <nil> <nil>")
		want := 0
		if test[0] == "net" {
			want = 1 // listen(2): the socket may be one that was passed to the worker
		}
		if calls := w.seen(); len(calls) != want {
			t.Errorf("%s: %+v", test[0], calls)
		}
	}
}

func TestPython(t *testing.T) {
	c := children(t)
	fd, at := listen(t, "tcp4", "127.0.0.1:0")
	check(t, unix.SetNonblock(fd, false))
	spec := command("/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", t.TempDir(), fmt.Sprint(at.Port()))
	w := start(t, c, spec, give(t, fd, at.Port()))
	eventually(t, "it listens", func() bool { return len(w.seen()) == 2 })
	expect(t, "answer", get(t, at), http.StatusOK)
}

// fork between bind(2) and listen(2).
func TestFork(t *testing.T) {
	c := children(t)
	fd, at := listen(t, "tcp4", "127.0.0.1:0")
	check(t, unix.SetNonblock(fd, false))
	w := start(t, c, command("/usr/bin/python3", "-c", `import os, socket, sys
s = socket.socket()
s.bind(("127.0.0.1", int(sys.argv[1])))
if os.fork() == 0:
    s.listen(5)
    c, _ = s.accept()
    c.sendall(b"child")
    os._exit(0)
print(os.wait()[1], flush=True)`, fmt.Sprint(at.Port())), give(t, fd, at.Port()))
	client, err := net.Dial("tcp4", at.String())
	check(t, err)
	defer client.Close()
	text, err := io.ReadAll(client)
	check(t, err)
	expect(t, "its answer", string(text), "child")
	expect(t, "its status", w.line(t), "0")
	calls := w.seen()
	if len(calls) != 2 || calls[0].PID != w.PID() || calls[1].PID == w.PID() || calls[1].PID <= 1 {
		t.Errorf("%+v", calls)
	}
}

// A static program of Go, whose socket is one of MPTCP.
func TestStaticGo(t *testing.T) {
	c := children(t)
	fd, at := listen(t, "tcp", "[::]:0")
	path := filepath.Join(t.TempDir(), "server")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "testdata/server.go")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w := start(t, c, command(path, fmt.Sprintf(":%d", at.Port())), give(t, fd, at.Port()))
	expect(t, "its address", w.line(t), at.String())
	expect(t, "answer", get(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())), http.StatusOK)
	if calls := w.seen(); len(calls) != 2 || !calls[0].V6 || calls[0].V6Only || !calls[0].Nonblocking || !calls[0].CloseOnExec {
		t.Errorf("%+v", calls)
	}
}

func get(t *testing.T, at netip.AddrPort) int {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	answer, err := client.Get("http://" + at.String())
	check(t, err)
	defer answer.Body.Close()
	_, err = io.ReadAll(answer.Body)
	check(t, err)
	return answer.StatusCode
}
