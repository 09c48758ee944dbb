package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
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

// node is a machine: a network and a PID namespace, with an address on the world's
// switch. When its first process ends, everything on it does, as if the power failed.
type node struct {
	t     *testing.T
	name  string
	addr  string
	first string // pid of its first process, seen from here

	holder *exec.Cmd
	hold   io.Closer // its life: it ends with the test, however that ends
}

// world is a switch and the nodes on it. The switch is in a namespace of its own, so
// that nothing of the machine's network changes.
type world struct {
	t      *testing.T
	dir    string
	fabric *node
}

// limit bounds every wait.
const limit = 5 * time.Minute

func newWorld(t *testing.T) *world {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "unshare", "--net", "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("needs root, to make namespaces: %v: %s", err, out)
	}
	w := &world{t: t, dir: t.TempDir()}
	w.fabric = w.boot("fabric")
	w.fabric.must("ip", "link", "add", "switch", "type", "bridge", "forward_delay", "0")
	w.fabric.must("ip", "link", "set", "switch", "up")
	return w
}

// boot starts a node without a network.
func (w *world) boot(name string) *node {
	w.t.Helper()
	n := &node{t: w.t, name: name}
	n.holder = exec.Command("unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "--",
		"sh", "-c", "echo up; exec cat")
	hold, err := n.holder.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := n.holder.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	n.hold = hold
	if err := n.holder.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(n.end)
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		w.t.Fatalf("cannot start %s: %v", name, err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", n.holder.Process.Pid))
	if err != nil {
		w.t.Fatal(err)
	}
	n.first = strings.TrimSpace(string(children))
	n.must("ip", "link", "set", "lo", "up")
	return n
}

// plug boots a node, with its cable in the switch. A node that comes back has the
// Ethernet address that it had: others may remember it.
func (w *world) plug(name string, number int) *node {
	w.t.Helper()
	n := w.boot(name)
	n.addr = fmt.Sprintf("10.77.0.%d", number)
	w.fabric.must("ip", "link", "add", "to-"+name, "type", "veth", "peer", "name", "eth0",
		"address", fmt.Sprintf("02:00:00:00:00:%02x", number), "netns", n.first)
	w.fabric.must("ip", "link", "set", "to-"+name, "master", "switch", "up")
	n.must("ip", "addr", "add", n.addr+"/24", "dev", "eth0")
	n.must("ip", "link", "set", "eth0", "up")
	return n
}

// cutPower takes the network away and kills everything at once, in this order: nobody
// hears of it.
func (w *world) cutPower(n *node) {
	w.t.Helper()
	w.fabric.must("ip", "link", "set", "to-"+n.name, "down")
	n.end()
	// The kernel does it too, some time after the last process.
	w.fabric.must("sh", "-c", "ip link del to-"+n.name+" || ! ip link show to-"+n.name)
}

func (n *node) end() {
	n.hold.Close()
	_ = n.holder.Process.Kill()
	_ = n.holder.Wait()
}

// enter is the command that runs args on the node's network, with the machine's
// processes in sight; programs see those of the node instead.
func (n *node) enter(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--target", n.first, "--net", "--"}, args...)...)
}

// must runs a command on the node's network to its end.
func (n *node) must(args ...string) string {
	n.t.Helper()
	out, err := n.enter(args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("on %s: %s: %v\n%s", n.name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start starts a program on the node, whose output is shown if the test fails.
func (n *node) start(env []string, args ...string) *program {
	n.t.Helper()
	p := &program{ended: make(chan error, 1)}
	p.cmd = exec.Command("nsenter", append([]string{"--target", n.first, "--net", "--pid", "--mount", "--"}, args...)...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	n.t.Cleanup(func() {
		if n.t.Failed() {
			n.t.Logf("on %s, %s said:\n%s", n.name, filepath.Base(args[0]), p.said.String())
		}
	})
	return p
}

// program is one that runs on a node, and ends with it.
type program struct {
	cmd   *exec.Cmd
	ended chan error
	said  text
}

// text is a buffer that one goroutine writes and others read: the last 64 KiB.
type text struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - 64<<10; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// until waits until check returns nil.
func until(t *testing.T, what string, check func() error) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waiting for %s: %v", what, err)
		}
	}
}

// Nodes reach each other over the switch, and a power cut ends all on a node.
func TestWorld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.plug("a", 1), w.plug("b", 2)
	p := b.start(nil, "sleep", "1000")
	until(t, "b", func() error { return reach(t, a, b) })
	w.cutPower(b)
	select {
	case <-p.ended:
	case <-time.After(limit):
		t.Fatal("what ran on b lives on")
	}
	if err := reach(t, a, b); err == nil {
		t.Error("b is still there")
	}
	b = w.plug("b", 2)
	until(t, "b again", func() error { return reach(t, a, b) })
	if ours, err := net.Interfaces(); err != nil || slices.ContainsFunc(ours, func(i net.Interface) bool { return strings.HasPrefix(i.Name, "to-") }) {
		t.Errorf("the machine's own network has changed: %v, %v", ours, err)
	}
}

// reach reports whether b answers a: it refuses a connection, as nothing listens.
func reach(t *testing.T, a, b *node) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	cmd := a.enter("bash", "-c", "exec 3<>/dev/tcp/"+b.addr+"/9")
	out, err := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...).CombinedOutput()
	if err != nil && strings.Contains(string(out), "refused") {
		return nil
	}
	return fmt.Errorf("%v: %s", err, out)
}
