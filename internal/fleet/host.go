package fleet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

// Host is the report of a host. A figure that is not known is nil: null in JSON,
// never 0. Times are by Redis's clock.
type Host struct {
	ID          string     `json:"host"`    // at most 256 bytes; with a Problem, it may hold anything
	Problem     string     `json:"problem"` // what is wrong with the report; "" nothing. Printable
	Boot        string     `json:"boot"`
	Twin        string     `json:"twin"` // the boot of another that reports by the same id; "" none is known
	Addresses   []string   `json:"addresses"`
	Metrics     string     `json:"metrics"` // HOST:PORT where its master answers /metrics, as it was told; "" nowhere
	State       string     `json:"state"`   // "starting", "ready", "draining", "stopping"; "" not known
	Version     string     `json:"version"`
	Generation  *int64     `json:"generation"`
	Wanted      *int64     `json:"wanted"`
	Ready       *int64     `json:"ready"`
	Connections *int64     `json:"connections"`
	Capacity    *int64     `json:"capacity"`    // more than 0
	Utilization *float64   `json:"utilization"` // percent
	Accepted    *int64     `json:"accepted"`
	Requests    *int64     `json:"requests"`
	Refused     *int64     `json:"refused"`
	Restarts    *int64     `json:"restarts"`
	Moved       *int64     `json:"moved"` // connections that one worker has handed to another
	Queue       *int64     `json:"queue"`
	CPUPercent  *float64   `json:"cpu_percent"` // 100 is one core
	RSSBytes    *int64     `json:"rss_bytes"`
	StartedAt   *time.Time `json:"started_at"`
	UpdatedAt   *time.Time `json:"updated_at"`
	Age         *float64   `json:"age"`      // seconds since UpdatedAt
	Interval    *float64   `json:"interval"` // seconds between heartbeats
	Seq         *int64     `json:"seq"`      // of the heartbeat
	Control     *bool      `json:"control"`  // it executes commands from Redis; null: it does not say
	Stale       bool       `json:"stale"`    // two heartbeats are missing
	Vanished    bool       `json:"vanished"` // its report has expired: it ended without leaving
	Workers     []Worker   `json:"workers"`  // null: not asked for, or not known
}

// What a host's state is called where it is not what it reports.
const (
	StateStale    = "stale"
	StateVanished = "vanished"
)

// Shown is the state that a host is shown in; "" where it is not known.
func (h *Host) Shown() string {
	switch {
	case h.Vanished:
		return StateVanished
	case h.Stale:
		return StateStale
	}
	return h.State
}

// Obeys reports whether a host has said that it executes commands from Redis.
func (h *Host) Obeys() bool { return h.Control != nil && *h.Control }

// Takes is how long a host takes to find a command, which it does when it reports; 0: it does
// not say.
func (h *Host) Takes() time.Duration {
	if h.Interval == nil {
		return 0
	}
	return time.Duration((2**h.Interval + 1) * float64(time.Second))
}

// The bounds of the fields of a hash.
const (
	mostText      = 256     // bytes of a string
	mostWord      = 64      // bytes of a worker's state
	mostAddresses = 64      // of a host
	mostAddress   = 8 << 10 // bytes of them all
	clockSlack    = time.Minute
)

type report struct {
	Host

	ownName                    string
	interval, started, updated *int64 // ms
	problems                   []string
}

// field is a field of a hash or an event, and where its value goes: a *string, **int,
// **int64, **float64, **bool, *[]string or *[]Worker.
type field struct {
	name string
	to   any
}

// fields are the fields after the schema, in the order of HMGET. workers is the last:
// it can be left out.
func (r *report) fields() []field {
	return []field{
		{"host", &r.ownName},
		{"boot", &r.Boot},
		{"twin", &r.Twin},
		{"addresses", &r.Addresses},
		{"metrics", &r.Metrics},
		{"state", &r.State},
		{"version", &r.Version},
		{"generation", &r.Generation},
		{"wanted", &r.Wanted},
		{"ready", &r.Ready},
		{"connections", &r.Connections},
		{"capacity", &r.Capacity},
		{"accepted", &r.Accepted},
		{"requests", &r.Requests},
		{"refused", &r.Refused},
		{"restarts", &r.Restarts},
		{"moved", &r.Moved},
		{"queue", &r.Queue},
		{"cpu_percent", &r.CPUPercent},
		{"rss_bytes", &r.RSSBytes},
		{"started_at", &r.started},
		{"updated_at", &r.updated},
		{"interval_ms", &r.interval},
		{"seq", &r.Seq},
		{"control", &r.Control},
		{"workers", &r.Workers},
	}
}

func fieldNames(withWorkers bool) []string {
	names := []string{"schema"}
	for _, f := range new(report).fields() {
		names = append(names, f.name)
	}
	if !withWorkers {
		names = names[:len(names)-1]
	}
	return names
}

