package e2e

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

//nolint:gochecknoglobals // a flag of the test binary
var plots = flag.String("plots", "", "write the plots of the scenarios to this `directory`")

// fleet is hosts with forkd and examples/websocket, and in front of them HAProxy, with
// Redis on the same node.
type fleet struct {
	*world
	bin    string
	front  *node
	users  *node
	hosts  map[string]*host
	redis  string // its URL
	config string // of forkd, for all hosts
}

// host is a node with forkd.
type host struct {
	*node
	master *program
}

// Numbers of the nodes on the switch. Hosts are from firstHost.
const (
	frontNumber = 2
	usersNumber = 3
	firstHost   = 11
	mostHosts   = 4
)

// forkdConfig is of each host; the settings that differ come in the environment. %s is
// what a scenario adds to the table redis.
const forkdConfig = `
name = "chat"
command = ["./websocket", "-ping", "5s", "-spread", "2s"]
workers = 2

[[listen]]
name = "ws"
address = "tcp4://:8080"

[drain]
timeout = "20s"

[redis]
url = "${REDIS}"
host_id = "${WS_HOST}"
interval = "500ms"
ttl = "6s"
control = true
%s

[metrics]
address = "0.0.0.0:9640"

[agent]
address = "0.0.0.0:9641"
`

// haproxyConfig takes connections for the hosts that are there. The second %s is one of the
// constants below. For timeout queue see docs/monitoring.md.
const haproxyConfig = `
global
  maxconn 8000
  stats socket %s/haproxy.sock level admin
defaults
  mode tcp
  timeout connect 2s
  timeout queue 1ms
  timeout client 1h
  timeout server 1h
  retries 2
  option redispatch
frontend ws
  bind :8080
  default_backend chat
backend chat
  balance leastconn
  default-server weight 100 check port 9640 inter 300ms fastinter 100ms fall 2 rise 1 %s
%s`

// What HAProxy does beside its checks: it ends the connections of a host that goes, so that
// nobody waits for a ping that never comes; it leaves them to the host, which closes them as
// it stops; it also asks the hosts' agents, and sends nobody to one that drains.
const (
	cut    = "on-marked-down shutdown-sessions"
	leave  = ""
	agents = "agent-check agent-port 9641 agent-inter 300ms"
)

// newFleet starts Redis and HAProxy, and no host yet. settings are lines of the table
// redis of every host, down is cut, leave or agents.
func newFleet(t *testing.T, settings, down string) *fleet {
	t.Helper()
	f := &fleet{world: newWorld(t), hosts: map[string]*host{}}
	f.bin = filepath.Join(f.dir, "bin")
	for _, pkg := range []string{"./cmd/forkd", "./examples/websocket", "./examples/wsload"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", f.bin+"/", pkg)
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build %s: %v\n%s", pkg, err, out)
		}
	}
	f.config = filepath.Join(f.bin, "forkd.toml")
	f.write(f.config, fmt.Sprintf(forkdConfig, settings))
	f.front, f.users = f.plug("front", frontNumber), f.plug("users", usersNumber)
	f.front.start(nil, "redis-server", "--bind", f.front.addr, "--protected-mode", "no", "--dir", f.dir, "--save", "", "--appendonly", "no")
	f.redis = "redis://" + f.front.addr
	until(t, "Redis", func() error {
		if out := f.front.must("sh", "-c", "redis-cli -h "+f.front.addr+" ping || true"); !strings.Contains(out, "PONG") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	var servers strings.Builder
	for i := range mostHosts {
		fmt.Fprintf(&servers, "  server h%d 10.77.0.%d:8080\n", i+1, firstHost+i)
	}
	haproxy := filepath.Join(f.dir, "haproxy.cfg")
	f.write(haproxy, fmt.Sprintf(haproxyConfig, f.dir, down, servers.String()))
	f.front.start(nil, "haproxy", "-db", "-f", haproxy)
	until(t, "HAProxy", func() error { _, err := os.Stat(filepath.Join(f.dir, "haproxy.sock")); return err })
	return f
}

func (f *fleet) write(path, text string) {
	f.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// haproxy asks HAProxy's runtime API.
func (f *fleet) haproxy(command string) string {
	f.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(f.dir, "haproxy.sock"))
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(limit))
	_, _ = io.WriteString(conn, command+"\n")
	answer, err := io.ReadAll(conn)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(answer)
}

// up is the servers to which HAProxy sends connections, by name.
func (f *fleet) up() map[string]bool {
	f.t.Helper()
	up := map[string]bool{}
	for line := range strings.Lines(f.haproxy("show stat")) {
		// pxname, svname, and status as the 18th (HAProxy's management guide, 9.1).
		if words := strings.Split(line, ","); len(words) > 17 && words[0] == "chat" && words[17] == "UP" {
			up[words[1]] = true
		}
	}
	return up
}

// powerOn starts h1, h2, ..., or starts one again, and waits until it is in Redis and in
// HAProxy.
func (f *fleet) powerOn(numbers ...int) {
	f.t.Helper()
	for _, i := range numbers {
		f.begin(i)
	}
	until(f.t, "hosts that serve", func() error {
		reported, up := f.status(), f.up()
		for _, i := range numbers {
			name := fmt.Sprintf("h%d", i)
			if h := reported[name]; h.State != "ready" || h.Vanished || !up[name] {
				return fmt.Errorf("%s is %+v, HAProxy has %v", name, h, up)
			}
		}
		return nil
	})
}

