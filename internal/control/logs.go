package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/forkd/forkd/internal/output"
)

// Logs answers GET /v1/logs.
type Logs struct {
	Directory string `json:"directory"` // of the log's files, which have more lines; "": there are none
	output.Page
	end bool // no page follows
}

// Bounds on the lines of one answer, or of one page of a stream.
const (
	defaultLines = 15
	maxLines     = 1000
	maxLogText   = 1 << 20 // bytes of text, which JSON may make six times as many
	maxPattern   = 1 << 10 // bytes of a regular expression
)

// logPause is between two pages of a stream: a flood costs the master no more.
const logPause = 100 * time.Millisecond

// logs answers with the newest lines, and with ?follow=1 goes on as they come: server-sent
// events, whose ids are the lines' times.
func (a *api) logs(w http.ResponseWriter, r *http.Request, _ []byte) (int, any, error) {
	values := r.URL.Query()
	follow, err := boolean(values, "follow")
	if err != nil {
		return 0, nil, err
	}
	query, err := logQuery(values)
	if err != nil {
		return 0, nil, err
	}
	kept, err := a.backend.Logs(r.Context(), query)
	kept.shorten()
	if err != nil || !follow {
		kept.Lines = append([]output.Line{}, kept.Lines...) // [], never null
		return http.StatusOK, kept, err
	}
	query.N = maxLines
	kept.Missed = 0 // of what a reader did not ask for
	return 0, nil, a.stream(w, r, kept, func(ctx context.Context) (page, error) {
		select {
		case <-time.After(logPause):
		case <-r.Context().Done():
		}
		query.Since, query.Seen = kept.Last, kept.Count
		if r.Context().Err() != nil {
			ctx = context.WithoutCancel(ctx) // the app has ended: its last lines too
		}
		kept, err = a.backend.Logs(ctx, query)
		kept.shorten()
		kept.end = r.Context().Err() != nil
		return kept, err
	})
}

// boolean reads a parameter, false without it.
func boolean(values url.Values, name string) (bool, error) {
	switch value := values.Get(name); value {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	default:
		return false, &Error{http.StatusBadRequest, fmt.Sprintf("%s=%.20q: use 0 or 1", name, value)}
	}
}

func logQuery(values url.Values) (output.Query, error) {
	q := output.Query{N: defaultLines}
	bad := func(name, use string) (output.Query, error) {
		return q, &Error{http.StatusBadRequest, fmt.Sprintf("%s=%.80q: %s", name, values.Get(name), use)}
	}
	if n := values.Get("n"); n != "" {
		number, err := strconv.Atoi(n)
		if err != nil || number < 0 || number > maxLines {
			return bad("n", fmt.Sprintf("use 0 to %d", maxLines))
		}
		q.N = number
	}
	if slot := values.Get("slot"); slot != "" {
		number, err := strconv.Atoi(slot)
		if err != nil || number < 0 {
			return bad("slot", "use a slot's number")
		}
		q.Slot = &number
	}
	if since := values.Get("since"); since != "" {
		at, err := time.Parse(time.RFC3339Nano, since)
		if err != nil {
			return bad("since", "use a time as in "+time.RFC3339)
		}
		q.Since = at
	}
	if pattern := values.Get("grep"); pattern != "" {
		re, err := regexp.Compile(pattern)
		if err != nil || len(pattern) > maxPattern {
			return bad("grep", "it is no regular expression of at most 1024 bytes")
		}
		q.Grep = re
	}
	return q, nil
}

// shorten gives up the oldest lines of a page that is too large.
func (l *Logs) shorten() {
	size, from := 0, len(l.Lines)
	for from > 0 && size+len(l.Lines[from-1].Line) <= maxLogText {
		from--
		size += len(l.Lines[from].Line)
	}
	l.Lines = l.Lines[from:]
	l.Missed += uint64(from)
}

func (l Logs) more() <-chan struct{} { return l.More }

func (l Logs) write(to io.Writer) {
	if l.Missed > 0 {
		fmt.Fprintf(to, "event: missed\ndata: %d\n\n", l.Missed)
	}
	for _, line := range l.Lines {
		fmt.Fprintf(to, "id: %s\nevent: line\ndata: %s\n\n", line.Time.Format(time.RFC3339Nano), MustMarshal(line))
	}
	if l.end {
		fmt.Fprint(to, "event: end\ndata: 0\n\n")
	}
}

// logPath asks for the lines of a query, maxLines at most.
func logPath(q output.Query, follow bool) string {
	values := url.Values{"n": {strconv.Itoa(min(q.N, maxLines))}}
	if q.Grep != nil {
		values.Set("grep", q.Grep.String())
	}
	if q.Slot != nil {
		values.Set("slot", strconv.Itoa(*q.Slot))
	}
	if !q.Since.IsZero() {
		values.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if follow {
		values.Set("follow", "1")
	}
	return "/v1/logs?" + values.Encode()
}

// Logs returns the newest lines that the master has in memory, and where its files are.
func (c *Client) Logs(ctx context.Context, q output.Query) (directory string, lines []output.Line, err error) {
	answer, err := call[Logs](ctx, c, logPath(q, false), nil)
	return answer.Directory, answer.Lines, err
}

// FollowLogs calls line with the newest lines and those that come, and missed with how many
// came too fast to be read, until the app has ended, which is no error, or line returns an
// error.
func (c *Client) FollowLogs(ctx context.Context, q output.Query, line func(output.Line) error, missed func(lines uint64)) error {
	return c.follow(ctx, logPath(q, true), "", func(_, kind string, data []byte) (bool, error) {
		switch kind {
		case "end":
			return true, nil
		case "missed":
			n, err := strconv.ParseUint(string(data), 10, 64)
			if err == nil {
				missed(n)
			}
			return false, err
		case "line":
			var l output.Line
			if err := json.Unmarshal(data, &l); err != nil {
				return false, c.translateError(fmt.Errorf("its line is not understood: %v", err))
			}
			return false, line(l)
		}
		return false, nil
	})
}
