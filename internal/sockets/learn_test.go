package sockets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/test/ports"
)

const nobody = 65534

// bound is a program of a user with a socket that it has bound.
func bound(t *testing.T, protocol, uid int, p Program) Program {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	check(t, unix.Setfsuid(uid))
	defer unix.Setfsuid(os.Geteuid()) //nolint:errcheck // it is this thread's own
	family, address := unix.AF_UNIX, unix.Sockaddr(&unix.SockaddrUnix{Name: p.Path})
	switch {
	case p.Network == "unix":
	case p.V6:
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Addr: p.Address.Addr().As16(), Port: int(p.Address.Port())}
	default:
		family, address = unix.AF_INET, &unix.SockaddrInet4{Addr: p.Address.Addr().As4(), Port: int(p.Address.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	if p.V6 {
		only := map[bool]int{true: 1}[p.V6Only]
		check(t, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only))
	}
	check(t, unix.Bind(fd, address))
	p.Socket = fd
	return p
}

func binding(host string, port int, v6, v6only bool) Program {
	return Program{Network: "tcp", Address: netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port)), V6: v6, V6Only: v6only}
}

// replace puts the slot's socket in the place of the program's, as the caller of Learn does.
func replace(t *testing.T, a *testApp, p Program) {
	t.Helper()
	check(t, unix.Dup3(a.take(t, 0, p), p.Socket, unix.O_CLOEXEC))
}

// Every kind of socket that a program can bind, its own user's or another's.
func TestLearn(t *testing.T) {
	sameFiles(t)
	users := []int{os.Getuid()}
	if os.Getuid() == 0 {
		users = append(users, nobody)
	}
	for _, uid := range users {
		for _, protocol := range []int{unix.IPPROTO_TCP, unix.IPPROTO_MPTCP} {
			for _, c := range []struct {
				p    Program
				want string
				dual bool
			}{
				{binding("127.0.0.1", 0, false, false), "tcp4://127.0.0.1:%d", false},
				{binding("0.0.0.0", 0, false, false), "tcp4://0.0.0.0:%d", false},
				{binding("::", 0, true, false), "tcp://:%d", true},
				{binding("::", 0, true, true), "tcp6://[::]:%d", false},
				{binding("::ffff:127.0.0.1", 0, true, false), "tcp4://127.0.0.1:%d", false}, // as java's
			} {
				t.Run(fmt.Sprint(uid, protocol, c.want), func(t *testing.T) {
					learn(t, uid, protocol, c.p, c.want, c.dual)
				})
			}
		}
	}
}

func learn(t *testing.T, uid, protocol int, p Program, want string, dual bool) {
	t.Helper()
	const slots = 3
	keeper := newStore(t)
	port := ports.Free(t, 1)
	p.Address = netip.AddrPortFrom(p.Address.Addr(), uint16(port))
	p = bound(t, protocol, uid, p)
	p.Nonblocking = true
	a := openGiven(t, nil, keeper, slots)
	if _, ok := a.line.Match(0, p); ok {
		t.Error("a listener is there")
	}
	l, err := a.line.Learn(slots, p)
	check(t, err)
	name := sprint("%d", port)
	if got := l.Address(); got != sprint(want, port) || l.Name != name || l.Mode != ModeReuseport || l.Balance != BalanceHash || l.Backlog != DefaultBacklog || !l.Nonblocking {
		t.Errorf("learned %s, %+v", got, l)
	}
	_, err = a.line.Learn(slots, p)
	wantError(t, err, "serves it in mode")
	replace(t, a, p)
	a.line.Settle()
	if got := a.line.Sources(); !slices.Equal(got, []string{"learned"}) {
		t.Errorf("sources %v", got)
	}
	keeper.want(t, sprint("%s.0 %s.1 %s.2", name, name, name))
	for slot := 1; slot < slots; slot++ { // the others are asked again, or inherit
		files, err := a.files(slot)
		check(t, err)
		if got := a.take(t, slot, p); got != files[0] {
			t.Errorf("slot %d: took %d, inherits %d", slot, got, files[0])
		}
	}
	host := p.Address.Addr().Unmap()
	if host.IsUnspecified() && host.Is6() {
		host = netip.IPv6Loopback()
	} else if host.IsUnspecified() {
		host = ipv4Loopback
	}
	hosts := []string{host.String()}
	if dual {
		hosts = append(hosts, "127.0.0.1")
	}
	wantAll := func(a *testApp) {
		t.Helper()
		for only := range a.slots {
			check(t, a.steer(onlySlot(a.slots, only)...))
			for _, host := range hosts {
				dial(t, joinPort(host, port), 10)
				if counts := accept(t, a, 10); counts[only] != 10 {
					t.Errorf("%s, only slot %d: %v", host, only, counts)
				}
			}
		}
	}
	wantAll(a)
	if changed, err := a.RestoreAll(); len(changed)+len(a.Others()) != 0 || err != nil {
		t.Errorf("restored %v, %v", changed, err)
	}
	_, err = a.files(slots) // scaled
	check(t, err)
	a.take(t, slots, p)
	a.slots++
	wantAll(a)

	// A reload declares it; a killed master's successor has it too.
	declared := l
	declared.Learned = false
	next, err := a.Open([]Listener{declared}, slots)
	check(t, err)
	a.Release(a.line)
	if got := next.Sources(); !slices.Equal(got, []string{"learned"}) {
		t.Errorf("sources %v", got)
	}
	a.line = next
	wantAll(a)
	a.Close()
	s, err := New("shop", strangers, keeper.passed(), keeper)
	check(t, err)
	t.Cleanup(s.Close)
	implied := s.Implied()
	if len(implied) != 1 || implied[0].Address() != l.Address() || implied[0].Name != name || !implied[0].Learned {
		t.Fatalf("implied %+v, learned %+v", implied, l)
	}
	line, err := s.Open(implied, slots+1)
	check(t, err)
	if got := line.Sources(); !slices.Equal(got, []string{"learned"}) {
		t.Errorf("sources %v", got)
	}
	again := &testApp{s, line, slots + 1}
	for slot := range again.slots {
		again.take(t, slot, p)
	}
	wantAll(again)
	s.CloseListeners()
}