// begin starts a host, and does not wait.
func (f *fleet) begin(i int) {
	f.t.Helper()
	name := fmt.Sprintf("h%d", i)
	h := &host{node: f.plug(name, firstHost+i-1)}
	f.hosts[name] = h
	h.master = h.start(f.env(name), filepath.Join(f.bin, "forkd"), "run", "-c", f.config)
}

// env is a host's environment. Its files outlive a power cut, as a disk does.
func (f *fleet) env(name string) []string {
	state := filepath.Join(f.dir, name)
	return []string{
		"REDIS=" + f.redis, "WS_REDIS_URL=" + f.redis, "WS_HOST=" + name,
		"FORKD_RUNTIME_DIR=" + filepath.Join(state, "run"), "FORKD_STATE_DIR=" + filepath.Join(state, "state"),
	}
}

// hostStatus is what the tests read of forkd fleet status --json.
type hostStatus struct {
	Host        string
	State       string
	Connections int
	Refused     int
	Vanished    bool
}

func (f *fleet) status() map[string]hostStatus {
	f.t.Helper()
	out := f.front.must(filepath.Join(f.bin, "forkd"), "fleet", "status", "--json", "--redis", f.redis)
	var apps []struct{ Hosts []hostStatus }
	if err := json.Unmarshal([]byte(out), &apps); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
	hosts := map[string]hostStatus{}
	for _, a := range apps {
		for _, h := range a.Hosts {
			hosts[h.Host] = h
		}
	}
	return hosts
}

// report is what the tests read of wsload -json.
type report struct {
	Seconds                                                             float64
	Final                                                               bool
	Users, Open, Opened, Lost, Restarted, Shed, Refused, Failed, Closed int
	Hosts                                                               map[string]int
	Back                                                                struct {
		Count         int
		P50, P99, Max float64
	}
	Said, Received, Missed, Doubled, Resets, Forgotten int
}

// crowd is the users: a wsload that tells each second how it is.
type crowd struct {
	t      *testing.T
	orders io.Writer
	ended  chan struct{}

	mu   sync.Mutex
	all  []report
	told chan struct{} // closed when there is one more
	plot plot
}

// crowd starts the users of a scenario.
func (f *fleet) crowd(title string, args ...string) *crowd {
	f.t.Helper()
	c := &crowd{t: f.t, ended: make(chan struct{}), told: make(chan struct{}), plot: plot{title: title}}
	cmd := f.users.enter(append([]string{filepath.Join(f.bin, "wsload"), "-json", "-silence", "12s"}, append(args, "ws://"+f.front.addr+":8080")...)...)
	cmd.Stderr = os.Stderr
	orders, err := cmd.StdinPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	c.orders = orders
	go func() {
		defer close(c.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var r report
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				f.t.Errorf("wsload said %q: %v", lines.Text(), err)
				return
			}
			c.hear(r)
		}
	}()
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-c.ended
		_ = cmd.Wait()
	})
	return c
}

func (c *crowd) hear(r report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, r)
	if !r.Final {
		c.plot.add(r.Seconds, r.Hosts)
	}
	close(c.told)
	c.told = make(chan struct{})
}

// now is the last report.
func (c *crowd) now() (r report, next <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) > 0 {
		r = c.all[len(c.all)-1]
	}
	return r, c.told
}

// until waits for a report that is as it should be, from the next one on.
func (c *crowd) until(what string, good func(report) error) report {
	c.t.Helper()
	end := time.After(limit)
	_, next := c.now()
	err := fmt.Errorf("no report")
	for {
		select {
		case <-next:
		case <-c.ended:
			c.t.Fatalf("wsload has ended before %s: %v", what, err)
		case <-end:
			c.t.Fatalf("waiting for %s: %v", what, err)
		}
		var r report
		if r, next = c.now(); r.Seconds > 0 {
			if err = good(r); err == nil {
				return r
			}
		}
	}
}

// order has wsload do something, and marks it in the plot.
func (c *crowd) order(words string) {
	c.t.Helper()
	if _, err := io.WriteString(c.orders, words+"\n"); err != nil {
		c.t.Fatal(err)
	}
	c.mark(words)
}

func (c *crowd) mark(text string) {
	r, _ := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plot.marks = append(c.plot.marks, mark{r.Seconds, text})
}

// quit ends the users, writes the plot and returns the last report.
func (c *crowd) quit(file string) report {
	c.t.Helper()
	if _, err := io.WriteString(c.orders, "quit\n"); err != nil {
		c.t.Fatal(err)
	}
	select {
	case <-c.ended:
	case <-time.After(limit):
		c.t.Fatal("wsload does not end")
	}
	r, _ := c.now()
	if !r.Final {
		c.t.Fatalf("the last report is %+v", r)
	}
	if *plots != "" {
		if err := os.WriteFile(filepath.Join(*plots, file), []byte(c.plot.svg()), 0o644); err != nil {
			c.t.Error(err)
		}
	}
	return r
}

// all wants n users, all connected.
func all(n int) func(report) error {
	return func(r report) error {
		if r.Open != n || r.Users != n {
			return fmt.Errorf("%d of %d users are connected: %+v", r.Open, n, r)
		}
		return nil
	}
}

// even wants n users, spread over so many hosts, each within a share of the mean.
func even(n, hosts int, within float64) func(report) error {
	return func(r report) error {
		if err := all(n)(r); err != nil {
			return err
		}
		mean := float64(n) / float64(hosts)
		if len(r.Hosts) != hosts || slices.ContainsFunc(slices.Collect(maps.Values(r.Hosts)), func(k int) bool {
			return float64(k) < mean*(1-within) || float64(k) > mean*(1+within)
		}) {
			return fmt.Errorf("%d users are spread over the hosts so: %v", n, r.Hosts)
		}
		return nil
	}
}
