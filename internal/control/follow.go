package control

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// silence is how long a stream may say nothing: three heartbeats.
const silence = 45 * time.Second

const maxEventLine = 1 << 20 // bytes

// Events calls f with what has happened since the event that is named ("": with
// all that is kept) and its id. With follow it goes on until the app has ended,
// which is its last event and no error, or f returns an error, which it returns.
// A master that vanishes or falls silent is a *NoAnswerError.
func (c *Client) Events(ctx context.Context, after string, follow bool, f func(id string, e Event) error) error {
	if follow {
		return c.follow(ctx, "/v1/events?follow=1", after, func(id, _ string, data []byte) (bool, error) {
			var e Event
			if err := json.Unmarshal(data, &e); err != nil {
				return false, c.translateError(fmt.Errorf("its event is not understood: %v", err))
			}
			return e.Type == EventDown, f(id, e)
		})
	}
	request, err := newStreamRequest(ctx, "/v1/events?follow=0", "application/json", after)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	var events []Event
	header, err := c.exchange(request.WithContext(ctx), &events)
	if err != nil {
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

func newStreamRequest(ctx context.Context, path, accept, after string) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, baseURL+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", accept)
	if after != "" {
		request.Header.Set(lastEventID, after)
	}
	return request, nil
}

var errSilent = errors.New("it has fallen silent")

// follow reads server-sent events until they end. f says which was the last.
func (c *Client) follow(ctx context.Context, path, after string, f func(id, kind string, data []byte) (last bool, err error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := newStreamRequest(ctx, path, "text/event-stream", after)
	if err != nil {
		return err
	}
	timeout := time.AfterFunc(c.wait, func() { cancel(errSilent) })
	defer timeout.Stop()
	failed := func(err error) error {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return c.translateError(err)
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return failed(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return c.readAnswer(response, new(any))
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxEventLine)
	id, kind, last := "", "", false
	for timeout.Reset(silence); lines.Scan(); timeout.Reset(silence) {
		field, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch string(field) {
		case "id":
			id = string(value)
		case "event":
			kind = string(value)
		case "data":
			if last, err = f(id, kind, value); err != nil {
				return err
			}
		}
	}
	switch err := cmp.Or(lines.Err(), io.EOF); {
	case last:
		return nil
	case errors.Is(err, bufio.ErrTooLong):
		return c.translateError(fmt.Errorf("it has sent a line of more than %d bytes", maxEventLine))
	default:
		return failed(err)
	}
}
