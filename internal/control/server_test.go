package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// serving starts a server on a real socket, and ends it with the test: in time,
// and without a goroutine left.
func serving(t *testing.T, b Backend, l limits, owner int) Location {
	t.Helper()
	return servingAt(t, b, l, access{owner: owner, group: -1})
}

func servingAt(t *testing.T, b Backend, l limits, who access) Location {
	t.Helper()
	files := openFiles(t)
	before := goleak.IgnoreCurrent()
	dir := t.TempDir()
	if who.group >= 0 {
		open(t, dir)
	}
	place, err := createIn(dir, "shop", who.group)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- newAPI(b, l, who).serve(ctx, &place.listener) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(l.finish + time.Minute):
			t.Error("serve has not ended")
		}
		place.Remove()
		goleak.VerifyNone(t, before)
		if left := openFiles(t); left > files {
			t.Errorf("%d descriptors are open, %d were before", left, files)
		}
	})
	return Location{Name: "shop", Dir: dir}
}

// openFiles counts this process's descriptors.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// quick are limits that a test can wait for.
func quick() limits {
	l := standard()
	l.read, l.write, l.finish = 2*time.Second, 2*time.Second, 200*time.Millisecond
	return l
}

// patient are the limits of tests that don't wait for one: a machine that is busy
// runs into none.
func patient() limits {
	l := standard()
	l.read, l.busyRead, l.write = time.Minute, time.Minute, time.Minute
	return l
}

