package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"time"
)

// silence is how long a stream may say nothing: three heartbeats.
const silence = 45 * time.Second

// maxEventLine bounds a line of a stream, in bytes.
const maxEventLine = 1 << 20

// Events calls f with what has happened since the event that is named ("": with
// all that is kept) and its id. With follow it goes on until the app has ended,
// which is its last event and no error, or f returns an error, which it returns.
// A master that vanishes or falls silent is a *NoAnswerError.
func (c *Client) Events(ctx context.Context, after string, follow bool, f func(id string, e Event) error) error {
	path, accept := "/v1/events?follow=0", "application/json"
	if follow {
		path, accept = "/v1/events?follow=1", "text/event-stream"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://forkd"+path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", accept)
	if after != "" {
		request.Header.Set(lastEventID, after)
	}
	if follow {
		return c.stream(ctx, request, f)
	}
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	status, header, data, err := c.persist(ctx, request)
	if err != nil {
		return c.silent(err)
	}
	if err := c.refusal(status, data); err != nil {
		return err
	}
	var events []Event
	if err := c.decode(data, &events); err != nil {
		return err
	}
	last := parsePosition(header.Get(lastEventID))
	for _, e := range events {
		if err := f(position{last.boot, e.Seq}.String(), e); err != nil {
			return err
		}
	}
	return nil
}

// stream reads server-sent events until they end. With 408 a busy master says
// that it has not waited for the request: it is sent again.
func (c *Client) stream(ctx context.Context, request *http.Request, f func(id string, e Event) error) error {
	for deadline := time.Now().Add(c.wait); ; {
		err := c.streamOnce(ctx, request, f)
		if !errors.Is(err, errTooSlow) {
			return err
		}
		if time.Now().After(deadline) {
			return c.silent(context.DeadlineExceeded)
		}
	}
}

// streamOnce is stream on one connection; errTooSlow for 408.
func (c *Client) streamOnce(ctx context.Context, request *http.Request, f func(id string, e Event) error) error {
	conn, err := dial(c.at)
	if err != nil {
		return c.silent(err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	failed := func(err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = errors.New("it has fallen silent")
		}
		return c.silent(err)
	}
	_ = conn.SetDeadline(time.Now().Add(c.wait))
	if err := request.Write(conn); err != nil {
		return failed(err)
	}
	from := &io.LimitedReader{R: conn}
	response, err := readHeader(from, request)
	if err != nil {
		return failed(err)
	}
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusRequestTimeout:
		return errTooSlow
	default:
		data, err := readBody(from, response)
		if err != nil {
			return failed(err)
		}
		return c.refusal(response.StatusCode, data)
	}
	from.N = math.MaxInt64 // no end, but of each line
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxEventLine)
	var id string
	var data []byte
	down := false
	for {
		_ = conn.SetDeadline(time.Now().Add(silence))
		if !lines.Scan() {
			break
		}
		field, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch {
		case string(field) == "id":
			id = string(value)
		case string(field) == "data":
			data = bytes.Clone(value)
		case len(lines.Bytes()) == 0 && data != nil:
			var e Event
			if err := json.Unmarshal(data, &e); err != nil {
				return c.silent(fmt.Errorf("its event is not understood: %v", err))
			}
			if err := f(id, e); err != nil {
				return err
			}
			data, down = nil, e.Type == EventDown
		}
	}
	switch err := lines.Err(); {
	case down:
		return nil
	case errors.Is(err, bufio.ErrTooLong):
		return c.silent(fmt.Errorf("it has sent a line of more than %d bytes", maxEventLine))
	case err != nil:
		return failed(err)
	default:
		return failed(io.EOF)
	}
}
