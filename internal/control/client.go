package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Client talks to one app. Connect makes it; its owner calls Close.
type Client struct {
	at    Location
	pid   int
	uid   uint32
	pidfd int           // -1: the master can't be seen from this pid namespace
	wait  time.Duration // for an answer, but of a reload that is waited for
}

// What one answer may cost. Whoever has a directory that clients look in can
// answer: root looks in those of all users.
const (
	answerTime   = 5 * time.Second
	answerSize   = 8 << 20 // bytes, beside maxHeader; 1024 slots with two workers each take under 1 MiB
	answerValues = 1 << 17 // in JSON: an element of three bytes becomes one of a hundred and more; the same take 45,000
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
	c := &Client{at: at, pidfd: -1, wait: answerTime}
	conn, err := dial(at)
	if err != nil {
		return nil, c.silent(err)
	}
	defer conn.Close()
	peer, err := peerOf(conn.UnixConn)
	if err != nil {
		return nil, fmt.Errorf("cannot tell who runs %s: %v", at.Path(), err)
	}
	c.pid, c.uid = int(peer.Pid), peer.Uid
	if c.pid > 0 {
		if fd, err := unix.PidfdOpen(c.pid, 0); err == nil {
			c.pidfd = fd
		}
	}
	return c, nil
}

// Close lets go of the master.
func (c *Client) Close() {
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
		c.pidfd = -1
	}
}

// At returns where the app is.
func (c *Client) At() Location { return c.at }

// Foreign reports whether the master is another user's, and not root's: what it
// answers is not to be acted upon.
func (c *Client) Foreign() bool { return c.uid != 0 && int(c.uid) != os.Geteuid() }

// PID returns the master's pid, as the kernel knows it.
func (c *Client) PID() int { return c.pid }

// Status asks what GET /v1/status answers.
func (c *Client) Status(ctx context.Context) (App, error) {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	var app App
	err := c.ask(ctx, http.MethodGet, "/v1/status", nil, &app)
	return app, err
}

// Describe asks what GET /v1/describe answers.
func (c *Client) Describe(ctx context.Context) (Description, error) {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	var d Description
	err := c.ask(ctx, http.MethodGet, "/v1/describe", nil, &d)
	return d, err
}

// Scale asks for another number of slots. It returns when that is wanted; poll
// Status to see them come and go.
func (c *Client) Scale(ctx context.Context, s Scale) (Scaled, error) {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	var scaled Scaled
	err := c.ask(ctx, http.MethodPost, "/v1/scale", s.body(), &scaled)
	return scaled, err
}

// DrainHost asks balancers to send nothing more here, or to send again.
func (c *Client) DrainHost(ctx context.Context, draining bool) error {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	path := "/v1/resume"
	if draining {
		path = "/v1/drain"
	}
	return c.ask(ctx, http.MethodPost, path, nil, nil)
}

// Send hands a message to workers.
func (c *Client) Send(ctx context.Context, m Message) (Sent, error) {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	var sent Sent
	err := c.ask(ctx, http.MethodPost, sendPath, m, &sent)
	return sent, err
}

// Execute hands over a command of the fleet. A refusal is an *Error.
func (c *Client) Execute(ctx context.Context, command Command) error {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	return c.ask(ctx, http.MethodPost, "/v1/command", command, nil)
}

// Reload asks for a roll. With r.Wait it returns when that has ended, however
// it did: the Result tells. Poll Status beside it to notice a master that hangs.
func (c *Client) Reload(ctx context.Context, r Reload) (Rolled, error) {
	if !r.Wait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.wait)
		defer cancel()
	}
	var rolled Rolled
	err := c.ask(ctx, http.MethodPost, "/v1/reload", r, &rolled)
	return rolled, err
}

