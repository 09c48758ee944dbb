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
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// server answers one request on each connection, with net/http's parsers and
// mux but without its Server: that brings TLS and HTTP/2 along, megabytes in a
// master that is to have ten.
type server struct {
	handler http.Handler
	limits  limits
}

// maxHeader bounds a request's line and headers, in bytes.
const maxHeader = 16 << 10

// serve answers until ctx ends; then it finishes the answers under way, for
// limits.finish at most.
func (s *server) serve(ctx context.Context, ln *net.UnixListener) error {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	finish, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var open sync.WaitGroup
	defer func() {
		patience := time.AfterFunc(s.limits.finish, cut)
		defer patience.Stop()
		open.Wait()
	}()
	room := make(chan struct{}, s.limits.clients)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := ln.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.ENOMEM):
			<-room
			s.pause(ctx) // the client waits in the queue meanwhile
			continue
		case err != nil:
			return fmt.Errorf("cannot serve the control socket: %v", err)
		}
		open.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			defer context.AfterFunc(finish, func() { conn.Close() })()
			s.answer(ctx, conn)
		})
	}
}

// pause lets a shortage pass before the next try.
func (s *server) pause(ctx context.Context) {
	select {
	case <-time.After(s.limits.finish / 10):
	case <-ctx.Done():
	}
}

// answer reads a request, has it handled and writes the answer. Whoever does not
// send or take in time is let go.
func (s *server) answer(ctx context.Context, conn *net.UnixConn) {
	ctx, left := context.WithCancel(ctx)
	defer left()
	if peer, err := peerOf(conn); err == nil { // without, the request is refused
		ctx = context.WithValue(ctx, peerKey{}, *peer)
	}
	_ = conn.SetReadDeadline(time.Now().Add(s.limits.read))
	reply := &response{header: http.Header{}}
	request, rest, err := s.read(conn)
	refusal, refused := errors.AsType[*Error](err)
	switch {
	case err == nil:
		_ = conn.SetReadDeadline(time.Time{})
		go func() {
			_, _ = rest.Peek(1) // nothing more is expected: this is the client's leaving, or the end
			left()
		}()
		s.handler.ServeHTTP(reply, request.WithContext(ctx))
	case refused:
		answer(reply, refusal.Code, map[string]string{"error": refusal.Text})
	default:
		return // nothing was asked
	}
	_ = conn.SetWriteDeadline(time.Now().Add(s.limits.write))
	_ = reply.write(conn, request) // a client that does not take it has left
}

// read takes one request with all of its body. An *Error is for the client.
func (s *server) read(conn net.Conn) (*http.Request, *bufio.Reader, error) {
	from := &io.LimitedReader{R: conn, N: maxHeader}
	buffered := bufio.NewReader(from)
	request, err := http.ReadRequest(buffered)
	if err != nil {
		if _, network := errors.AsType[net.Error](err); network || errors.Is(err, io.EOF) {
			return nil, nil, err
		}
		if from.N == 0 {
			return nil, nil, &Error{http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the headers are larger than %d bytes", maxHeader)}
		}
		return nil, nil, &Error{http.StatusBadRequest, "cannot read the request: " + err.Error()}
	}
	from.N = s.limits.body + maxHeader // with what a chunked body adds
	data, err := io.ReadAll(io.LimitReader(request.Body, s.limits.body+1))
	switch {
	case int64(len(data)) > s.limits.body:
		return request, nil, &Error{http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", s.limits.body)}
	case err != nil:
		return request, nil, &Error{http.StatusBadRequest, "cannot read the body: " + err.Error()}
	}
	request.Body = io.NopCloser(bytes.NewReader(data))
	from.N = 1
	return request, buffered, nil
}

// response keeps an answer until it is whole.
type response struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *response) Header() http.Header { return r.header }

func (r *response) WriteHeader(code int) { r.code = code }

func (r *response) Write(p []byte) (int, error) { return r.body.Write(p) }

func (r *response) write(to io.Writer, request *http.Request) error {
	answer := http.Response{
		StatusCode: r.code, ProtoMajor: 1, ProtoMinor: 1, Header: r.header, Request: request,
		Body: io.NopCloser(&r.body), ContentLength: int64(r.body.Len()), Close: true,
	}
	return answer.Write(to)
}

type peerKey struct{}

// peerOf returns the credentials of the process that connected, or, for a
// client, of the one that called listen (unix(7), SO_PEERCRED).
func peerOf(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return nil, err
	}
	return peer, failed
}
