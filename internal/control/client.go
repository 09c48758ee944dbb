package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

// Client talks to one app. Connect makes it; its owner calls Close.
type Client struct {
	at    Location
	pid   int
	uid   uint32
	pidfd int           // -1: the master can't be seen from this pid namespace
	wait  time.Duration // for an answer, unless it is a reload's that is waited for
	room  chan struct{} // of ReadIn

	first     atomic.Pointer[closing.Conn] // by Connect, for the first request
	connected time.Time
	transport *http.Transport
}

// Bounds on one answer, because any user may be the one who answers: root's clients
// look in the directories of all.
const (
	answerTime   = 5 * time.Second
	answerSize   = 8 << 20 // bytes after the header; 1024 slots with two workers each take under 1 MiB
	answerValues = 1 << 17 // of JSON: three bytes may decode to a hundred and more; 1024 such slots take 45,000
)

// NoAnswerError says that an app lives, but does not answer.
type NoAnswerError struct {
	App string
	PID int // 0: not known
	Why string
}

func (e *NoAnswerError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s does not answer: %s", e.App, e.Why)
	}
	return fmt.Sprintf("%s (pid %d) does not answer: %s: see what it does, or end it with kill -KILL %d", e.App, e.PID, e.Why, e.PID)
}

// Connect reaches the app's master. The error is a *NoAppError when it is gone,
// a *NoAnswerError when it takes no more connections.
func Connect(at Location) (*Client, error) {
	c := &Client{at: at, pidfd: -1, wait: answerTime, connected: time.Now()}
	c.transport = &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return c.dial() },
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		Protocols:              http1(),
	}
	conn, err := dial(at.socket())
	if err != nil {
		return nil, c.translateError(err)
	}
	master, err := peerOf(conn.UnixConn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot tell who runs %s: %v", at.Path(), err)
	}
	if err := at.check(int(master.Uid)); err != nil {
		conn.Close()
		return nil, c.translateError(err)
	}
	c.pid, c.uid = int(master.Pid), master.Uid
	if fd, err := unix.PidfdOpen(c.pid, 0); err == nil {
		c.pidfd = fd
	}
	c.first.Store(conn)
	return c, nil
}

// dial returns Connect's connection, once, while the master still waits for a request
// on it, and else a new one.
func (c *Client) dial() (net.Conn, error) {
	if conn := c.first.Swap(nil); conn != nil {
		if time.Since(c.connected) < standard().read/2 {
			return conn, nil
		}
		conn.Close()
	}
	conn, err := dial(c.at.socket())
	if err != nil {
		return nil, err
	}
	if master, err := peerOf(conn.UnixConn); err != nil || master.Uid != c.uid { // a link has been put there
		conn.Close()
		return nil, fmt.Errorf("another user answers there now (%v)", err)
	}
	return conn, nil
}

// Close closes the pidfd, and Connect's connection.
func (c *Client) Close() {
	if conn := c.first.Swap(nil); conn != nil {
		conn.Close()
	}
	unix.Close(c.pidfd) // or nothing
	c.pidfd = -1
}

// ReadIn has as many clients at a time read an answer as the channel has room for: an answer
// may be large, and a client that waits for one takes no room.
func (c *Client) ReadIn(room chan struct{}) { c.room = room }

// At returns where the app is.
func (c *Client) At() Location { return c.at }

// Foreign reports whether the master is another user's, and not root's: what it
// answers is not to be acted upon.
func (c *Client) Foreign() bool { return c.uid != 0 && int(c.uid) != os.Geteuid() }

// PID returns the master's pid, as the kernel knows it.
func (c *Client) PID() int { return c.pid }

// Status returns the answer to GET /v1/status.
func (c *Client) Status(ctx context.Context) (App, error) {
	return call[App](ctx, c, "/v1/status", nil)
}

// Summary returns the answer to GET /v1/summary.
func (c *Client) Summary(ctx context.Context) (Summary, error) {
	return call[Summary](ctx, c, "/v1/summary", nil)
}

// Describe returns the answer to GET /v1/describe.
func (c *Client) Describe(ctx context.Context) (Description, error) {
	return call[Description](ctx, c, "/v1/describe", nil)
}

// Scale asks for another number of slots. It returns when that is wanted; poll
// Status to see them come and go.
func (c *Client) Scale(ctx context.Context, s Scale) (Scaled, error) {
	return call[Scaled](ctx, c, "/v1/scale", scaling{s})
}

// DrainHost asks balancers to send nothing more here, or to send again.
func (c *Client) DrainHost(ctx context.Context, draining bool) error {
	path := "/v1/resume"
	if draining {
		path = "/v1/drain"
	}
	_, err := call[any](ctx, c, path, struct{}{})
	return err
}

// Send hands a message to workers.
func (c *Client) Send(ctx context.Context, m Message) (Sent, error) {
	return call[Sent](ctx, c, "/v1/send", m)
}

