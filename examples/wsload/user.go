package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/examples/websocket/chat"
)

const (
	statusServiceRestart ws.StatusCode = 1012
	statusTryAgainLater  ws.StatusCode = 1013
)

// writeTimeout is for the server to take a frame, and to answer a close frame.
const writeTimeout = 2 * time.Second

// ending is how an attempt to connect, or a connection, has ended.
type ending int

const (
	failed ending = iota
	refused
	lost
	restarted
	shed
	closed
	left // by the user's own wish
	endings
)

// user is one who wants to be connected.
type user struct {
	crowd  *crowd
	number int
	ctx    context.Context // until the user leaves
	cancel context.CancelFunc

	// Of the goroutine of live alone.
	session string
	last    *chat.ID // the newest message of the room
	heard   int      // the newest of its own messages that has come back
	lostAt  time.Time

	mu      sync.Mutex
	conn    net.Conn // nil: not connected
	at      string   // host that welcomed it; "": none
	leaving bool
	said    int // its own messages
	excused int // those up to this one: their connection has ended, with them or without
}

func (u *user) host() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.at
}

// leave has the user go for good, with a close frame.
func (u *user) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.leaving {
		return
	}
	u.leaving = true
	u.cancel()
	if u.conn != nil {
		u.write(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, "")))
		_ = u.conn.SetReadDeadline(time.Now().Add(writeTimeout))
	}
}

// say says something, if the user is connected. Texts are numbered.
func (u *user) say() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at == "" || u.leaving {
		return
	}
	payload, _ := json.Marshal(chat.Request{Say: u.signature() + strconv.Itoa(u.said+1)})
	u.said++
	if u.write(ws.NewTextFrame(payload)) == nil {
		u.crowd.seen.see(func(r *Report) { r.Said++ })
	}
}

// signature begins the user's texts.
func (u *user) signature() string { return u.crowd.token + " " + strconv.Itoa(u.number) + " " }

// hearOwn follows a message of the room: the user's own come back in order.
func (u *user) hearOwn(text string) {
	number, own := strings.CutPrefix(text, u.signature())
	n, err := strconv.Atoi(number)
	if !own || err != nil {
		return
	}
	u.mu.Lock()
	excused := u.excused
	u.mu.Unlock()
	if n <= u.heard {
		u.crowd.seen.see(func(r *Report) { r.Repeated++ })
		return
	}
	u.crowd.seen.see(func(r *Report) { r.Unheard += int64(max(0, n-1-max(u.heard, excused))) })
	u.heard = n
}

// write writes a frame. The caller holds the lock.
func (u *user) write(f ws.Frame) error {
	frame, err := ws.CompileFrame(ws.MaskFrame(f))
	if err != nil {
		return err
	}
	_ = u.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err = u.conn.Write(frame)
	return err
}

// live connects, again and again, until the user leaves.
func (u *user) live() {
	for attempt := 0; ; attempt++ {
		welcomed, end := u.visit()
		u.crowd.seen.see(func(r *Report) { r.ended(end) })
		if end == left {
			return
		}
		if welcomed {
			attempt = 0
			u.lostAt = time.Now()
		}
		longest := u.crowd.backoff << min(attempt, 20)
		if end == shed || end == refused {
			longest *= 8
		}
		select {
		case <-u.ctx.Done():
			u.crowd.seen.see(func(r *Report) { r.ended(left) })
			return
		case <-time.After(rand.N(min(longest, u.crowd.backoffMax))):
		}
	}
}

// visit is one connection, or an attempt.
func (u *user) visit() (welcomed bool, how ending) {
	ctx, cancel := context.WithTimeout(u.ctx, u.crowd.timeout)
	defer cancel()
	conn, in, err := u.dial(ctx)
	if err != nil {
		var status ws.StatusError
		switch {
		case u.ctx.Err() != nil:
			return false, left
		case errors.As(err, &status) && int(status) == http.StatusServiceUnavailable:
			return false, refused
		}
		u.crowd.seen.note(err)
		return false, failed
	}
	defer conn.Close()
	u.mu.Lock()
	u.conn = conn
	leaving := u.leaving
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		u.conn, u.at = nil, ""
		u.mu.Unlock()
	}()
	if leaving {
		return false, left
	}
	_ = conn.SetReadDeadline(time.Now().Add(u.crowd.timeout))
	code, err := u.read(conn, in)
	u.mu.Lock()
	welcomed, leaving = u.at != "", u.leaving
	u.mu.Unlock()
	switch {
	case leaving:
		return welcomed, left
	case code == statusTryAgainLater && welcomed:
		return true, shed
	case code == statusTryAgainLater:
		return false, refused
	case code == statusServiceRestart:
		return welcomed, restarted
	case code != 0:
		return welcomed, closed
	case welcomed:
		u.crowd.seen.note(err)
		return true, lost
	}
	u.crowd.seen.note(err)
	return false, failed
}

