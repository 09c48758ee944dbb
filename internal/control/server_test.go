package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// serving starts a server on a real socket, and ends it with the test: in time,
// and without a goroutine left.
func serving(t *testing.T, b Backend, l limits, owner int) Location {
	t.Helper()
	before := goleak.IgnoreCurrent()
	dir := t.TempDir()
	place, err := createIn(dir, "shop")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, place.listener, b, l, owner) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(l.finish + 5*time.Second):
			t.Error("serve has not ended")
		}
		place.Remove()
		goleak.VerifyNone(t, before)
	})
	return Location{Name: "shop", Dir: dir}
}

// quick are limits that a test can wait for.
func quick() limits {
	l := standard()
	l.read, l.write, l.finish = 100*time.Millisecond, 500*time.Millisecond, 200*time.Millisecond
	return l
}

// ask sends a request as curl would, and returns the answer in one string.
func ask(t *testing.T, at Location, method, path, body string) (code int, header http.Header, text string) {
	t.Helper()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return dial(at) },
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, strings.TrimSpace(string(data))
}

func TestAnswers(t *testing.T) {
	stopped := make(chan bool, 10)
	b := &fake{
		app:  sample(),
		stop: func(now bool) { stopped <- now },
		reload: func(_ context.Context, r Reload) (Rolled, error) {
			if !r.Wait {
				return Rolled{Generation: 2}, nil
			}
			return Rolled{Generation: 2, Result: "done"}, nil
		},
	}
	at := serving(t, b, quick(), os.Geteuid())
	for _, test := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/v1/status", "", 200, `"app":"shop"`},
		{"GET", "/healthz", "", 200, `{"state":"ready"}`},
		{"HEAD", "/healthz", "", 200, ""},
		{"POST", "/v1/status", "", 405, `{"error":"/v1/status takes GET"}`},
		{"GET", "/v1/reload", "", 405, `{"error":"/v1/reload takes POST"}`},
		{"DELETE", "/v1/stop", "", 405, `{"error":"/v1/stop takes POST"}`},
		{"GET", "/", "", 404, `{"error":"no such path: /"}`},
		{"GET", "/v1/status/x", "", 404, `{"error":"no such path: /v1/status/x"}`},
		{"GET", "/v2/status", "", 404, `"error"`},
		{"GET", "/v1/events", "", 503, `{"error":"/v1/events is not built yet"}`},
		{"POST", "/v1/scale", `{"workers":3}`, 503, `{"error":"/v1/scale is not built yet"}`},
		{"GET", "/metrics", "", 503, `is not built yet`},
		{"POST", "/v1/reload", "", 503, `reading the configuration again is not built yet`},
		{"POST", "/v1/reload", `{"keep_config":true}`, 200, `{"generation":2,"result":"done"}`},
		{"POST", "/v1/reload", `{"keep_config":true,"wait":false}`, 202, `{"generation":2}`},
		{"POST", "/v1/reload", `{"keep_confg":true}`, 400, `unknown field \"keep_confg\"`},
		{"POST", "/v1/reload", `{"keep_config":1}`, 400, `"error":"cannot read the body: json`},
		{"POST", "/v1/reload", `{"keep_config":true}{}`, 400, `more than one JSON value`},
		{"POST", "/v1/reload", `{"keep_config":`, 400, `unexpected EOF`},
		{"POST", "/v1/stop", strings.Repeat(" ", 64<<10) + `{"now":true}`, 413, `larger than 65536 bytes`},
		{"POST", "/v1/stop", `{"now":true}`, 202, `{"state":"stopping"}`},
		{"POST", "/v1/stop", ``, 202, `{"state":"stopping"}`},
	} {
		code, header, text := ask(t, at, test.method, test.path, test.body)
		if code != test.code || !strings.Contains(text, test.want) {
			t.Errorf("%s %s %.40s: %d %s; want %d %s", test.method, test.path, test.body, code, text, test.code, test.want)
		}
		if code == 405 && header.Get("Allow") == "" {
			t.Errorf("%s %s: 405 without Allow", test.method, test.path)
		}
	}
	if now, then := <-stopped, <-stopped; !now || then {
		t.Errorf("stops: now=%v, then now=%v", now, then)
	}
	if len(stopped) != 0 {
		t.Error("a refused stop stopped")
	}
}

func TestRollThatFailsIsConflict(t *testing.T) {
	results := map[bool]error{true: nil, false: &Error{Code: 409, Text: "the app is stopping"}}
	var answer bool
	b := &fake{app: App{State: StateStarting}, reload: func(context.Context, Reload) (Rolled, error) {
		return Rolled{Generation: 3, Result: "rolled_back", Error: "slot 1: exit status 3"}, results[answer]
	}}
	at := serving(t, b, quick(), os.Geteuid())
	answer = true
	if code, _, text := ask(t, at, "POST", "/v1/reload", `{"keep_config":true}`); code != 409 || text != `{"generation":3,"result":"rolled_back","error":"slot 1: exit status 3"}` {
		t.Error(code, text)
	}
	answer = false
	if code, _, text := ask(t, at, "POST", "/v1/reload", `{"keep_config":true}`); code != 409 || text != `{"error":"the app is stopping"}` {
		t.Error(code, text)
	}
	if code, _, text := ask(t, at, "GET", "/healthz", ""); code != 503 || text != `{"error":"starting"}` {
		t.Error(code, text)
	}
}

