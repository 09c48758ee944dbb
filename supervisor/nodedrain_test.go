package supervisor

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
)

// startNode runs the text, which prints its port.
func startNode(t *testing.T, drain time.Duration, text string) *server {
	t.Helper()
	s := startServer(t, drain, map[string]string{"app.js": text, nodeDrainName: nodeDrain},
		[]string{"NODE_OPTIONS=--require=./" + nodeDrainName}, []string{"node", "app.js"})
	s.port = s.says()
	return s
}

// plainHTTP answers /hold when there is a request for /go, and keeps idle connections for
// longer than any test lasts.
const plainHTTP = `
const http = require('http');
let held = [];
const server = http.createServer((req, res) => {
  if (req.url === '/hold') { held.push(res); console.log('held'); return; }
  if (req.url === '/stream') { res.write('a'); held.push(res); return; }
  if (req.url === '/go') { for (const one of held) one.end('held'); held = []; }
  if (req.url === '/keep') res.setHeader('Connection', 'keep-alive');
  res.end('ok');
});
server.keepAliveTimeout = 0;
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
`

// An idle connection is asked once more, one with a request in it gets its answer, and
// then it ends by itself.
func TestNodeDrains(t *testing.T) {
	for name, more := range map[string]string{
		"no handler":       "",
		"closes":           "process.on('SIGTERM', () => server.close((err) => process.exit(err ? 3 : 0)));",
		"closes later":     "process.on('SIGTERM', () => setTimeout(() => server.close((err) => process.exit(err ? 3 : 0)), 50));",
		"closes when done": "process.on('SIGTERM', () => server.once('close', () => server.close((err) => process.exit(err ? 3 : 0))));",
		"only logs":        "process.on('SIGTERM', () => {});",
		"cuts idle ones":   "process.on('SIGTERM', () => { server.close(() => process.exit(0)); server.closeIdleConnections(); });",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startNode(t, 30*time.Second, plainHTTP+more)
			idle, busy, keep, stream := s.dial(), s.dial(), s.dial(), s.dial()
			for _, c := range []*client{idle, busy, keep, stream} {
				c.ask("/")
				c.expect("ok")
			}
			busy.ask("/hold")
			if said := s.says(); said != "held" {
				t.Fatal(said)
			}
			stream.ask("/stream")
			if r, err := stream.in.Peek(1); err != nil {
				t.Fatal(r, err)
			}
			s.stop()
			s.refuses()
			keep.ask("/keep")
			keep.expect("ok close")
			keep.ends()
			idle.ask("/go")
			idle.expect("ok close")
			busy.expect("held close")
			stream.expect("aheld") // its header was sent before
			stream.ask("/")
			stream.expect("ok close")
			if how := s.wait(); how != "" {
				t.Errorf("it ended with %s", how)
			}
		})
	}
}

// Idle connections are closed in the last tenth of the time; when the app stops, after
// drain.idle. A connection on which nothing was ever sent is one too.
func TestNodeClosesIdleConnections(t *testing.T) {
	for name, stops := range map[string]bool{"roll": false, "stop": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			drain := 2 * time.Second
			if stops {
				drain = 50 * time.Second
			}
			s := startNode(t, drain, plainHTTP)
			used, silent := s.dial(), s.dial()
			used.ask("/")
			used.expect("ok")
			if stops {
				if err := ipc.SetStopping(s.page); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			s.stop()
			used.ends()
			if took := time.Since(began); !stops && took < drain*7/10 || took < 150*time.Millisecond || stops && took > drain/2 {
				t.Errorf("closed after %v", took)
			}
			silent.ends()
			if how := s.wait(); how != "" {
				t.Errorf("it ended with %s", how)
			}
		})
	}
}

