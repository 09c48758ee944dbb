package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

// server answers one request on each connection, with net/http's parsers but
// without its Server: that brings TLS and HTTP/2 along, megabytes in a master
// that is to have ten.
type server struct {
	handler http.Handler
	limits  limits
	groups  bool          // look at the visitors' supplementary groups
	large   chan struct{} // one for each body beyond limits.body
	spare   *os.File      // a descriptor for when there are none; nil: not had now
	closer  closing.Closer
}

// maxHeader bounds a request's line and headers, in bytes.
const maxHeader = 16 << 10

// serve answers until ctx ends; then it finishes the answers under way, for
// limits.finish at most.
func (s *server) serve(ctx context.Context, ln net.Listener) error {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	finish, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var open sync.WaitGroup
	defer func() {
		patience := time.AfterFunc(s.limits.finish, cut)
		defer patience.Stop()
		open.Wait()
	}()
	defer func() { s.spare.Close() }() // or nothing, if it is nil
	room := make(chan struct{}, s.limits.clients)
	var silent []*guest // the longest first
	for {
		conn, err := s.accept(ln)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("cannot serve %s: %v", ln.Addr(), err)
		case err != nil: // a shortage, a network that is down, a firewall's word: nothing that lasts (accept(2))
			s.pause(ctx) // the client waits in the queue meanwhile
			continue
		}
		if silent = s.enter(ctx, room, silent); ctx.Err() != nil {
			conn.Close()
			return nil
		}
		g := &guest{conn: conn, since: time.Now()}
		silent = append(silent, g)
		open.Go(func() {
			defer func() { <-room }()
			defer g.decided.Store(true)
			asked := ctx
			if local, ok := conn.(*net.UnixConn); ok {
				if who, err := visitorOf(local, s.groups); err == nil { // without, the request is refused
					asked = context.WithValue(ctx, visitorKey{}, who)
				}
				conn = closing.NewConn(local, &s.closer)
			}
			defer conn.Close()
			defer context.AfterFunc(finish, func() { conn.Close() })()
			s.answer(asked, conn, g)
		})
	}
}

// guest is a connection whose request is not all there.
type guest struct {
	conn    net.Conn
	since   time.Time
	decided atomic.Bool // by who is first: the request is there, the guest leaves, or it has to
}

// enter takes a place in the room, or ends with ctx. Where there is none, the guest
// who has been silent for longest has to leave, after limits.hurry. It returns who is
// silent still.
func (s *server) enter(ctx context.Context, room chan struct{}, silent []*guest) []*guest {
	for {
		silent = slices.DeleteFunc(silent, func(g *guest) bool { return g.decided.Load() })
		var late <-chan time.Time
		if len(silent) > 0 && len(room) == cap(room) {
			late = time.After(time.Until(silent[0].since.Add(s.limits.hurry)))
		}
		select {
		case room <- struct{}{}:
			return silent
		case <-ctx.Done():
			return silent
		case <-late:
		}
		if g := silent[0]; !g.decided.Swap(true) {
			_ = g.conn.SetReadDeadline(time.Unix(1, 0)) // it is told so, by errTooSlow
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
			}
			return silent
		}
	}
}

// accept takes the next connection: on the spare descriptor where there is no
// other, so that a master that has none can be asked why, and stopped.
func (s *server) accept(ln net.Listener) (net.Conn, error) {
	s.keep()
	conn, err := ln.Accept()
	if s.spare != nil && (errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)) {
		s.spare.Close()
		s.spare = nil
		conn, err = ln.Accept()
	}
	return conn, err
}

// keep takes the spare descriptor, again if it was given away.
func (s *server) keep() {
	if s.spare == nil {
		s.spare, _ = os.Open(os.DevNull) // nil: there is none
	}
}

// pause lets a trouble pass before the next try.
func (s *server) pause(ctx context.Context) {
	select {
	case <-time.After(s.limits.finish / 10):
	case <-ctx.Done():
	}
}

// answer reads a request, has it handled and writes the answer. Whoever does not
// send in time, or does not take in time, is let go.
func (s *server) answer(ctx context.Context, conn net.Conn, g *guest) {
	ctx, left := context.WithCancelCause(ctx)
	defer left(nil)
	_ = conn.SetReadDeadline(g.since.Add(s.limits.read))
	reply := &response{to: conn, patience: s.limits.write, header: http.Header{}}
	request, rest, err := s.read(ctx, conn)
	if err == nil && s.isLarge(request) {
		defer func() { <-s.large }()
	}
	if err == nil && g.decided.Swap(true) {
		err = errTooSlow
	}
	refusal, refused := errors.AsType[*Error](err)
	switch {
	case err == nil:
		_ = conn.SetReadDeadline(time.Time{})
		go func() {
			if leaves(rest) {
				left(errLeft)
			}
		}()
		s.handler.ServeHTTP(reply, request.WithContext(ctx))
	case refused:
		fail(reply, refusal.Code, refusal.Text)
	default:
		return // nothing was asked
	}
	_ = reply.finish(request) // a client that does not take it has left
	if refused && refusal.Code != http.StatusRequestTimeout {
		s.linger(conn)
	}
}

// errLeft is why the context of a request ends whose client has left.
var errLeft = &Error{http.StatusServiceUnavailable, "the client has closed the connection before the answer"}

