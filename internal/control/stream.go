package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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
	seen, kept, err := a.since(r)
	if err != nil {
		return 0, nil, err
	}
	if !follow {
		if last := kept.last(); last > 0 {
			w.Header().Set(lastEventID, position{kept.Boot, last}.String())
		}
		return http.StatusOK, append([]Event{}, kept.Events...), nil // [], never null
	}
	return 0, nil, a.stream(w, r, kept, func(ctx context.Context) (page, error) {
		seen = max(seen, kept.last())
		kept, err = a.backend.Events(ctx, seen)
		return kept, err
	})
}

func follows(r *http.Request) (bool, error) {
	values := r.URL.Query()
	if values.Get("follow") == "" {
		accepts := strings.Join(r.Header.Values("Accept"), ",")
		return !strings.Contains(accepts, "application/json") || strings.Contains(accepts, "text/event-stream"), nil
	}
	return boolean(values, "follow")
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

type page interface {
	write(to io.Writer)
	more() <-chan struct{} // closed when there is another
}

// stream writes a page, then those that come after it, until the client leaves or the
// server is closed; what has happened by then is still written. Once it has begun there is
// no error.
func (a *api) stream(w http.ResponseWriter, r *http.Request, first page, next func(context.Context) (page, error)) error {
	if !acquire(a.streams) {
		return &Error{http.StatusServiceUnavailable, fmt.Sprintf("%d readers follow already: ask for what is kept, with ?follow=0", a.limits.streams)}
	}
	defer func() { <-a.streams }()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Transfer-Encoding", "identity") // as long as the connection lasts: lines without chunks between
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_ = a.follow(w, r, first, next) // a client that does not take it has left, and the status is sent already
	}
	return nil
}

func (a *api) follow(w http.ResponseWriter, r *http.Request, now page, next func(context.Context) (page, error)) error {
	stream := http.NewResponseController(w)
	alive := time.NewTicker(a.limits.heartbeat)
	defer alive.Stop()
	for ctx := r.Context(); ; {
		_ = stream.SetWriteDeadline(time.Now().Add(a.limits.write))
		now.write(w)
		if err := stream.Flush(); err != nil || ctx != r.Context() {
			return err
		}
		select {
		case <-now.more():
		case <-alive.C:
			now = heartbeat{now.more()}
			continue
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.limits.finish)
			defer cancel()
			ctx = last
		}
		following, err := next(ctx)
		if err != nil {
			return err
		}
		now = following
	}
}

// heartbeat is a comment, until there is another page.
type heartbeat struct{ until <-chan struct{} }

func (heartbeat) write(to io.Writer)      { fmt.Fprint(to, ":\n\n") }
func (h heartbeat) more() <-chan struct{} { return h.until }

func (p EventPage) more() <-chan struct{} { return p.More }

func (p EventPage) write(to io.Writer) {
	if p.Missed > 0 {
		fmt.Fprintf(to, ": %d events missed\n\n", p.Missed)
	}
	for _, e := range p.Events {
		fmt.Fprintf(to, "id: %s\nevent: %s\ndata: %s\n\n", position{p.Boot, e.Seq}, e.Type, MustMarshal(e))
	}
}

// last is the number of its last event, 0 where it has none.
func (p EventPage) last() uint64 {
	if len(p.Events) == 0 {
		return 0
	}
	return p.Events[len(p.Events)-1].Seq
}

// MustMarshal is a value as JSON, of a type that always can be.
func MustMarshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("control: cannot write %T as JSON: %v", v, err))
	}
	return data
}
