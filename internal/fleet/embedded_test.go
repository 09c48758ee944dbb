package fleet

import (
	"context"
	"net"
	"testing"
	"time"
)

func TestServeEmbedded(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ServeEmbedded(ctx, ln) }()
	w := wired(t, "redis://"+ln.Addr().String())
	b := heartbeat{kind: heartbeatReport, host: "web-1", boot: "a", ttl: 200 * time.Millisecond, fields: []any{"boot", "a"}}
	if _, err := w.send(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if !w.there(t.Context()) {
		t.Error("the host is not there")
	}
	for deadline := time.Now().Add(time.Minute); w.there(t.Context()); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("times to live do not tick")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", ln.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("it listens after its end")
	}
}