// Stop asks the master to end, at once with now. It returns when that has
// begun; Gone waits for the end.
func (c *Client) Stop(ctx context.Context, now bool) error {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	err := c.ask(ctx, http.MethodPost, "/v1/stop", Stop{Now: now}, nil)
	const exiting = 1000 // ms: a process that ends closes its files before its end is seen
	if _, silent := errors.AsType[*NoAnswerError](err); silent && c.ended(exiting) {
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
	const look = 100 // ms between looks at ctx; the end itself is noticed at once
	for !c.ended(look) {
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// ended reports whether the master's process has ended, within ms milliseconds.
func (c *Client) ended(ms int) bool {
	if c.pidfd < 0 {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(c.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, ms)
	return err == nil && n == 1
}

// ask sends one request, body as JSON unless it is nil, and decodes the answer
// into answer unless that is nil. A refusal is an *Error.
func (c *Client) ask(ctx context.Context, method, path string, body, answer any) error {
	var payload io.Reader
	if body != nil {
		var data bytes.Buffer
		encoder := json.NewEncoder(&data)
		encoder.SetEscapeHTML(false) // a message may be as large as it may, and must not grow
		if err := encoder.Encode(body); err != nil {
			return fmt.Errorf("cannot ask: %v", err)
		}
		payload = &data
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://forkd"+path, payload)
	if err != nil {
		return err
	}
	status, _, data, err := c.persist(ctx, request)
	if err != nil {
		return c.silent(err)
	}
	if err := c.refusal(status, data); err != nil {
		return err
	}
	if answer == nil {
		return nil
	}
	return c.decode(data, answer)
}

// decode reads an answer's JSON.
func (c *Client) decode(data []byte, answer any) error {
	if values(data) > answerValues {
		return c.silent(fmt.Errorf("its answer has more than %d values", answerValues))
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return c.silent(fmt.Errorf("its answer is not understood: %v", err))
	}
	return nil
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

// refusal makes an error of an answer that is one.
func (c *Client) refusal(status int, data []byte) error {
	if status/100 == 2 {
		return nil
	}
	var refusal struct {
		Result string `json:"result"`
		Error  string `json:"error"`
	}
	if err := json.Unmarshal(data, &refusal); err != nil {
		return c.silent(fmt.Errorf("HTTP status %d without a reason", status))
	}
	if refusal.Result != "" { // the answer of a roll that failed
		return nil
	}
	return &Error{Code: status, Text: refusal.Error}
}

// persist sends a request until it is answered: with 408 a busy master says that
// it has not waited for it.
func (c *Client) persist(ctx context.Context, request *http.Request) (status int, header http.Header, body []byte, err error) {
	for deadline := time.Now().Add(c.wait); ; {
		status, header, body, err = c.exchange(ctx, request)
		if err != nil || status != http.StatusRequestTimeout {
			return status, header, body, err
		}
		if time.Now().After(deadline) {
			return 0, nil, nil, context.DeadlineExceeded
		}
		if request.GetBody != nil {
			if request.Body, err = request.GetBody(); err != nil {
				return 0, nil, nil, err
			}
		}
	}
}

// exchange sends a request on a connection of its own and reads the answer. It
// does without http.Client for the reason that the server does without
// http.Server: they are one program.
func (c *Client) exchange(ctx context.Context, request *http.Request) (status int, header http.Header, body []byte, err error) {
	conn, err := dial(c.at)
	if err != nil {
		return 0, nil, nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer func() {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
	}()
	sent := request.Write(conn)
	from := &io.LimitedReader{R: conn}
	response, err := readHeader(from, request)
	switch {
	case err != nil && sent != nil:
		return 0, nil, nil, sent
	case err != nil: // who refuses does not take all of the request first
		return 0, nil, nil, err
	}
	body, err = readBody(from, response)
	return response.StatusCode, response.Header, body, err
}

// readHeader reads an answer's status line and headers.
func readHeader(from *io.LimitedReader, request *http.Request) (*http.Response, error) {
	from.N = maxHeader
	response, err := http.ReadResponse(bufio.NewReader(from), request)
	if err != nil && from.N == 0 {
		err = fmt.Errorf("the headers of its answer are larger than %d bytes", maxHeader)
	}
	return response, err
}

// readBody reads the rest, whatever its length is said to be.
func readBody(from *io.LimitedReader, response *http.Response) ([]byte, error) {
	from.N = answerSize + 1
	body, err := io.ReadAll(response.Body)
	if from.N == 0 {
		err = fmt.Errorf("its answer is larger than %d bytes", answerSize)
	}
	return body, err
}

// silent puts a failed exchange into words: the master is gone, or it does not
// answer.
func (c *Client) silent(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT):
		return &NoAppError{c.at.Name}
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("nothing within %v", c.wait)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		err = errors.New("it closed the connection")
	case errors.Is(err, unix.EAGAIN):
		err = errors.New("its queue of clients is full")
	}
	return &NoAnswerError{App: c.at.Name, PID: c.pid, Why: err.Error()}
}