// dial connects and shakes hands. What came with the answer is read first from in.
func (u *user) dial(ctx context.Context) (conn net.Conn, in io.Reader, err error) {
	dialer := net.Dialer{KeepAlive: -1, Control: bindLater}
	if n := len(u.crowd.sources); n > 0 {
		dialer.LocalAddr = &net.TCPAddr{IP: u.crowd.sources[u.number%n].AsSlice()}
	}
	conn, early, _, err := ws.Dialer{NetDial: dialer.DialContext, ReadBufferSize: 1024, WriteBufferSize: 512}.Dial(ctx, u.url())
	if err != nil {
		return nil, nil, err
	}
	return conn, ahead(early, conn), nil
}

// ahead reads what is buffered, then from the connection.
func ahead(early *bufio.Reader, conn net.Conn) io.Reader {
	if early == nil {
		return conn
	}
	text, _ := early.Peek(early.Buffered())
	first := strings.NewReader(string(text))
	ws.PutReader(early)
	return io.MultiReader(first, conn)
}

// bindLater has the kernel choose the port when it knows where the connection goes: one
// port of a source address then serves connections to several servers (ip(7)).
func bindLater(_, _ string, raw syscall.RawConn) (err error) {
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// url is where to connect to: a server, the room, the session, the last message.
func (u *user) url() string {
	to := u.crowd.urls[rand.IntN(len(u.crowd.urls))]
	room := ""
	if u.crowd.roomSize > 0 {
		room = fmt.Sprintf("%s-%d", u.crowd.prefix, u.number/u.crowd.roomSize)
	}
	query := url.Values{}
	if u.session != "" {
		query.Set("session", u.session)
	}
	if u.last != nil {
		query.Set("last", u.last.String())
	}
	return strings.TrimSuffix(to, "/") + "/" + room + "?" + query.Encode()
}

// read reads events until the connection ends, and returns the close code; 0: there was
// none.
func (u *user) read(conn net.Conn, in io.Reader) (ws.StatusCode, error) {
	events := wsutil.Reader{Source: in, State: ws.StateClientSide, MaxMessageSize: 1 << 20}
	for {
		h, err := events.NextFrame()
		var payload []byte
		if err == nil {
			payload, err = io.ReadAll(&events)
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errors.New("silent for too long")
			}
			return 0, err
		}
		switch h.OpCode {
		case ws.OpPing:
			u.answer(ws.NewPongFrame(payload))
		case ws.OpClose:
			u.answer(ws.NewCloseFrame(payload))
			// The server closes first, and keeps the port in TIME_WAIT.
			_ = conn.SetReadDeadline(time.Now().Add(writeTimeout))
			_, _ = io.Copy(io.Discard, conn)
			if len(payload) < 2 {
				return ws.StatusNoStatusRcvd, nil
			}
			code, _ := ws.ParseCloseFrameData(payload)
			return code, nil
		case ws.OpText:
			u.hear(payload)
		default:
		}
		u.mu.Lock()
		if !u.leaving && u.at != "" {
			_ = conn.SetReadDeadline(time.Now().Add(u.crowd.silence))
		}
		u.mu.Unlock()
	}
}

func (u *user) answer(f ws.Frame) {
	u.mu.Lock()
	defer u.mu.Unlock()
	_ = u.write(f)
}

// hear follows an event.
func (u *user) hear(payload []byte) {
	seen := &u.crowd.seen
	var e chat.Event
	if err := json.Unmarshal(payload, &e); err != nil {
		seen.note(err)
		return
	}
	switch e.Type {
	case chat.Welcome:
		if u.session != "" && !e.Resumed {
			seen.see(func(r *Report) { r.Forgotten++ })
		}
		u.session = e.Session
		seen.see(func(r *Report) { r.Opened++ })
		if !u.lostAt.IsZero() {
			seen.see(func(*Report) { seen.times.record(time.Since(u.lostAt)) })
		}
		u.mu.Lock()
		u.at, u.excused = cmp.Or(e.Host, "?"), u.said
		u.mu.Unlock()
	case chat.Joined:
		if u.last == nil {
			u.last = e.ID
		}
	case chat.Message:
		if e.ID != nil && u.last != nil {
			seen.see(func(r *Report) { r.numbered(*u.last, *e.ID) })
			if u.last.Before(*e.ID) {
				u.last = e.ID
				u.hearOwn(e.Text)
			}
		}
	case chat.Failed:
		seen.note(errors.New(e.Error))
	}
}
