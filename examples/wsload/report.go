package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/forkd/forkd/examples/websocket/chat"
)

// figures is what all users have seen.
type figures struct {
	mu    sync.Mutex
	sum   Report // its counts, and the last error
	times histogram
}

func (f *figures) see(what func(*Report)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	what(&f.sum)
}

// numbered follows the number of a message, after the one that the user had before.
func (r *Report) numbered(last, id chat.ID) {
	r.Received++
	switch {
	case !last.Before(id):
		r.Doubled++
	case last == chat.ID{}: // the first one of a room
		r.Missed += int64(id.Seq - 1)
	case last.Epoch != id.Epoch:
		r.Resets++
	default:
		r.Missed += int64(id.Seq - last.Seq - 1)
	}
}

// ended counts the end of a connection, or of an attempt.
func (r *Report) ended(how ending) {
	*[endings]*int64{
		failed: &r.Failed, refused: &r.Refused, lost: &r.Lost, restarted: &r.Restarted, shed: &r.Shed, closed: &r.Closed, left: &r.Left,
	}[how]++
}

func (f *figures) note(err error) {
	if err != nil {
		f.see(func(r *Report) { r.LastError = err.Error() })
	}
}

// Report is what is printed, with -json as it is. Counts are since the beginning, but for Users, Open and Hosts.
type Report struct {
	Seconds   float64        `json:"seconds"` // since the beginning
	Final     bool           `json:"final"`
	Users     int            `json:"users"`
	Open      int            `json:"open"`
	Hosts     map[string]int `json:"hosts"` // open connections of each
	Opened    int64          `json:"opened"`
	Lost      int64          `json:"lost"`
	Restarted int64          `json:"restarted"`
	Shed      int64          `json:"shed"`
	Refused   int64          `json:"refused"`
	Failed    int64          `json:"failed"`
	Closed    int64          `json:"closed"`
	Left      int64          `json:"left"`
	Back      Times          `json:"back"`
	Said      int64          `json:"said"`
	Received  int64          `json:"received"`
	Missed    int64          `json:"missed"`
	Doubled   int64          `json:"doubled"`
	Unheard   int64          `json:"unheard"`
	Repeated  int64          `json:"repeated"`
	Resets    int64          `json:"resets"`
	Forgotten int64          `json:"forgotten"`
	LastError string         `json:"last_error,omitempty"`
}

// Times is of those who came back, in seconds. Quantiles are at most 2 % too long.
type Times struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func (c *crowd) report(since time.Duration) Report {
	f := &c.seen
	f.mu.Lock()
	r, times := f.sum, f.times
	f.mu.Unlock()
	r.Seconds = since.Seconds()
	r.Users, r.Open, r.Hosts = c.hosts()
	r.Back = Times{Count: times.count, P50: times.quantile(0.5).Seconds(), P99: times.quantile(0.99).Seconds(), Max: times.longest.Seconds()}
	return r
}

// print writes a line of what is not 0, and with withError another of the last error.
func (r Report) print(w io.Writer, asJSON, withError bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	line := fmt.Sprintf("%4.0fs", r.Seconds)
	if r.Final {
		line = "  end"
	}
	line += fmt.Sprintf(" users %d open %d", r.Users, r.Open)
	for _, f := range []struct {
		name  string
		count int64
	}{
		{"lost", r.Lost},
		{"restarted", r.Restarted},
		{"shed", r.Shed},
		{"refused", r.Refused},
		{"failed", r.Failed},
		{"closed", r.Closed},
		{"back", r.Back.Count},
		{"said", r.Said},
		{"received", r.Received},
		{"missed", r.Missed},
		{"doubled", r.Doubled},
		{"unheard", r.Unheard},
		{"repeated", r.Repeated},
		{"resets", r.Resets},
		{"forgotten", r.Forgotten},
	} {
		if f.count == 0 {
			continue
		}
		line += fmt.Sprintf(" %s %d", f.name, f.count)
		if f.name == "back" {
			line += fmt.Sprintf(" (p50 %.2fs p99 %.2fs max %.2fs)", r.Back.P50, r.Back.P99, r.Back.Max)
		}
	}
	before := " on"
	for _, host := range slices.Sorted(maps.Keys(r.Hosts)) {
		line += fmt.Sprintf("%s %s %d", before, host, r.Hosts[host])
		before = ","
	}
	_, err := fmt.Fprintln(w, line)
	if err == nil && withError && r.LastError != "" {
		_, err = fmt.Fprintln(w, "      the last error:", r.LastError)
	}
	return err
}

// histogram counts durations in buckets that are 2 % wide, from 1 ms to an hour.
type histogram struct {
	buckets [800]int64
	count   int64
	longest time.Duration
}

const width = 1.02

func (h *histogram) record(d time.Duration) {
	i := math.Log(max(1, float64(d)/float64(time.Millisecond))) / math.Log(width)
	h.buckets[min(int(i), len(h.buckets)-1)]++
	h.count++
	h.longest = max(h.longest, d)
}

// quantile is a duration that a share q of all is not longer than.
func (h *histogram) quantile(q float64) time.Duration {
	rank := max(1, int64(math.Ceil(q*float64(h.count))))
	for i, n := range h.buckets {
		if rank -= n; rank <= 0 {
			return min(h.longest, time.Duration(math.Pow(width, float64(i+1))*float64(time.Millisecond)))
		}
	}
	return h.longest
}
