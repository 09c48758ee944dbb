package fleetserve

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs f with a server in a bubble of virtual time, after its first reads. The
// source is made in the bubble.
func bubble(t *testing.T, configure func() Config, f func(t *testing.T, s *server, source *synthetic)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := configure()
		s := newServer(c, standard())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.watches.run(ctx)
		}()
		synctest.Wait()
		f(t, s, c.Source.(*synthetic))
		cancel()
		<-ended
	})
}

// few is a config of few hosts.
func few() Config { return config(newSynthetic(3, 2)) }

// pass lets so many updates pass.
func pass(updates int) {
	time.Sleep(time.Duration(updates) * standard().period) // virtual
	synctest.Wait()
}

// ask asks the server as a client on this machine does.
func ask(s *server, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "127.0.0.1:9640"
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
	return w
}

// expect asks and compares the status and the body, without the line's end.
func expect(t *testing.T, s *server, path string, status int, body string) {
	t.Helper()
	w := ask(s, http.MethodGet, path, "")
	if got := strings.TrimSpace(w.Body.String()); w.Code != status || got != body {
		t.Errorf("%s: %d\n%s\nwant %d\n%s", path, w.Code, got, status, body)
	}
}

// viewer reads the stream in a bubble.
type viewer struct {
	http.ResponseWriter

	mu     sync.Mutex
	text   bytes.Buffer
	leave  context.CancelFunc
	left   chan struct{}
	before func() // each write
}

func watchStream(t *testing.T, s *server, path string) *viewer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	v := &viewer{ResponseWriter: httptest.NewRecorder(), leave: cancel, left: make(chan struct{}), before: func() {}}
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	r.Host = "localhost"
	go func() {
		defer close(v.left)
		s.handler().ServeHTTP(v, r)
	}()
	synctest.Wait()
	return v
}

func (v *viewer) Write(b []byte) (int, error) {
	v.mu.Lock()
	before := v.before
	v.mu.Unlock()
	before()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.text.Write(b)
}

func (v *viewer) Flush() {}

// said is a frame as it arrives.
type said struct {
	event string
	head
	Hosts []map[string]any `json:"hosts"`
}

// frames are those that have come since the last time.
func (v *viewer) frames(t *testing.T) []said {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []said
	for text := range strings.SplitSeq(v.text.String(), "\n\n") {
		event, data, ok := strings.Cut(text, "\ndata: ")
		if !ok {
			continue
		}
		f := said{event: strings.TrimPrefix(event, "event: ")}
		if err := json.Unmarshal([]byte(data), &f); err != nil {
			t.Fatalf("%v: %.300s", err, data)
		}
		all = append(all, f)
	}
	v.text.Reset()
	return all
}
