package fleet_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server is a real redis-server, with an address of the loopback network of
// its own: tests that run at the same time don't meet.
type server struct {
	t       testing.TB
	address string // "127.x.y.z:port", or the path of a socket
	dir     string
	pid     int
	options options
	paused  bool

	guard *exec.Cmd
	hold  io.Closer // the guard's life line
}

type options struct {
	config   []string   // lines of the configuration
	socket   bool       // listen on a unix socket in dir, and nowhere else
	sentinel bool       // be a Sentinel
	secure   *authority // speak TLS
	user     string     // who the test itself is, where the default user may not do everything
	password string     // and that user's
	address  string     // "": one is found
}

// guardScript starts a server and says its pid. When its standard input ends,
// because the test has closed it or is no more, it kills the server. What is
// not waited for yet keeps its pid.
const guardScript = `exec 3<&0; redis-server "$@" </dev/null 3<&- & echo $!; exec 2>/dev/null; read -r _ <&3; kill -9 $!; wait $!`

// start starts a server and waits until it answers. It ends with the test.
func start(t testing.TB, o options) *server {
	t.Helper()
	const tries = 5 // the address may be somebody's, if hardly ever
	for range tries {
		s := &server{t: t, dir: t.TempDir(), options: o, address: o.address}
		if s.address == "" {
			s.address = someAddress()
		}
		if o.socket {
			s.address = filepath.Join(s.dir, "redis.sock")
		}
		s.configure()
		s.launch()
		if s.answers() {
			return s
		}
		t.Logf("the server on %s has ended at once:\n%s", s.address, s.log())
		s.end()
	}
	t.Fatal("no server could be started")
	return nil
}

// someAddress makes up an address that nobody uses: 16 million hosts, and ports
// that no client is given. The bus of a Cluster is 10000 above.
func someAddress() string {
	n := rand.Uint32() //nolint:gosec // not a secret
	return fmt.Sprintf("127.%d.%d.%d:%d", 1+n%254, n>>8&255, 1+n>>16%254, 10000+n>>8%10000)
}

func (s *server) host() string {
	host, _, _ := net.SplitHostPort(s.address)
	return host
}

func (s *server) port() string {
	_, port, _ := net.SplitHostPort(s.address)
	return port
}

func (s *server) configure() {
	s.t.Helper()
	lines := []string{
		"dir " + s.dir, "logfile " + filepath.Join(s.dir, "log"),
		"daemonize no", "protected-mode no",
	}
	if !s.options.sentinel {
		lines = append(lines, `save ""`, "appendonly no", "repl-diskless-sync-delay 0", "repl-ping-replica-period 1")
	}
	switch {
	case s.options.socket:
		lines = append(lines, "port 0", "unixsocket "+s.address)
	case s.options.secure != nil:
		lines = append(lines, "bind "+s.host(), "port 0", "tls-port "+s.port(), "tls-auth-clients no")
		lines = append(lines, s.options.secure.serve(s.t, s.dir, s.host())...)
	default:
		lines = append(lines, "bind "+s.host(), "port "+s.port())
	}
	lines = append(lines, s.options.config...)
	write(s.t, filepath.Join(s.dir, "redis.conf"), strings.Join(lines, "\n")+"\n")
}

// launch starts the process with the configuration in its directory.
func (s *server) launch() {
	s.t.Helper()
	args := []string{"-c", guardScript, "guard", filepath.Join(s.dir, "redis.conf")}
	if s.options.sentinel {
		args = append(args, "--sentinel")
	}
	guard := exec.Command("sh", args...)
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for the test
	guard.Stderr = os.Stderr
	hold, err := guard.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	says, err := guard.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := guard.Start(); err != nil {
		s.t.Fatalf("cannot start a redis-server: %v", err)
	}
	s.guard, s.hold = guard, hold
	s.t.Cleanup(s.end)
	line, err := bufio.NewReader(says).ReadString('\n')
	if err != nil {
		s.t.Fatalf("cannot start a redis-server: %v", err)
	}
	if s.pid, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		s.t.Fatal(err)
	}
}

// answers waits until the server answers PING, and reports false if it has ended
// before.
func (s *server) answers() bool {
	s.t.Helper()
	up := false
	until(s.t, "a server that answers", func() error {
		if !s.alive() {
			return nil
		}
		wire, err := s.dial()
		if err != nil {
			return err
		}
		defer wire.conn.Close()
		if _, err := wire.do("PING"); err != nil {
			return err
		}
		up = true
		return nil
	})
	return up
}

// alive reports whether the process is there and no zombie.
func (s *server) alive() bool {
	state := s.state()
	return state != 0 && state != 'Z'
}

// state is the letter that the kernel shows for the process, 0 for none.
func (s *server) state() byte {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	at := bytes.LastIndexByte(text, ')')
	if err != nil || at < 0 || at+2 >= len(text) {
		return 0
	}
	return text[at+2]
}

// end kills the server and waits until it is gone.
func (s *server) end() {
	if s.guard == nil {
		return
	}
	s.hold.Close()
	_ = s.guard.Wait() // killed: that is no news
	s.guard, s.paused = nil, false
	if s.t.Failed() {
		s.t.Logf("the log of %s ends so:\n%s", s.address, s.log())
	}
}

// again starts the server that has ended anew, as it was configured.
func (s *server) again() {
	s.t.Helper()
	s.launch()
	if !s.answers() {
		s.t.Fatalf("the server has not come back:\n%s", s.log())
	}
}

// pause stops the process as SIGSTOP does: the kernel goes on taking connections
// and bytes for it, and nothing answers.
func (s *server) pause() {
	s.t.Helper()
	s.signal(syscall.SIGSTOP)
	s.paused = true
	until(s.t, "a server that stands still", func() error {
		if state := s.state(); state != 'T' {
			return fmt.Errorf("it is in state %c", state)
		}
		return nil
	})
}

func (s *server) resume() {
	s.t.Helper()
	s.signal(syscall.SIGCONT)
	s.paused = false
}

func (s *server) signal(number syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(s.pid, number); err != nil {
		s.t.Fatal(err)
	}
}

// log is the end of what the server has logged.
func (s *server) log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	const enough = 3000
	return string(text[max(0, len(text)-enough):])
}

// dial connects and, where the server asks for it, logs in.
func (s *server) dial() (*wire, error) {
	const limit = patience
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	network := "tcp"
	if s.options.socket {
		network = "unix"
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, s.address)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(limit))
	if s.options.secure != nil {
		conn = tls.Client(conn, &tls.Config{RootCAs: s.options.secure.pool, ServerName: s.host(), MinVersion: tls.VersionTLS12})
	}
	w := newWire(conn)
	if s.options.password != "" {
		auth := []string{"AUTH", s.options.password}
		if s.options.user != "" {
			auth = []string{"AUTH", s.options.user, s.options.password}
		}
		if _, err := w.do(auth...); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return w, nil
}

// try sends one command on a connection of its own.
func (s *server) try(args ...string) (any, error) {
	w, err := s.dial()
	if err != nil {
		return nil, err
	}
	defer w.conn.Close()
	return w.do(args...)
}

// do is try for what must succeed.
func (s *server) do(args ...string) any {
	s.t.Helper()
	reply, err := s.try(args...)
	if err != nil {
		s.t.Fatalf("%s on %s: %v", strings.Join(args, " "), s.address, err)
	}
	return reply
}

// info is one figure of INFO: "" if there is none.
func (s *server) info(section, name string) string {
	reply, err := s.try("INFO", section)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(fmt.Sprint(reply)) {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