// What was upgraded is left alone until the end; then the program ends by itself.
func TestNodeLeavesUpgradedConnections(t *testing.T) {
	t.Parallel()
	const drain = 10 * time.Second
	s := startNode(t, drain, plainHTTP+`
server.on('upgrade', (req, socket) => {
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n');
  socket.on('data', (data) => socket.write(data));
});`)
	c := s.dial()
	if _, err := io.WriteString(c.conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if r, err := http.ReadResponse(c.in, nil); err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(r, err)
	}
	began := time.Now()
	s.stop()
	s.refuses()
	for range 2 {
		if _, err := io.WriteString(c.conn, "x"); err != nil {
			t.Fatal(err)
		}
		if b, err := c.in.ReadByte(); b != 'x' || err != nil {
			t.Fatal(b, err)
		}
	}
	c.ends()
	if how, took := s.wait(), time.Since(began); how != "" || took < drain*8/10 {
		t.Errorf("it ended with %q after %v", how, took)
	}
}

// What does not listen, or no more, ends by the signal as it does alone, and so does what
// signals itself when it is done.
func TestNodeEndsByTheSignal(t *testing.T) {
	for name, text := range map[string]string{
		"never listened": "setInterval(() => {}, 1000); console.log(0);",
		"closed before":  "const s = require('net').createServer().listen(0, () => s.close(() => console.log(0))); setInterval(() => {}, 1000);",
		"signals itself": plainHTTP + `
const again = () => server.close(() => { process.removeListener('SIGTERM', again); process.kill(process.pid, 'SIGTERM'); });
process.on('SIGTERM', again); setInterval(() => {}, 1000);`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startNode(t, 30*time.Second, text)
			s.stop()
			if how := s.wait(); how != "signal: terminated" {
				t.Errorf("it ended with %q", how)
			}
		})
	}
}

// A program that hears "shutdown" on its channel drains from then on, and has 1.6 s to end
// by itself.
func TestNodeDrainsByMessage(t *testing.T) {
	for name, more := range map[string]string{
		"closes":  "server.close(() => setTimeout(() => process.exit(7), 100));",
		"only":    "process.exitCode = 7; server.close(() => process.disconnect());",
		"no word": "process.on('exit', () => process.exitCode = 7);",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startNode(t, 30*time.Second, `
const { fork } = require('child_process');
if (!process.send) {
  const child = fork(__filename);
  process.once('SIGTERM', () => { child.send('shutdown'); child.kill('SIGTERM'); });
  child.on('exit', (code) => process.exit(code));
} else {
`+plainHTTP+"process.on('message', (message) => { if (message === 'shutdown') { "+more+" } }); }")
			busy := s.dial()
			busy.ask("/hold")
			if said := s.says(); said != "held" {
				t.Fatal(said)
			}
			idle := s.dial()
			idle.ask("/")
			idle.expect("ok")
			began := time.Now()
			s.stop()
			s.refuses()
			idle.ask("/go")
			idle.expect("ok close")
			busy.expect("held close")
			how, took := s.wait(), time.Since(began)
			if cut := name == "closes" && how == "" && took >= 1600*time.Millisecond; how != "exit status 7" && !cut {
				t.Errorf("it ended with %q after %v", how, took)
			}
		})
	}
}

// The workers of a cluster drain when their primary is told to, which starts no others.
func TestNodeDrainsACluster(t *testing.T) {
	s := startNode(t, 30*time.Second, `
const cluster = require('cluster');
if (cluster.isPrimary) {
  for (let i = 0; i < 2; i++) cluster.fork();
  cluster.on('exit', () => cluster.fork());
  let port;
  cluster.on('listening', (worker, address) => { if (port) console.log(port); port = address.port; });
} else {
  require('http').createServer((req, res) => setTimeout(() => res.end('ok'), 100)).listen(0, '127.0.0.1');
}`)
	c := []*client{s.dial(), s.dial(), s.dial(), s.dial()}
	for _, c := range c {
		c.ask("/")
		c.expect("ok")
		c.ask("/")
	}
	s.stop()
	for _, c := range c {
		got := c.answer()
		for ; got == "ok"; got = c.answer() { // answered before the signal came
			c.ask("/")
		}
		if got != "ok close" {
			t.Errorf("the answer is %q", got)
		}
		c.ends()
	}
	if how := s.wait(); how != "" {
		t.Errorf("it ended with %s", how)
	}
}
