package fleetserve

import (
	"fmt"
	"net/http"
	"time"
)

// view is a viewer of the page: server-sent events, everything at first, then each
// period what is new. A viewer who is slow misses versions and is then sent everything:
// nothing waits for anybody but the one frame that is being written. Who does not take
// that within limits.frame is disconnected.
func (s *server) view(w http.ResponseWriter, r *http.Request) {
	select {
	case s.viewers <- struct{}{}:
		defer func() { <-s.viewers }()
	default:
		w.Header().Set("Retry-After", "10")
		fail(w, http.StatusServiceUnavailable, "%d viewers are watching already", cap(s.viewers))
		return
	}
	stream := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx must not hold it back
	_ = stream.SetReadDeadline(time.Time{})   // that of the request is over
	write := func(frame []byte) bool {
		_ = stream.SetWriteDeadline(time.Now().Add(s.limits.frame))
		_, err := w.Write(frame)
		return err == nil && stream.Flush() == nil
	}
	write([]byte(fmt.Sprintf("retry: %d\n\n", s.limits.period.Milliseconds())))
	app := r.URL.Query().Get("app")
	of := s.watchOf(r, app, write)
	if of == nil {
		return
	}
	for seen := uint64(0); ; {
		now := of.now.Load()
		switch {
		case now.gone: // the browser comes again
			return
		case now.version == 0: // nothing has been read yet
		case now.version != seen:
			frame := now.delta
			if seen == 0 || now.version != seen+1 {
				frame = now.full()
			}
			if !write(frame) {
				return
			}
			seen = now.version
		}
		select {
		case <-now.newer:
		case <-r.Context().Done():
			return
		}
	}
}

// watchOf waits for an app, the first one for "", and tells the viewer meanwhile that
// there is none. It returns nil if the viewer has left.
func (s *server) watchOf(r *http.Request, app string, write func([]byte) bool) *watch {
	for list := s.watches.first(r.Context()); ; {
		name := app
		if name == "" && len(list.names) > 0 {
			name = list.names[0]
		}
		if of := list.watches[name]; of != nil {
			return of
		}
		none := state{app: app, err: list.err}
		if !write(none.encode(frame{common: s.watches.common(list), full: true})) {
			return nil
		}
		select {
		case <-list.newer:
			list = s.watches.now.Load()
		case <-r.Context().Done():
			return nil
		}
	}
}
