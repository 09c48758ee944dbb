package capture

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/process"
)

// programs are the roles; what they print is compared.
//
//nolint:gochecknoglobals // a fixed table
var programs = map[string]func(args []string){
	"one":       one,
	"path":      atPath,
	"odd":       odd,
	"raced":     raced,
	"many":      many,
	"waiting":   waiting,
	"replaced":  replaced,
	"profile":   underProfile,
	"own":       ownFilter,
	"apart":     apart,
	"elsewhere": elsewhere,
	"master":    master,
}

// bind makes a stream socket, binds it and says what came of it.
func bind(at netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(family(at), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, address(at))
}

func family(at netip.AddrPort) int {
	if at.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func address(at netip.AddrPort) unix.Sockaddr {
	if at.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
	}
	return &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
}

func portOf(fd int) uint16 {
	at, _ := nameOf(fd)
	return at.address.Port()
}

// one binds and listens at args[0]. args[1] may contain n (non-blocking), e (no
// close-on-exec) and 6 (IPV6_V6ONLY).
func one(args []string) {
	at := netip.MustParseAddrPort(args[0])
	options := strings.Join(args[1:], "")
	kind := unix.SOCK_STREAM
	if strings.Contains(options, "n") {
		kind |= unix.SOCK_NONBLOCK
	}
	if !strings.Contains(options, "e") {
		kind |= unix.SOCK_CLOEXEC
	}
	fd, err := unix.Socket(family(at), kind, 0)
	if err == nil && strings.Contains(options, "6") {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	fmt.Println(err, unix.Bind(fd, address(at)), unix.Listen(fd, 5))
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	number, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	fmt.Println(fd, portOf(fd), number, flags&unix.FD_CLOEXEC != 0, err)
}

// atPath binds to a path, from a directory.
func atPath(args []string) {
	err := os.Chdir(args[1])
	if len(args) > 2 {
		err = unix.Rmdir(args[1])
	}
	fd, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	fmt.Println(err, unix.Bind(fd, &unix.SockaddrUnix{Name: args[0]}), unix.Listen(fd, 5))
}

// raw is bind(2) of any bytes, and the length that is said.
func raw(fd int, text []byte, length int32) error {
	var pointer unsafe.Pointer
	if len(text) > 0 {
		pointer = unsafe.Pointer(&text[0])
	}
	return rawAt(fd, uintptr(pointer), length)
}

func rawAt(fd int, pointer uintptr, length int32) error {
	if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), pointer, uintptr(uint32(length))); errno != 0 {
		return errno
	}
	return nil
}

// inet is a sockaddr_in, longer than it need be.
func inet(family int, at netip.AddrPort) []byte {
	text := make([]byte, 2*maxName)
	text[0] = byte(family)
	text[2], text[3] = byte(at.Port()>>8), byte(at.Port())
	copy(text[4:], at.Addr().AsSlice())
	return text
}