func TestStrangerIsRefused(t *testing.T) {
	const stranger = 65534
	owner := os.Geteuid()
	if owner != 0 {
		owner++ // only root can be somebody else: let the app be somebody else's
	}
	b := &fake{app: sample()}
	at := serving(t, b, quick(), owner)
	if code, _, _ := ask(t, at, "GET", "/v1/status", ""); owner == os.Geteuid() && code != 200 {
		t.Fatalf("the owner is refused: %d", code)
	}
	// The mode of the socket already keeps others out; what is tried here is
	// the second door.
	for path := filepath.Dir(at.socket()); path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(at.socket(), 0o666); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if owner == 0 {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, stranger, stranger, stranger); errno != 0 {
				answers <- answer{err: errno}
				return
			}
		}
		conn, err := dial(at)
		if err != nil {
			answers <- answer{err: err}
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		line, err := bufio.NewReader(conn).ReadString('\n')
		answers <- answer{strings.TrimSpace(line), err}
	}()
	if a := <-answers; a.err != nil || a.line != "HTTP/1.1 403 Forbidden" {
		t.Errorf("a stranger got %q, %v", a.line, a.err)
	}
}

func TestSilentAndSlowClientsAreLetGo(t *testing.T) {
	at := serving(t, &fake{app: sample()}, quick(), os.Geteuid())
	for name, send := range map[string]string{
		"silent":           "",
		"half a header":    "GET /v1/status HTTP/1.1\r\nHost:",
		"body never comes": "POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
	} {
		conn, err := dial(at)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, send)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		began := time.Now()
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: still connected after %v", name, time.Since(began))
		}
		conn.Close()
	}
	if code, _, _ := ask(t, at, "GET", "/v1/status", ""); code != 200 {
		t.Errorf("the next client got %d", code)
	}
}

// A client that asks and does not take the answer keeps its connection for the
// write timeout, no longer.
func TestClientThatDoesNotReadIsLetGo(t *testing.T) {
	big := sample()
	big.Slots = []Slot{{Reason: strings.Repeat("x", 4<<20)}}
	l := quick()
	l.clients = 1
	at := serving(t, &fake{app: big}, l, os.Geteuid())
	conn, err := dial(at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
	if code, _, _ := ask(t, at, "GET", "/healthz", ""); code != 200 { // behind it, in the queue
		t.Errorf("the next client got %d", code)
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	b := &fake{app: sample()}
	l := standard()
	l.clients = 16
	at := serving(t, b, l, os.Geteuid())
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			c, err := Connect(at)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if app, err := c.Status(context.Background()); err != nil || app.App != "shop" {
				t.Errorf("%v, %v", app, err)
			}
		})
	}
	all.Wait()
	if b.asked != 100 {
		t.Errorf("%d of 100 questions came through", b.asked)
	}
}

// A reload may take minutes, in which nobody says anything.
func TestReloadOutlivesTheReadTimeout(t *testing.T) {
	began := make(chan context.Context, 1)
	finish := make(chan struct{})
	b := &fake{app: sample(), reload: func(ctx context.Context, _ Reload) (Rolled, error) {
		began <- ctx
		select {
		case <-finish:
			return Rolled{Generation: 2, Result: ResultDone}, nil
		case <-ctx.Done():
			return Rolled{}, ctx.Err()
		}
	}}
	l := quick()
	l.waiting = 1
	at := serving(t, b, l, os.Geteuid())
	type outcome struct {
		rolled Rolled
		err    error
	}
	outcomes := make(chan outcome, 1)
	reload := func(ctx context.Context) {
		c, err := Connect(at)
		if err != nil {
			outcomes <- outcome{err: err}
			return
		}
		defer c.Close()
		rolled, err := c.Reload(ctx, Reload{KeepConfig: true, Wait: true})
		outcomes <- outcome{rolled, err}
	}
	go reload(t.Context())
	ctx := <-began
	if code, _, text := ask(t, at, "POST", "/v1/reload", `{"keep_config":true}`); code != 503 || !strings.Contains(text, `send {\"wait\":false}`) {
		t.Errorf("one waits too many: %d %s", code, text)
	}
	select {
	case <-ctx.Done():
		t.Error("the wait ended by itself")
	case <-time.After(3 * l.read): // the timeout itself is what is waited for
	}
	close(finish)
	if o := <-outcomes; o.err != nil || o.rolled.Result != ResultDone {
		t.Errorf("%+v", o)
	}

	finish = make(chan struct{}) // nobody closes this one
	leaving, leave := context.WithCancel(t.Context())
	go reload(leaving)
	ctx = <-began
	leave()
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
		t.Error("the client has left, and is still waited for")
	}
	if o := <-outcomes; !errors.Is(o.err, context.Canceled) {
		t.Errorf("%+v", o)
	}
}

// Neither a silent client nor one that waits holds up the end.
func TestEndIsBounded(t *testing.T) {
	began := make(chan struct{})
	b := &fake{app: sample(), reload: func(ctx context.Context, _ Reload) (Rolled, error) {
		close(began)
		<-ctx.Done()
		return Rolled{}, ctx.Err()
	}}
	l := quick()
	l.read = time.Minute
	l.clients = 2 // a full house
	answered := make(chan string, 1)
	t.Run("serving", func(t *testing.T) {
		at := serving(t, b, l, os.Geteuid())
		silent, err := dial(at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { silent.Close() })
		waits, err := dial(at)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(waits, "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n"+`{"keep_config":true}`)
		<-began
		go func() {
			defer waits.Close()
			data, _ := io.ReadAll(waits)
			answered <- string(data)
		}()
	})
	if text := <-answered; !strings.HasSuffix(text, `{"error":"the app ends"}`+"\n") {
		t.Errorf("who waited got %q", text)
	}
}
