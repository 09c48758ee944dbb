package systemd_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A load is clients that ask one request after the other, never try one again,
// and sort what fails. Half of them take a connection for each request, half
// keep theirs until the server says Connection: close.
type load struct {
	t    *testing.T
	stop chan struct{}
	all  sync.WaitGroup

	mu       sync.Mutex
	answered int
	failed   map[string]int // by kind
	examples []string
}

const (
	patience = time.Minute     // for one request, from the first SYN to the last byte
	longest  = 5 * time.Minute // for all of a load, should a test forget it
	enough   = 100             // requests: what has fewer is no load
)

// newLoad begins to ask. The test that began it ends it.
func newLoad(t *testing.T, port, clients int) *load {
	t.Helper()
	l := &load{t: t, stop: make(chan struct{}), failed: map[string]int{}}
	for i := range clients {
		l.all.Go(func() { l.client(port, i%2 == 0) })
	}
	return l
}

// none ends the load, once it has been one, and says that not one request may have
// failed.
func (l *load) none() {
	l.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end) && l.asked() < enough; {
		time.Sleep(10 * time.Millisecond)
	}
	close(l.stop)
	l.all.Wait()
	if len(l.failed) > 0 {
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(l.failed)) {
			kinds = append(kinds, fmt.Sprintf("%s %d", kind, l.failed[kind]))
		}
		l.t.Errorf("of %d requests failed: %s\n%s", l.answered, strings.Join(kinds, ", "), strings.Join(l.examples, "\n"))
	}
	if l.answered < enough {
		l.t.Errorf("only %d requests were answered: that is no load", l.answered)
	}
	l.t.Logf("%d requests", l.answered)
}

// asked is how many requests have ended.
func (l *load) asked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answered
}

func (l *load) client(port int, keeps bool) {
	var c *connection
	defer func() { c.close() }()
	for end := time.Now().Add(longest); time.Now().Before(end); {
		select {
		case <-l.stop:
			return
		default:
		}
		reused := c != nil
		var err error
		if !reused {
			c, err = dial(port)
		}
		done := true
		if err == nil {
			_, done, err = c.ask("/", keeps)
		}
		l.count(err, keeps, reused)
		time.Sleep(5 * time.Millisecond) // the machine is for forkd
		if done || err != nil {
			c.close()
			c = nil
		}
	}
}

func (l *load) count(err error, keeps, reused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answered++
	if err == nil {
		return
	}
	kind := sort(err)
	if keeps {
		kind = "keep-alive " + kind
	}
	l.failed[kind]++
	if len(l.examples) < 5 {
		l.examples = append(l.examples, fmt.Sprintf("%s %s (on a connection used before: %v): %v", time.Now().Format("15:04:05.000"), kind, reused, err))
	}
}

// sort finds the kind of a failure.
func sort(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "eof"
	}
	return "other"
}

// connection is one of a client's, nil when there is none.
type connection struct {
	net.Conn
	reader *bufio.Reader
}

func dial(port int) (*connection, error) {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), patience)
	if err != nil {
		return nil, err
	}
	return &connection{conn, bufio.NewReader(conn)}, nil
}

// ask sends one request and reads the answer, and whether it is the
// connection's last.
func (c *connection) ask(path string, keep bool) (body string, last bool, err error) {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", true, err
	}
	header := ""
	if !keep {
		header = "Connection: close\r\n"
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: test\r\n%s\r\n", path, header); err != nil {
		return "", true, err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return "", true, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return string(data), response.Close || !keep, err
}

func (c *connection) close() {
	if c != nil {
		c.Conn.Close()
	}
}

// get is one request on a connection of its own.
func (a *app) get(path string) (body string, err error) {
	c, err := dial(a.port)
	if err != nil {
		return "", err
	}
	defer c.close()
	body, _, err = c.ask(path, false)
	return body, err
}

// from is the pid of the worker that gave an answer.
func from(t *testing.T, body string) int {
	t.Helper()
	var pid int
	if _, err := fmt.Sscanf(body, "%d ", &pid); err != nil {
		t.Fatalf("no answer of a worker: %q", body)
	}
	return pid
}