// ask sends a request as curl would, and returns the answer in one string.
func ask(t *testing.T, at Location, method, path, body string) (code int, header http.Header, text string) {
	t.Helper()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return dial(at.socket()) },
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
	drained := make(chan bool, 10)
	sent := make(chan Message, 10)
	b := &fake{
		app:   sample(),
		stop:  func(now bool) { stopped <- now },
		drain: func(draining bool) error { drained <- draining; return nil },
		reload: func(_ context.Context, r Reload) (Rolled, error) {
			switch {
			case !r.KeepConfig:
				return Rolled{}, &Error{409, "shop.toml:3:1: unknown key"}
			case !r.Wait:
				return Rolled{Generation: 2}, nil
			}
			return Rolled{Generation: 2, Result: "done"}, nil
		},
		scale: func(s Scale) (Scaled, error) {
			n, err := s.Workers(2, 4)
			return Scaled{From: 2, To: n}, err
		},
		send: func(m Message) (Sent, error) {
			switch {
			case m.Slot == nil:
				sent <- m
				return Sent{Workers: 3}, nil
			case *m.Slot == 7:
				return Sent{}, &Error{404, "there is no slot 7"}
			}
			return Sent{}, &Error{409, "no worker took it"}
		},
	}
	at := serving(t, b, patient(), os.Geteuid())
	for _, test := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/v1/status", "", 200, `"app":"shop"`},
		{"GET", "/v1/status", "", 200, `"leftovers":[]`},
		{"GET", "/v1/summary", "", 200, `"connections":null`},
		{"GET", "/healthz", "", 200, `{"state":"ready"}`},
		{"HEAD", "/healthz", "", 200, ""},
		{"HEAD", "/v1/events", "", 200, ""},
		{"GET", "/v1/describe", "", 200, `"app":"shop"`},
		{"GET", "/v1/describe", "", 200, `"release":{`},
		{"POST", "/v1/status", "", 405, `{"error":"/v1/status takes GET"}`},
		{"POST", "/v1/describe", "", 405, `takes GET`},
		{"POST", "/v1/events", "", 405, `takes GET`},
		{"POST", "/healthz", "", 405, `takes GET`},
		{"GET", "/v1/reload", "", 405, `{"error":"/v1/reload takes POST"}`},
		{"GET", "/v1/scale", "", 405, `takes POST`},
		{"PUT", "/v1/drain", "", 405, `takes POST`},
		{"HEAD", "/v1/resume", "", 405, ``},
		{"GET", "/v1/send", "", 405, `takes POST`},
		{"DELETE", "/v1/stop", "", 405, `{"error":"/v1/stop takes POST"}`},
		{"GET", "/", "", 404, `{"error":"no such path: /"}`},
		{"GET", "//v1/status", "", 404, `"error"`},
		{"GET", "/v1/status/x", "", 404, `{"error":"no such path: /v1/status/x"}`},
		{"GET", "/v2/status", "", 404, `"error"`},
		{"POST", "/v1/logs", "", 405, `{"error":"/v1/logs takes GET"}`},
		{"GET", "/v1/logs", "", 200, `{"directory":"/var/log/shop","lines":[]}`},
		{"GET", "/v1/logs?n=1001", "", 400, `{"error":"n=\"1001\": use 0 to 1000"}`},
		{"GET", "/v1/logs?slot=x", "", 400, `use a slot's number`},
		{"GET", "/v1/logs?since=yesterday", "", 400, `use a time as in 2006-01-02T15:04:05Z07:00`},
		{"GET", "/v1/logs?grep=(", "", 400, `no regular expression`},
		{"GET", "/v1/logs?follow=perhaps", "", 400, `use 0 or 1`},
		{"POST", "/v1/upgrade", "", 503, `is not built yet`},
		{"GET", "/metrics", "", 200, `forkd_workers_wanted{app="shop"} 0`},
		{"HEAD", "/metrics", "", 200, ``},
		{"POST", "/metrics", "", 405, `{"error":"/metrics takes GET"}`},
		{"POST", "/v1/reload", "", 409, `{"error":"shop.toml:3:1: unknown key"}`},
		{"POST", "/v1/reload", `{"keep_config":true}`, 200, `{"generation":2,"result":"done"}`},
		{"POST", "/v1/reload", `{"keep_config":true,"wait":false}`, 202, `{"generation":2}`},
		{"POST", "/v1/reload", `{"keep_confg":true}`, 400, `unknown field \"keep_confg\"`},
		{"POST", "/v1/reload", `{"keep_config":1}`, 400, `"error":"cannot read the body: json`},
		{"POST", "/v1/reload", `{"keep_config":true}{}`, 400, `more than one JSON value`},
		{"POST", "/v1/reload", `{"keep_config":`, 400, `unexpected EOF`},
		{"POST", "/v1/scale", `{"workers":4}`, 200, `{"from":2,"workers":4}`},
		{"POST", "/v1/scale", `{"workers":"+2"}`, 200, `{"from":2,"workers":4}`},
		{"POST", "/v1/scale", `{"workers":"-1"}`, 200, `{"from":2,"workers":1}`},
		{"POST", "/v1/scale", `{"workers":"cpus-1"}`, 200, `{"from":2,"workers":3}`},
		{"POST", "/v1/scale", `{"workers":"50%"}`, 200, `{"from":2,"workers":2}`},
		{"POST", "/v1/scale", `{"workers":"-2"}`, 400, `would be 0 workers`},
		{"POST", "/v1/scale", `{"workers":0}`, 400, `use 1 to 1024`},
		{"POST", "/v1/scale", `{"workers":-1}`, 400, `use 1 to 1024`},
		{"POST", "/v1/scale", `{"workers":100000}`, 400, `use 1 to 1024`},
		{"POST", "/v1/scale", `{"workers":1e2}`, 400, `use 1 to 1024`},
		{"POST", "/v1/scale", `{"workers":[]}`, 400, `use 1 to 1024`},
		{"POST", "/v1/scale", `{"workers":"all"}`, 400, `use 1 to 1024`},
		{"POST", "/v1/scale", `{"slots":1}`, 400, `unknown field`},
		{"POST", "/v1/scale", `[]`, 400, `cannot read the body`},
		{"POST", "/v1/scale", ``, 400, `cannot scale`},
		{"POST", "/v1/drain", ``, 200, `{"host_draining":true}`},
		{"POST", "/v1/resume", `{}`, 200, `{"host_draining":false}`},
		{"POST", "/v1/drain", `{"now":true}`, 400, `unknown field`},
		{"POST", "/v1/send", `{"message":{ "n":"<\u00e9>" }}`, 200, `{"workers":3}`},
		{"POST", "/v1/send", `{"slot":7,"message":1}`, 404, `there is no slot 7`},
		{"POST", "/v1/send", `{"slot":0,"message":1}`, 409, `no worker took it`},
		{"POST", "/v1/send", `{"slot":-1,"message":1}`, 400, `slots are 0 to 1023`},
		{"POST", "/v1/send", ``, 400, `there is none`},
		{"POST", "/v1/send", `{"message":{"cmd":"FORKD_DRAIN"}}`, 400, `forkd's own`},
		{"POST", "/v1/send", `{"message":{"cmd":"NODE_HANDLE","x":1}}`, 400, `forkd's own`},
		{"POST", "/v1/send", "{\"message\":\"\xff\"}", 400, `not UTF-8`},
		{"POST", "/v1/send", `{"message":"` + strings.Repeat("x", MaxMessage) + `"}`, 413, `larger than 1048576 bytes`},
		{"POST", "/v1/send", strings.Repeat(" ", MaxMessage+5000), 413, `larger than 1052672 bytes`},
		{"POST", "/v1/command", `{"id":"c1","op":"drain"}`, 200, `{"id":"c1"}`},
		{"POST", "/v1/command", `{"id":"c1","op":"shed","args":{"count":0}}`, 400, `the command sheds 0 connections`},
		{"POST", "/v1/command", `{"id":"","op":"drain"}`, 400, `the command has no id`},
		{"POST", "/v1/command", `{"id":"c1","op":"dance"}`, 400, `only scale, roll, reload, drain`},
		{"GET", "/v1/command", ``, 405, `takes POST`},
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
		if code != 200 && code != 202 && test.method != "HEAD" && !strings.HasPrefix(text, `{"error":"`) {
			t.Errorf("%s %s: a refusal in another form: %s", test.method, test.path, text)
		}
	}
	if now, then := <-stopped, <-stopped; !now || then {
		t.Errorf("stops: now=%v, then now=%v", now, then)
	}
	if on, off := <-drained, <-drained; !on || off {
		t.Errorf("drained: %v, then %v", on, off)
	}
	if m := <-sent; string(m.Message) != `{"n":"<\u00e9>"}` {
		t.Errorf("sent: %s", m.Message)
	}
	if len(stopped)+len(drained)+len(sent) != 0 {
		t.Error("what was refused was done")
	}
}

