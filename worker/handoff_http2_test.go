package worker_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c" //nolint:staticcheck // deprecated, and the only one: net/http has no Upgrade
	"golang.org/x/net/http2/hpack"

	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/httpserve"
)

// A connection of HTTP/2 stays before its first request too.
func TestHTTP2Stays(t *testing.T) {
	s := newSite(t, func(w *worker.Worker, ln net.Listener) error {
		var p http.Protocols
		p.SetUnencryptedHTTP2(true)
		return httpserve.Serve(w, &http.Server{Handler: http.HandlerFunc(app), Protocols: &p}, ln)
	})
	const settings, ack = 4, 1
	c, in := dial(t, s.addr)
	frame := func() (kind, flags byte) {
		head := make([]byte, 9)
		_, err := io.ReadFull(in, head)
		check(t, err)
		_, err = in.Discard(int(head[1])<<8 | int(head[2]))
		check(t, err)
		return head[3], head[4]
	}
	send(t, c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	frame()
	before := s.roll()
	<-before.Draining()
	waitFor(t, "idle connections of the predecessor move", func() bool { return ended(before.Successor()) })
	send(t, c, string([]byte{0, 0, 0, settings, 0, 0, 0, 0, 0}))
	for kind, flags := frame(); kind != settings || flags != ack; kind, flags = frame() {
	}
	c.Close()
	s.ended(before)
	if n := before.Counters().MovedOut; n != 0 {
		t.Errorf("%d have moved", n)
	}
}

// A connection that was upgraded to HTTP/2 (RFC 7540, section 3.2) stays where it was when
// others move, and is served there until its client closes it.
func TestUpgradedToHTTP2Stays(t *testing.T) {
	s := newSite(t, func(w *worker.Worker, ln net.Listener) error {
		handler := h2c.NewHandler(http.HandlerFunc(app), new(http2.Server)) //nolint:staticcheck // see its import
		return httpserve.Serve(w, &http.Server{Handler: handler}, ln)
	})
	c, in := dial(t, s.addr)
	send(t, c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
	resp, err := http.ReadResponse(in, nil)
	check(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	send(t, c, http2.ClientPreface)
	frames := http2.NewFramer(c, in)
	check(t, frames.WriteSettings())
	answered := func(stream uint32) {
		t.Helper()
		for {
			f, err := frames.ReadFrame()
			check(t, err)
			if f.Header().StreamID == stream && f.Header().Flags.Has(http2.FlagDataEndStream) {
				return
			}
		}
	}
	answered(1) // of the request that was upgraded
	var head bytes.Buffer
	encoder := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "x"}} {
		check(t, encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	ask := func(stream uint32) {
		t.Helper()
		check(t, frames.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true}))
		answered(stream)
	}
	ask(3)
	later, laterIn := dial(t, s.addr) // later in the list of what may move
	send(t, later, get)
	response(t, laterIn)
	before := s.roll()
	waitFor(t, "the other connection's move", func() bool { return before.Counters().MovedOut == 1 })
	ask(5)
	ask(7)
	if n := before.Counters(); n.Open != 1 || n.MovedOut != 1 {
		t.Errorf("counted %+v", n)
	}
	c.Close()
	s.ended(before)
	if n := before.Counters(); n.Open != 0 || n.MovedOut != 1 {
		t.Errorf("then %+v", n)
	}
}