// Execute hands over a command of the fleet. A refusal is an *Error.
func (c *Client) Execute(ctx context.Context, command Command) error {
	_, err := call[any](ctx, c, "/v1/command", command)
	return err
}

// Reload asks for a roll. With r.Wait it returns when that has ended, however
// it did: the Result tells. Poll Status meanwhile to notice a master that hangs.
func (c *Client) Reload(ctx context.Context, r Reload) (Rolled, error) {
	return call[Rolled](ctx, c, "/v1/reload", r)
}

// Stop asks the master to end, at once with now. It returns when that has
// begun; Gone waits for the end.
func (c *Client) Stop(ctx context.Context, now bool) error {
	_, err := call[any](ctx, c, "/v1/stop", Stop{Now: now})
	const exiting = 1000 // ms: a process that ends closes its files before its end is seen
	if _, ok := errors.AsType[*NoAnswerError](err); ok && c.ended(exiting) {
		return nil // it was quicker to end than to answer
	}
	return err
}

// Gone waits until the master's process has ended, by a pidfd that was opened
// before the master answered: never another process of the same number.
func (c *Client) Gone(ctx context.Context) error {
	if c.pidfd < 0 {
		return fmt.Errorf("cannot see the master of %s from here: it has been asked to end, and is not waited for", c.at.Name)
	}
	const poll = 100 // ms, of ctx; the end itself is noticed at once
	for !c.ended(poll) {
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// ended reports whether the master's process has ended, within ms milliseconds.
func (c *Client) ended(ms int) bool {
	fds := []unix.PollFd{{Fd: int32(c.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, ms)
	return err == nil && n == 1
}

// call sends one request, a POST with body as JSON unless that is nil. A refusal is
// an *Error. Only a reload that is waited for has no timeout.
func call[T any](ctx context.Context, c *Client, path string, body any) (answer T, err error) {
	if r, ok := body.(Reload); !ok || !r.Wait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.wait)
		defer cancel()
	}
	method := http.MethodGet
	var payload bytes.Buffer
	if body != nil {
		method = http.MethodPost
		encoder := json.NewEncoder(&payload)
		encoder.SetEscapeHTML(false) // the largest message must not grow
		if err := encoder.Encode(body); err != nil {
			return answer, fmt.Errorf("cannot ask: %v", err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, baseURL+path, &payload)
	if err == nil {
		_, err = c.exchange(request, &answer)
	}
	return answer, err
}

const baseURL = "http://forkd"

// exchange sends a request and decodes the answer. A refusal is an *Error.
func (c *Client) exchange(request *http.Request, answer any) (http.Header, error) {
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return nil, c.translateError(err)
	}
	defer response.Body.Close()
	if c.room != nil {
		c.room <- struct{}{} // each reader has c.wait
		defer func() { <-c.room }()
	}
	return response.Header, c.readAnswer(response, answer)
}

// readAnswer decodes an answer's body, whatever its length is said to be. A refusal is
// an *Error, but the answer of a roll that has failed is none.
func (c *Client) readAnswer(response *http.Response, answer any) error {
	data, err := io.ReadAll(io.LimitReader(response.Body, answerSize+1))
	ok := response.StatusCode/100 == 2
	var refusal struct{ Result, Error string }
	switch {
	case len(data) > answerSize:
		err = fmt.Errorf("its answer is larger than %d bytes", answerSize)
	case err != nil:
	case values(data) > answerValues:
		err = fmt.Errorf("its answer has more than %d values", answerValues)
	case !ok && json.Unmarshal(data, &refusal) != nil:
		err = fmt.Errorf("HTTP status %d without a reason", response.StatusCode)
	case !ok && refusal.Result == "":
		return &Error{Code: response.StatusCode, Text: refusal.Error}
	default:
		if err = json.Unmarshal(data, answer); err == nil {
			return nil
		}
		err = fmt.Errorf("its answer is not understood: %v", err)
	}
	return c.translateError(err)
}

// values counts JSON's values, by the commas between them.
func values(data []byte) int {
	n, quoted := 1, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++
		case c == ',' && !quoted:
			n++
		}
	}
	return n
}

// translateError puts a failed exchange into words: the master is gone, or it does
// not answer.
func (c *Client) translateError(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		return &NoAppError{Name: c.at.Name}
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("nothing within %v", c.wait)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE),
		strings.HasSuffix(err.Error(), "server closed idle connection"): // net/http's, before the request was sent
		if c.pidfd >= 0 && c.ended(100) {
			return &NoAnswerError{App: c.at.Name, Why: fmt.Sprintf("its master (pid %d) has ended", c.pid)}
		}
		err = errors.New("it closed the connection")
	case errors.Is(err, unix.EAGAIN):
		err = errors.New("its queue of clients is full")
	}
	return &NoAnswerError{App: c.at.Name, PID: c.pid, Why: err.Error()}
}
