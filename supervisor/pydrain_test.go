package supervisor

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
)

// wsgiApp and asgiApp answer /hold when there is a request for /go.
const (
	wsgiApp = `
import threading

go = threading.Event()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        print("held", flush=True)
        go.wait()
    if environ["PATH_INFO"] == "/go":
        go.set()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
`
	asgiApp = `
import asyncio

go = None

async def app(scope, receive, send):
    global go
    if scope["type"] == "lifespan":
        go = asyncio.Event()
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": "lifespan.%s.complete" % step})
        return
    if scope["path"] == "/hold":
        print("held", flush=True)
        await go.wait()
    if scope["path"] == "/go":
        go.set()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
`
)

// startPython runs a server of Python on descriptor 4, which keeps idle connections for longer
// than any test lasts.
func startPython(t *testing.T, drain time.Duration, name string) *server {
	t.Helper()
	archive, err := pythonArchive()
	if err != nil {
		t.Fatal(err)
	}
	app := asgiApp
	command := "/usr/bin/gunicorn --bind fd://4 --keep-alive 100 --log-level warning --worker-class uvicorn.workers.UvicornWorker app:app"
	switch name {
	case "gthread":
		app = wsgiApp
		command = "/usr/bin/gunicorn --bind fd://4 --keep-alive 100 --log-level warning --threads 8 app:app"
	case "uvicorn":
		command = "/usr/bin/uvicorn --fd 4 --timeout-keep-alive 100 --log-level warning app:app"
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listener, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := startServer(t, drain, map[string]string{"app.py": app, pythonDrainName: archive},
		[]string{"PYTHONPATH=./" + pythonDrainName}, strings.Fields(command), listener)
	s.port = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	return s
}

// pythonServers are those that the preload drains.
func pythonServers() []string { return []string{"gthread", "uvicorn", "UvicornWorker"} }

// An idle connection is asked once more, one with a request in it gets its answer, and
// then it ends by itself.
func TestPythonDrains(t *testing.T) {
	for _, name := range pythonServers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startPython(t, 50*time.Second, name)
			idle, busy, asked := s.dial(), s.dial(), s.dial()
			for _, c := range []*client{idle, busy, asked} {
				c.ask("/")
				c.expect("ok")
			}
			busy.ask("/hold")
			if said := s.says(); said != "held" {
				t.Fatal(said)
			}
			s.stop()
			answer := "ok"
			for answer == "ok" { // until the worker has heard of it
				asked.ask("/")
				answer = asked.answer()
			}
			if answer != "ok close" {
				t.Errorf("the answer is %q", answer)
			}
			asked.ends()
			idle.ask("/go")
			idle.expect("ok close")
			if got := busy.answer(); got == "ok" { // gthread decides before it calls the application
				busy.ask("/")
				busy.expect("ok close")
			} else if got != "ok close" {
				t.Errorf("the answer is %q", got)
			}
			if how := s.wait(); how != "" {
				t.Errorf("it ended with %s", how)
			}
		})
	}
}

// Idle connections are closed in the last tenth of the time; when the app stops, after
// drain.idle.
func TestPythonClosesIdleConnections(t *testing.T) {
	for _, name := range pythonServers() {
		for _, stops := range []bool{false, true} {
			t.Run(fmt.Sprint(name, stops), func(t *testing.T) {
				t.Parallel()
				drain := 4 * time.Second
				if stops {
					drain = 50 * time.Second
				}
				s := startPython(t, drain, name)
				c := s.dial()
				c.ask("/")
				c.expect("ok")
				if stops {
					if err := ipc.SetStopping(s.page); err != nil {
						t.Fatal(err)
					}
				}
				began := time.Now()
				s.stop()
				c.ends()
				took := time.Since(began)
				if !stops && took < drain*8/10 || took < 150*time.Millisecond || stops && took > drain/2 {
					t.Errorf("closed after %v", took)
				}
				if how := s.wait(); how != "" {
					t.Errorf("it ended with %s", how)
				}
			})
		}
	}
}

// A version of a server that the preload does not know is served as without it.
func TestPythonServesWhatItDoesNotKnow(t *testing.T) {
	archive, err := pythonArchive()
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, time.Minute, map[string]string{pythonDrainName: archive},
		[]string{"PYTHONPATH=./" + pythonDrainName + ":."},
		[]string{"/usr/bin/python3", "-c", `
import os, sys
os.mkdir("uvicorn")
for name in ("__init__", "config"):
    open("uvicorn/%s.py" % name, "w").close()
sys.stderr = sys.stdout
import uvicorn.config
try:
    import uvicorn.server
except ImportError as why:
    print(why)
`})
	for _, want := range []string{"forkd: uvicorn.config will not drain: AttributeError(", "No module named 'uvicorn.server'"} {
		if said := s.says(); !strings.HasPrefix(said, want) {
			t.Errorf("it says %q, not %q", said, want)
		}
	}
	if how := s.wait(); how != "" {
		t.Errorf("it ended with %s", how)
	}
}