// The largest message passes, also by a client that would write some of it in
// six bytes each.
func TestLargestMessage(t *testing.T) {
	got := make(chan int, 1)
	b := &fake{app: sample(), send: func(m Message) (Sent, error) {
		got <- len(m.Message)
		return Sent{Workers: 1}, nil
	}}
	c := connect(t, serving(t, b, patient(), os.Geteuid()))
	largest := []byte(`"` + strings.Repeat("<", MaxMessage-2) + `"`)
	if _, err := c.Send(t.Context(), Message{Message: largest}); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != MaxMessage {
		t.Errorf("%d bytes came", n)
	}
	_, err := c.Send(t.Context(), Message{Message: append([]byte("["), append(largest, ']')...)})
	if refusal, ok := errors.AsType[*Error](err); !ok || refusal.Code != 413 {
		t.Errorf("one byte more: %v", err)
	}
}

func TestHealth(t *testing.T) {
	for _, test := range []struct {
		state    string
		draining bool
		want     string
	}{
		{StateReady, false, `200 {"state":"ready"}`},
		{StateReady, true, `503 {"error":"draining"}`},
		{StateDraining, false, `503 {"error":"draining"}`},
		{StateStarting, true, `503 {"error":"starting"}`},
		{StateStopping, true, `503 {"error":"stopping"}`},
	} {
		at := serving(t, &fake{app: App{State: test.state, HostDraining: test.draining}}, patient(), os.Geteuid())
		if code, _, text := ask(t, at, "GET", "/healthz", ""); fmt.Sprint(code, " ", text) != test.want {
			t.Errorf("%s, draining %v: %d %s; want %s", test.state, test.draining, code, text, test.want)
		}
	}
}

func TestRollThatFailsIsConflict(t *testing.T) {
	results := map[bool]error{true: nil, false: &Error{Code: 409, Text: "the app is stopping"}}
	var answer bool
	b := &fake{app: App{State: StateStarting}, reload: func(context.Context, Reload) (Rolled, error) {
		return Rolled{Generation: 3, Result: "rolled_back", Error: "slot 1: exit status 3"}, results[answer]
	}}
	at := serving(t, b, patient(), os.Geteuid())
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
	case <-time.After(time.Minute):
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
	l := patient()
	l.read = time.Minute
	l.clients = 2 // a full house
	answered := make(chan string, 1)
	t.Run("serving", func(t *testing.T) {
		at := serving(t, b, l, os.Geteuid())
		silent, err := dial(at.socket())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { silent.Close() })
		waits, err := dial(at.socket())
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