// odd makes calls that are nobody's but its own, at a free address and one that is taken.
func odd(args []string) {
	free, taken := netip.MustParseAddrPort(args[0]), netip.MustParseAddrPort(args[1])
	any4 := netip.AddrPortFrom(free.Addr(), 0)
	socket := func(family, kind, protocol int) int {
		fd, err := unix.Socket(family, kind, protocol)
		if err != nil {
			fmt.Println("no socket:", err)
		}
		return fd
	}
	tcp := func() int { return socket(unix.AF_INET, unix.SOCK_STREAM, 0) }
	say := func(what string, fd int, errs ...error) {
		fmt.Println(what, errs)
		unix.Close(fd)
	}

	fd := tcp()
	err := unix.Bind(fd, address(any4))
	say("port 0", fd, err, unix.Listen(fd, 1))
	fd = tcp()
	say("unbound", fd, unix.Listen(fd, 1))
	fd = tcp()
	err = unix.Bind(fd, address(any4))
	say("to connect", fd, err, unix.Connect(fd, address(taken)), unix.Bind(fd, address(any4)))
	fd = socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	say("udp", fd, unix.Bind(fd, address(free)), unix.Listen(fd, 1))
	failed := 0
	for range 300 { // a copy that outlives the answer would be in the way
		fd = socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if unix.Bind(fd, address(free)) != nil {
			failed++
		}
		unix.Close(fd)
	}
	fmt.Println("udp again", failed)
	fd = socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	say("raw", fd, unix.Bind(fd, address(free)))
	fd = socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)
	say("netlink", fd, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	fd = socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	say("abstract", fd, unix.Bind(fd, &unix.SockaddrUnix{Name: "@capture-test"}), unix.Listen(fd, 1))
	fd = socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	say("autobind", fd, raw(fd, []byte{unix.AF_UNIX, 0}, 2))
	fd = socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	say("unix datagrams", fd, unix.Bind(fd, &unix.SockaddrUnix{Name: args[2]}))

	fd = tcp()
	say("taken", fd, unix.Bind(fd, address(taken)))
	fd = tcp()
	say("not of this host", fd, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: int(free.Port())}))
	fd = tcp()
	err = unix.Bind(fd, address(free))
	say("twice", fd, err, unix.Bind(fd, address(free)))
	for _, length := range []int32{-1 << 31, -1, 0, 1, 2, 8, 15, 16, 17, 128, 129, 1 << 30} {
		fd = tcp()
		say(fmt.Sprint("length ", length), fd, raw(fd, inet(unix.AF_INET, free), length))
		fd = socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		say(fmt.Sprint("v6, length ", length), fd, raw(fd, inet(unix.AF_INET6, netip.AddrPortFrom(netip.IPv6Loopback(), 0)), length))
	}
	page, err := unix.Mmap(-1, 0, 2*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	edge := page[os.Getpagesize()-8:]
	copy(edge, inet(unix.AF_INET, free))
	fmt.Println("pages", err, unix.Mprotect(page[os.Getpagesize():], unix.PROT_NONE))
	for i, pointer := range []uintptr{0, 1 << 46, 1<<64 - 4096, uintptr(unsafe.Pointer(&edge[0]))} {
		fd = tcp()
		say(fmt.Sprint("pointer ", i), fd, rawAt(fd, pointer, 16))
	}
	for _, of := range []int{unix.AF_UNSPEC, unix.AF_INET6, unix.AF_UNIX, unix.AF_NETLINK, 200} {
		fd = tcp()
		say(fmt.Sprint("family ", of), fd, raw(fd, inet(of, free), 28))
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR, 0)
	say("file", null, err, unix.Bind(null, address(free)), unix.Listen(null, 1))
	path, err := unix.Open("/", unix.O_PATH, 0)
	say("path", path, err, unix.Bind(path, address(free)), unix.Listen(path, 1))
	for _, fd := range []int{-1, 999, 1 << 30} {
		fmt.Println("descriptor", fd, unix.Bind(fd, address(free)), unix.Listen(fd, 1))
	}
}

// raced binds while another thread changes the port from that of args[0] to that of
// args[1] and back, with args[2] the family too.
func raced(args []string) {
	ours, other := netip.MustParseAddrPort(args[0]), netip.MustParseAddrPort(args[1])
	text := inet(unix.AF_INET, ours)
	values := []uint32{binary.NativeEndian.Uint32(text), binary.NativeEndian.Uint32(inet(unix.AF_INET, other))}
	if len(args) > 2 {
		values = append(values, binary.NativeEndian.Uint32(inet(unix.AF_UNSPEC, other)), binary.NativeEndian.Uint32(inet(unix.AF_INET6, ours)))
	}
	done := make(chan struct{})
	var racing sync.WaitGroup
	racing.Go(func() {
		first := (*uint32)(unsafe.Pointer(&text[0]))
		for i := 0; ; i++ {
			atomic.StoreUint32(first, values[i%len(values)])
			select {
			case <-done:
				return
			default:
			}
		}
	})
	got := map[string]bool{}
	for range 3000 {
		fd, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		err := raw(fd, text, 28)
		result := fmt.Sprint(err)
		if err == nil {
			result = map[uint16]string{ours.Port(): "ours", other.Port(): "other"}[portOf(fd)]
		}
		got[result] = true
		unix.Close(fd)
	}
	close(done)
	racing.Wait()
	for _, result := range slices.Sorted(maps.Keys(got)) {
		fmt.Println(result)
	}
}

// many binds to 10,000 addresses.
func many(args []string) {
	failed := 0
	for i := range 10_000 {
		fd, err := bind(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), parsePort(args[0])))
		if err != nil || portOf(fd) != parsePort(args[0]) {
			failed++
		}
		unix.Close(fd)
	}
	fmt.Println(failed)
}

func parsePort(text string) uint16 {
	n, _ := strconv.ParseUint(text, 10, 16)
	return uint16(n)
}

