package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/ipc"
)

// wire is a connection on which a client has sent all that it will, and the listener
// that accepts it.
type wire struct {
	net.Conn // nil: what is not below is not called

	in     *bytes.Reader
	out    bytes.Buffer
	accept chan net.Conn
	done   context.Context
	close  context.CancelFunc
}

func (w *wire) Read(p []byte) (int, error)       { return w.in.Read(p) }
func (w *wire) Write(p []byte) (int, error)      { return w.out.Write(p) }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
func (w *wire) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (w *wire) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (w *wire) Addr() net.Addr                   { return &net.UnixAddr{} }

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.accept:
		return c, nil
	case <-w.done.Done():
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error {
	w.close()
	return nil
}

// FuzzControl sends what clients may send through the parsing of requests and
// every route. Whatever it is, it ends, without a panic, with nothing or with one
// answer, whose errors are one line of JSON; and what reaches the backend is what
// a backend may rely on.
func FuzzControl(f *testing.F) {
	for _, seed := range []string{
		"", "\r\n\r\n", "GET", "\x00\xff",
		"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v1/describe HTTP/1.0\r\n\r\n",
		"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\nrest",
		"GET /v1/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: b-1\r\n\r\n",
		"GET /v1/events?follow=0 HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nLast-Event-ID: -\r\n\r\n",
		"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 36\r\n\r\n{\"keep_config\":false,\"wait\":false}  ",
		"POST /v1/scale HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"workers\":+2}",
		"POST /v1/scale HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{\"workers\":\"-1\"}",
		"POST /v1/scale HTTP/1.1\r\nHost: x\r\nContent-Length: 22\r\n\r\n{\"workers\":\"\\u002b50%\"}",
		"POST /v1/drain HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"POST /v1/resume HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
		"POST /v1/send HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1b\r\n{\"slot\":1,\"message\":{\"a\":1}}\r\n0\r\n\r\n",
		"POST /v1/send HTTP/1.1\r\nHost: x\r\nContent-Length: 33\r\n\r\n{\"message\":{\"cmd\":\"FORKD_DRAIN\"}}",
		"POST /v1/send HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{",
		"POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nContent-Length: 13\r\n\r\n{\"now\":true}",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://[::1]%zz/v1/status HTTP/1.1\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 4000) + "\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		b := &fake{
			app: sample(),
			scale: func(s Scale) (Scaled, error) {
				if again, err := ParseScale(string(s)); err != nil || again != s {
					t.Errorf("the backend was asked to scale to %q", s)
				}
				n, err := s.Workers(2, 4)
				return Scaled{From: 2, To: n}, err
			},
			send: func(m Message) (Sent, error) {
				if line, err := ipc.Encode(ipc.App(m.Message)); err != nil || string(line) != string(m.Message)+"\n" {
					t.Errorf("the backend was given %q", m.Message)
				}
				return Sent{Workers: 1}, nil
			},
		}
		b.happen("up", "")
		l := patient()
		l.heartbeat = time.Minute
		ctx, cancel := context.WithCancel(t.Context())
		conn := &wire{in: bytes.NewReader(sent), accept: make(chan net.Conn, 1), done: ctx, close: cancel}
		conn.accept <- conn
		a := newAPI(b, l, access{everybody: true})
		hung := time.AfterFunc(time.Minute, func() { panic(fmt.Sprintf("hangs on %q", sent)) })
		if err := a.serve(ctx, conn); err != nil {
			t.Error(err)
		}
		hung.Stop()
		if len(a.large) != 0 {
			t.Error("a place among the large bodies is not given back")
		}
		if conn.out.Len() > 16<<10 {
			t.Errorf("%d bytes for an answer", conn.out.Len())
		}
		if conn.out.Len() > 0 {
			checkAnswer(t, conn.out.Bytes())
		}
	})
}

func checkAnswer(t *testing.T, data []byte) {
	t.Helper()
	data = bytes.TrimPrefix(data, []byte("HTTP/1.1 100 Continue\r\n\r\n"))
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(data)), nil)
	if err != nil {
		t.Fatalf("%v: %q", err, data)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil && len(body) > 0 { // the answer to HEAD has a length and no body
		t.Fatalf("%v: %q", err, data)
	}
	if response.StatusCode/100 == 2 || len(body) == 0 {
		return
	}
	var refusal struct{ Error string }
	if err := json.Unmarshal(body, &refusal); err != nil || refusal.Error == "" || bytes.Count(body, []byte("\n")) != 1 {
		t.Errorf("a refusal in another form: %q", data)
	}
}