// A program that listens on two ports, and on one in both families.
func TestLearnSeveral(t *testing.T) {
	sameFiles(t)
	port := ports.Free(t, 2)
	a := open(t, 2)
	for i, want := range []Program{binding("0.0.0.0", port, false, false), binding("::", port, true, true), binding("127.0.0.1", port+1, false, false)} {
		p := bound(t, 0, os.Getuid(), want)
		if _, ok := a.line.Match(0, p); ok {
			t.Errorf("%+v has a listener", p)
		}
		l, err := a.line.Learn(2, p)
		check(t, err)
		if want := []string{sprint("%d", port), sprint("%d-2", port), sprint("%d", port+1)}[i]; l.Name != want {
			t.Errorf("name %q, want %q", l.Name, want)
		}
		replace(t, a, p)
	}
	files, err := a.files(1)
	check(t, err)
	if len(files) != 3 || len(a.line.Inodes(1)) != 3 {
		t.Errorf("files %v", files)
	}
	dial(t, loopback(port), 3)
	dial(t, v6loopback(port), 3)
	dial(t, loopback(port+1), 3)
	accept(t, a, 9)
}

// What cannot be learned leaves the program's socket as it is.
func TestLearnFails(t *testing.T) {
	sameFiles(t)
	port := ports.Free(t, 1)
	a := open(t, 2)
	_, err := a.line.Learn(2, askingV4(t, port))
	wantError(t, err, "cannot learn where a program listens: its socket is not bound")
	p := bound(t, 0, os.Getuid(), binding("127.0.0.1", port, false, false))
	for _, slots := range []int{0, maxSlots + 1} {
		_, err := a.line.Learn(slots, p)
		wantError(t, err, "cannot learn a listener for")
	}

	// Another program of the user has the address without SO_REUSEPORT, but with
	// SO_REUSEADDR, and listens by now.
	port = ports.Free(t, 1)
	var sockets [2]int
	for i := range sockets { // the first one's SO_REUSEADDR goes again
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		check(t, err)
		defer unix.Close(fd)
		check(t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		check(t, unix.Bind(fd, v4(port).sockaddr()))
		sockets[i] = fd
	}
	check(t, unix.Listen(sockets[1], 1))
	check(t, unix.SetsockoptInt(sockets[0], unix.SOL_SOCKET, unix.SO_REUSEADDR, 0))
	before := openFiles()
	_, err = a.line.Learn(2, Program{Network: "tcp", Address: netip.AddrPortFrom(ipv4Loopback, uint16(port)), Socket: sockets[0]})
	wantError(t, err, sprint("cannot listen on 127.0.0.1:%d: the port is held by", port), "stop it or choose another port")
	if after := openFiles(); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	for _, option := range []int{unix.SO_REUSEPORT, unix.SO_REUSEADDR} {
		if on, err := unix.GetsockoptInt(sockets[0], unix.SOL_SOCKET, option); on != 0 || err != nil {
			t.Errorf("option %d is %d, %v", option, on, err)
		}
	}
	if files, err := a.files(0); len(files) != 0 || err != nil {
		t.Errorf("files %v, %v", files, err)
	}
}

// The path is taken over with the file's mode and owner.
func TestLearnUnix(t *testing.T) {
	sameFiles(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "my app.sock")
	a := open(t, 3)
	p := bound(t, 0, os.Getuid(), Program{Network: "unix", Path: path})
	check(t, os.Chmod(path, 0o620))
	uid := os.Getuid()
	if uid == 0 {
		uid = nobody
		check(t, os.Chown(path, nobody, nobody))
	}
	l, err := a.line.Learn(3, p)
	check(t, err)
	if l.Address() != "unix://"+path+"?mode=0620" || l.Name != "my-app.sock" || l.Mode != ModeShared || l.Nonblocking {
		t.Errorf("learned %+v", l)
	}
	var stat unix.Stat_t
	check(t, unix.Lstat(path, &stat))
	if stat.Mode&0o777 != 0o620 || int(stat.Uid) != uid {
		t.Errorf("the file is %o of %d", stat.Mode, stat.Uid)
	}
	replace(t, a, p)
	a.line.Settle()
	wantServed(t, a, path)
	link := filepath.Join(t.TempDir(), "link")
	check(t, os.Symlink(dir, link))
	files, err := a.files(2)
	check(t, err)
	if got := a.take(t, 2, askingPath(t, filepath.Join(link, "my app.sock"))); got != files[0] {
		t.Errorf("took %d, inherits %d", got, files[0])
	}
	if _, ok := a.line.Match(0, askingPath(t, filepath.Join(link, "other.sock"))); ok {
		t.Error("another file matches")
	}
	a.CloseListeners()
	wantFiles(t, path)
}

// Somebody has replaced the program's file.
func TestLearnUnixOfAnother(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	a := open(t, 1)
	p := bound(t, 0, os.Getuid(), Program{Network: "unix", Path: path})
	check(t, os.Remove(path))
	other := bound(t, 0, os.Getuid(), Program{Network: "unix", Path: path})
	_, err := a.line.Learn(1, p)
	wantError(t, err, "cannot learn where a program listens", "is not the file of its socket")
	wantFiles(t, path, "app.sock")
	_, err = a.line.Learn(1, other)
	check(t, err)
}

// What cannot be learned keeps its path.
func TestLearnUnixFails(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	a := open(t, 1)
	p := bound(t, 0, os.Getuid(), Program{Network: "unix", Path: path})
	check(t, os.WriteFile(fileAt(path).second, nil, 0o600))
	_, err := a.line.Learn(1, p)
	wantError(t, err, "forkd needs the name "+fileAt(path).second)
	wantFiles(t, path, ".app.sock.forkd", "app.sock")
	check(t, os.Remove(fileAt(path).second))
	_, err = a.line.Learn(1, p)
	check(t, err)
}

// Nor does one lose it where the file system is full, which is known after the path is free.
func TestLearnUnixWithoutRoom(t *testing.T) {
	cmd := helperCommand(t, "full", "DIR="+t.TempDir())
	cmd.SysProcAttr = namespaces(0)
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNS
	runHelper(t, cmd)
}

func helpFull() error {
	dir := os.Getenv("DIR")
	if err := unix.Mount("none", dir, "tmpfs", 0, "nr_inodes=2"); err != nil { // the directory and a file
		return err
	}
	s, err := openApp(nil, 1)
	if err != nil {
		return err
	}
	defer s.Close()
	p := Program{Network: "unix", Path: filepath.Join(dir, "app.sock")}
	if p.Socket, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	defer unix.Close(p.Socket)
	if err := unix.Bind(p.Socket, &unix.SockaddrUnix{Name: p.Path}); err != nil {
		return err
	}
	if _, err := s.line.Learn(1, p); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("learned: %w", err)
	}
	if err := unix.Listen(p.Socket, 1); err != nil {
		return err
	}
	conn, err := net.Dial("unix", p.Path)
	if err != nil {
		return err
	}
	return conn.Close()
}

// A wildcard cannot be bound beside another user's sockets, nor they beside it.
func TestLearnedOfAnother(t *testing.T) {
	needRoot(t)
	sameFiles(t)
	port := ports.Free(t, 1)
	a := open(t, 1)
	p := bound(t, 0, nobody, binding("127.0.0.1", port, false, false))
	_, err := a.line.Learn(1, p)
	check(t, err)
	replace(t, a, p)
	_, err = a.Open([]Listener{tcp("http", "", port)}, 1)
	wantError(t, err, sprint("cannot listen on :%d: the app has learned 127.0.0.1:%d from workers of uid 65534", port, port), "declare that address instead, or stop the app and start it again")
	_, err = a.Open([]Listener{tcp("http", "127.0.0.1", port)}, 1)
	check(t, err)
}
