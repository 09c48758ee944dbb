package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// lastEventID is the header by which a reader says how far it has come, and a list
// how far it goes (the EventSource part of the HTML standard).
const lastEventID = "Last-Event-Id"

// events answers with what is kept, then follows: server-sent events. With
// ?follow=0, or if the client accepts JSON, it is a list, and ends.
func (a *api) events(w http.ResponseWriter, r *http.Request, _ []byte) (int, any, error) {
	follow, err := follows(r)
	if err != nil {
		return 0, nil, err
	}
	seen, page, err := a.since(r)
	if err != nil {
		return 0, nil, err
	}
	if !follow {
		if n := len(page.Events); n > 0 {
			w.Header().Set(lastEventID, position{page.Boot, page.Events[n-1].Seq}.String())
		}
		return http.StatusOK, append([]Event{}, page.Events...), nil // [], never null
	}
	if !acquire(a.streams) {
		return 0, nil, &Error{http.StatusServiceUnavailable, fmt.Sprintf("%d readers follow the events already: ask for those that are kept, with ?follow=0", a.limits.streams)}
	}
	defer func() { <-a.streams }()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Transfer-Encoding", "identity") // as long as the connection lasts: lines without chunks between
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_ = a.follow(w, r, seen, page) // a client that does not take it has left, and the status is sent already
	}
	return 0, nil, nil
}

// follows reports whether a request wants a stream.
func follows(r *http.Request) (bool, error) {
	switch value := r.URL.Query().Get("follow"); value {
	case "":
		accepts := strings.Join(r.Header.Values("Accept"), ",")
		return !strings.Contains(accepts, "application/json") || strings.Contains(accepts, "text/event-stream"), nil
	case "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	default:
		return false, &Error{http.StatusBadRequest, fmt.Sprintf("follow=%.20q: use 0 or 1", value)}
	}
}

// since returns what a reader has not seen: all, if the event that it has seen last
// was in another life of the master.
func (a *api) since(r *http.Request) (seen uint64, page EventPage, err error) {
	at := parsePosition(r.Header.Get(lastEventID))
	page, err = a.backend.Events(r.Context(), at.seq)
	if err == nil && at.boot != page.Boot && at.seq != 0 {
		page, err = a.backend.Events(r.Context(), 0)
		at.seq = 0
	}
	if at == (position{}) {
		page.Missed = 0 // a new reader has missed nothing
	}
	return at.seq, page, err
}

// follow writes a page, then those that come after it, until the client leaves
// or the server is closed; what has happened by then is still written.
func (a *api) follow(w http.ResponseWriter, r *http.Request, at uint64, page EventPage) error {
	stream := http.NewResponseController(w)
	alive := time.NewTicker(a.limits.heartbeat)
	defer alive.Stop()
	for ctx := r.Context(); ; {
		_ = stream.SetWriteDeadline(time.Now().Add(a.limits.write))
		at = max(at, write(w, page))
		if err := stream.Flush(); err != nil || ctx != r.Context() {
			return err
		}
		select {
		case <-page.More:
		case <-alive.C:
			fmt.Fprint(w, ":\n\n")
			page.Events, page.Missed = nil, 0
			continue
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.limits.finish)
			defer cancel()
			ctx = last
		}
		next, err := a.backend.Events(ctx, at)
		if err != nil {
			return err
		}
		page = next
	}
}

// write writes a page as server-sent events, and returns the last number.
func write(w http.ResponseWriter, page EventPage) uint64 {
	if page.Missed > 0 {
		fmt.Fprintf(w, ": %d events missed\n\n", page.Missed)
	}
	last := uint64(0)
	for _, e := range page.Events {
		data, err := json.Marshal(e)
		if err != nil {
			panic(fmt.Sprintf("control: cannot write an event as JSON: %v", err))
		}
		fmt.Fprintf(w, "id: %s\nevent: %s\ndata: %s\n\n", position{page.Boot, e.Seq}, e.Type, data)
		last = e.Seq
	}
	return last
}