// leaves waits until the client has left, or the connection is closed from here:
// true. What a client sends after its request means nothing (RFC 9112, section
// 2.2, knows of a CRLF); of one that sends more than maxHeader bytes it can't be
// told any more whether it leaves.
func leaves(rest *bufio.Reader) bool {
	_, err := io.CopyN(io.Discard, rest, maxHeader)
	return err != nil
}

// linger takes some of what a refused client goes on sending: it would find the
// connection broken before it looked for the answer (RFC 9112, section 9.6).
func (s *server) linger(conn net.Conn) {
	const most = 2 << 20 // bytes: of 1 GiB no more
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = conn.SetReadDeadline(time.Now().Add(s.limits.linger))
	_, _ = io.CopyN(io.Discard, conn, most)
}

// errTooSlow is for who is let go before anything was done for it, and may ask
// again: on a busy machine that is not always its own fault.
var errTooSlow = &Error{http.StatusRequestTimeout, "the request did not come in time: send it again"}

// read takes one request with all of its body. An *Error is for the client.
// After a large one, without an error, a place of s.large is taken.
func (s *server) read(ctx context.Context, conn net.Conn) (*http.Request, *bufio.Reader, error) {
	from := &io.LimitedReader{R: conn, N: maxHeader}
	buffered := bufio.NewReader(from)
	request, err := http.ReadRequest(buffered)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil, errTooSlow
		}
		if _, network := errors.AsType[net.Error](err); network || errors.Is(err, io.EOF) {
			return nil, nil, err
		}
		if from.N == 0 {
			return nil, nil, &Error{http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the headers are larger than %d bytes", maxHeader)}
		}
		return nil, nil, &Error{http.StatusBadRequest, "cannot read the request: " + err.Error()}
	}
	most := s.limits.bodyOf(request)
	tooLarge := &Error{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", most)}
	if request.ContentLength > most {
		return request, nil, tooLarge // not a byte of it is taken
	}
	if s.isLarge(request) {
		if err := s.makeRoom(ctx); err != nil {
			return request, nil, err
		}
		_ = conn.SetReadDeadline(time.Now().Add(s.limits.read)) // the wait was not the client's
	}
	data, err := s.body(request, conn, from, most)
	switch {
	case err == nil && int64(len(data)) > most:
		err = tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errTooSlow
	case err != nil:
		err = &Error{http.StatusBadRequest, "cannot read the body: " + err.Error()}
	}
	if err != nil && s.isLarge(request) {
		<-s.large
	}
	request.Body = io.NopCloser(bytes.NewReader(data))
	from.N = maxHeader + 1 // for leaves: this limit is not to be taken for an end
	return request, buffered, err
}

// body takes at most one byte more than most.
func (s *server) body(request *http.Request, conn net.Conn, from *io.LimitedReader, most int64) ([]byte, error) {
	// RFC 9110, section 10.1.1: curl waits a second for this before a large body.
	if request.Header.Get("Expect") == "100-continue" && request.ProtoAtLeast(1, 1) {
		_ = conn.SetWriteDeadline(time.Now().Add(s.limits.write))
		if _, err := io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return nil, err
		}
	}
	from.N = most + maxHeader // with what a chunked body adds
	return io.ReadAll(io.LimitReader(request.Body, most+1))
}

// isLarge reports whether a request has, or may have, a body so large that there
// must be only a few of them in memory at once.
func (s *server) isLarge(r *http.Request) bool {
	most := s.limits.bodyOf(r)
	return most > s.limits.body && (r.ContentLength < 0 || r.ContentLength > s.limits.body)
}

// makeRoom waits for a place among the large bodies, as long as a client may
// take to send one.
func (s *server) makeRoom(ctx context.Context) error {
	late := time.NewTimer(s.limits.read)
	defer late.Stop()
	select {
	case s.large <- struct{}{}:
		return nil
	case <-late.C:
	case <-ctx.Done():
		return errEnds
	}
	return &Error{http.StatusServiceUnavailable, fmt.Sprintf("%d large messages are on their way already: try again", cap(s.large))}
}

// response keeps an answer until it is whole, or until it is flushed: from then
// on it is a stream.
type response struct {
	to       net.Conn
	patience time.Duration // of each write
	header   http.Header
	code     int
	body     bytes.Buffer
	streams  bool
}

func (r *response) Header() http.Header { return r.header }

func (r *response) WriteHeader(code int) { r.code = code }

func (r *response) Write(p []byte) (int, error) { return r.body.Write(p) }

// FlushError sends what has been written so far; see [http.ResponseController].
// The answer is as long as the connection lasts (RFC 9112, section 6.3).
func (r *response) FlushError() error {
	_ = r.to.SetWriteDeadline(time.Now().Add(r.patience))
	if !r.streams {
		r.streams = true
		var head bytes.Buffer
		fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\nConnection: close\r\n", r.code, http.StatusText(r.code))
		_ = r.header.Write(&head) // into memory
		head.WriteString("\r\n")
		if _, err := head.WriteTo(r.to); err != nil {
			return err
		}
	}
	_, err := r.body.WriteTo(r.to)
	return err
}

// finish sends the rest.
func (r *response) finish(request *http.Request) error {
	if r.streams {
		return r.FlushError()
	}
	_ = r.to.SetWriteDeadline(time.Now().Add(r.patience))
	answer := http.Response{
		StatusCode: r.code, ProtoMajor: 1, ProtoMinor: 1, Header: r.header, Request: request,
		Body: io.NopCloser(&r.body), ContentLength: int64(r.body.Len()), Close: true,
	}
	return answer.Write(r.to)
}