// parseHost parses the values of HMGET, in the order of fieldNames, with "" for
// missing ones. Both times are by Redis's clock; at expires the host's entry in the
// list of hosts expires.
func parseHost(id string, values []string, now, expires time.Time) Host {
	r := report{Host: Host{ID: cut(id, mostText)}}
	empty := !slices.ContainsFunc(values, func(v string) bool { return v != "" })
	r.Vanished = empty || !expires.After(now)
	switch schema := values[0]; {
	case empty:
	case schema == "":
		r.bad("it doesn't say its schema: this forkd reads 1")
	case schema != "1":
		r.bad("speaks schema %s: this forkd reads 1", short(schema))
	default:
		r.read(values[1:])
		r.derive(now)
	}
	r.Problem = strings.Join(r.problems, "; ")
	return r.Host
}

func (r *report) bad(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

func (r *report) read(values []string) {
	for i, f := range r.fields()[:len(values)] {
		switch value := values[i]; {
		case len(value) > maxField:
			r.bad("%s has %d bytes: at most %d are read", f.name, len(value), maxField)
		case value != "":
			if err := set(f.to, value); err != nil {
				r.bad("%s: %v", f.name, err)
			}
		case f.name == "updated_at":
			r.bad("it doesn't say when it was updated")
		}
	}
	if r.ownName != "" && r.ownName != r.ID {
		r.bad("calls itself %s", short(r.ownName))
	}
	switch r.State {
	case "", control.StateReady, control.StateStarting, control.StateDraining, control.StateStopping:
	default:
		r.bad("state %s is not known", short(r.State))
	}
}

func set(to any, value string) (err error) {
	switch to := to.(type) {
	case *string:
		if len(value) > mostText || !printable(value) {
			return fmt.Errorf("%s cannot be shown", short(value))
		}
		*to = value
	case **int:
		*to, err = parseWhole[int](value)
	case **int64:
		*to, err = parseWhole[int64](value)
	case **float64:
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || len(value) > 32 || !(f >= 0 && f <= mostPercent) {
			return fmt.Errorf("%s is no share of a processor", short(value))
		}
		*to = &f
	case **bool:
		if value != "0" && value != "1" {
			return fmt.Errorf("%s is not 0 or 1", short(value))
		}
		*to = new(value == "1")
	case *[]string:
		*to, err = parseAddresses(value)
	case *[]Worker:
		*to, err = parseWorkers(value)
	}
	return err
}

func (r *report) derive(now time.Time) {
	if r.Capacity != nil && *r.Capacity == 0 {
		r.Capacity = nil // 0 is not known, as in the settings
	}
	if r.Capacity != nil && r.Connections != nil {
		r.Utilization = new(100 * float64(*r.Connections) / float64(*r.Capacity))
	}
	interval := redisconfig.DefaultInterval
	if ms := r.interval; ms != nil {
		if *ms < redisconfig.MinInterval.Milliseconds() || *ms > redisconfig.MaxInterval.Milliseconds() {
			r.bad("interval_ms %d is not from %d to %d", *ms, redisconfig.MinInterval.Milliseconds(), redisconfig.MaxInterval.Milliseconds())
		} else {
			interval = time.Duration(*ms) * time.Millisecond
			r.Interval = new(interval.Seconds())
		}
	}
	if r.started != nil { // not shown where the host's clock is far ahead
		if at := time.UnixMilli(*r.started); !at.After(now.Add(clockSlack)) {
			r.StartedAt = new(at.UTC())
		}
	}
	if r.updated == nil {
		return
	}
	at := time.UnixMilli(*r.updated)
	age := now.Sub(at)
	if age < -clockSlack {
		r.bad("updated_at is %s ahead of Redis's clock", (-age).Round(time.Second))
		return
	}
	r.UpdatedAt, r.Age = new(at.UTC()), new(max(age, 0).Seconds())
	r.Stale = !r.Vanished && age > 2*interval+time.Second
}

// parseWhole parses a number from 0 to 2^53 in decimal digits.
func parseWhole[T int | int64](s string) (*T, error) {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil || v < 0 || v > mostNumber || strconv.FormatInt(v, 10) != s {
		return nil, fmt.Errorf("%s is not a whole number from 0 to 2^53", short(s))
	}
	return new(T(v)), nil
}

func parseAddresses(text string) ([]string, error) {
	var list []string
	if len(text) > mostAddress || json.Unmarshal([]byte(text), &list) != nil {
		return nil, fmt.Errorf("%s is no JSON list of strings of at most %d bytes", short(text), mostAddress)
	}
	for _, address := range list {
		if len(address) > mostText || !printable(address) {
			return nil, fmt.Errorf("%s is none", short(address))
		}
	}
	if len(list) > mostAddresses {
		return list[:mostAddresses], fmt.Errorf("%d, at most %d are shown", len(list), mostAddresses)
	}
	return list, nil
}

// printable reports whether s is UTF-8 without invisible characters, such as those that
// control a terminal.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) })
}

// short quotes the first 40 bytes of s, for a Problem.
func short(s string) string {
	const most = 40
	if s == "" {
		return "nothing"
	}
	if len(s) > most {
		return fmt.Sprintf("%+q... (%d bytes)", cut(s, most), len(s))
	}
	return fmt.Sprintf("%+q", s)
}