// waiting binds to the address on args[1] threads, and executes a program while they wait if it
// is told to.
func waiting(args []string) {
	threads, _ := strconv.Atoi(args[1])
	results := make(chan error)
	for range threads {
		go func() {
			_, err := bind(netip.MustParseAddrPort(args[0]))
			results <- err
		}()
	}
	if len(args) > 2 {
		readLine()
		os.Setenv(role, args[2]) //nolint:errcheck // Exec says more
		fmt.Println(syscall.Exec("/proc/self/exe", append([]string{"x"}, args[3:]...), os.Environ()))
	}
	for range threads {
		fmt.Println(<-results)
	}
	_, err := bind(netip.MustParseAddrPort(args[0]))
	fmt.Println(err)
}

func readLine() { _, _ = bufio.NewReader(os.Stdin).ReadString('\n') }

// replaced opens another file at the descriptor of a socket whose bind(2) waits.
func replaced(args []string) {
	fd, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	result := make(chan error)
	go func() { result <- unix.Bind(fd, address(netip.MustParseAddrPort(args[0]))) }()
	readLine()
	fmt.Println(unix.Dup2(0, fd))
	fmt.Println(<-result)
	link, _ := linkOf("self", fd)
	stdin, _ := linkOf("self", 0)
	fmt.Println(link == stdin)
}

// filter sets a seccomp filter on this thread.
func filter(flags int, instructions ...unix.SockFilter) error {
	f := unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&f))); errno != 0 {
		return errno
	}
	return nil
}

// ownFilter sets filters of its own, and binds.
func ownFilter(args []string) {
	runtime.LockOSThread()
	pass := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	fmt.Println(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), filter(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, pass), filter(0, pass))
	one(args)
}

// underProfile says what is forbidden where one call is refused.
func underProfile(args []string) {
	runtime.LockOSThread()
	number, _ := strconv.ParseUint(args[0], 10, 32)
	err := filter(0,
		unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(number), Jf: 1},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	)
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(Forbidden(os.Geteuid()))
}

// apart binds on a thread that has descriptors of its own, while the process has another
// socket at that number.
func apart(args []string) {
	unshared, opened, done := make(chan error), make(chan int), make(chan struct{})
	go offLeader(func() {
		defer close(done)
		unshared <- unix.Unshare(unix.CLONE_FILES)
		other := <-opened
		fd, err := bind(netip.MustParseAddrPort(args[0]))
		number, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		fmt.Println(fd == other, err, number)
	})
	fmt.Println(<-unshared)
	fd, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	opened <- fd
	<-done
}

// offLeader runs f on a thread that is not the process's first.
func offLeader(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		go offLeader(f)
		select {} // keeps the first
	}
	f()
}

// elsewhere plays another role in another namespace, args[1], or at the root args[0].
func elsewhere(args []string) {
	runtime.LockOSThread()
	fmt.Println(map[string]func() error{
		"net":   func() error { return unix.Unshare(unix.CLONE_NEWNET) },
		"mount": func() error { return unix.Unshare(unix.CLONE_NEWNS) },
		"root":  func() error { return unix.Chroot(args[0]) },
	}[args[1]]())
	if args[1] == "net" {
		one(args[2:])
	} else {
		atPath(args[2:])
	}
}

// master is a master of the program "one", of the user args[0], and says what it sees.
func master(args []string) {
	runtime.LockOSThread()
	c := process.New()
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		defer stop()
		if err := oneOf(c, args[0]); err != nil {
			fmt.Println(err)
		}
	}()
	c.Serve(ctx)
	c.Close()
}

func oneOf(c *process.Children, user string) error {
	uid, _ := strconv.ParseUint(user, 10, 32)
	fmt.Printf("forbidden: %q\n", Forbidden(int(uid)))
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at := netip.MustParseAddrPort(server.Addr().String())
	file, err := server.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	spec := process.Spec{
		Path: "/proc/self/exe", File: self, Args: []string{"one", at.String()}, Env: []string{role + "=one", "GORACE=atexit_sleep_ms=0"},
		Umask: -1, Files: []int{0, 1, 2}, Capture: true, User: &process.Credential{UID: uint32(uid), GID: uint32(uid)},
	}
	p, err := c.Start(spec)
	if err != nil {
		return err
	}
	exited := make(chan process.Exit, 1)
	p.Watch(func(e process.Exit) { exited <- e }, func() {})
	fd, why := p.Capture()
	if fd < 0 {
		return errors.New(why)
	}
	calls := 0
	New(fd).Serve(func(c Call) Answer { // one at a time
		calls++
		if c.Listen {
			return Answer{Handled: true, Socket: -1}
		}
		socket, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		return Answer{Handled: err == nil, Socket: socket}
	})
	fmt.Println(calls, "calls,", <-exited)
	return nil
}
