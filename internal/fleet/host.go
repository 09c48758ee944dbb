package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/forkd/forkd/internal/control"
)

// Host is what a reader makes of a host's hash. A figure that is not known is
// nil: null in JSON, never 0. Times are by the clock of Redis.
type Host struct {
	ID          string     `json:"host"`    // at most 256 bytes; with a Problem, it may hold anything
	Problem     string     `json:"problem"` // in words, what is wrong with the report; "" nothing. Printable
	Boot        string     `json:"boot"`
	Twin        string     `json:"twin"` // the boot of another that reports by the same id; "" none is known
	Addresses   []string   `json:"addresses"`
	State       string     `json:"state"` // "starting", "ready", "draining", "stopping"; "" not known
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
	Queue       *int64     `json:"queue"`
	CPUPercent  *float64   `json:"cpu_percent"` // 100 is one core
	RSSBytes    *int64     `json:"rss_bytes"`
	StartedAt   *time.Time `json:"started_at"`
	UpdatedAt   *time.Time `json:"updated_at"`
	Age         *float64   `json:"age"`      // seconds since UpdatedAt
	Interval    *float64   `json:"interval"` // seconds between beats
	Seq         *int64     `json:"seq"`      // of the beat
	Stale       bool       `json:"stale"`    // two beats are missing
	Vanished    bool       `json:"vanished"` // its report has expired: it ended without leaving
	Workers     []Worker   `json:"workers"`  // null: not asked for, or not known
}

// The bounds of what a hash says.
const (
	mostText      = 256     // bytes of a string
	mostWord      = 64      // bytes of a worker's state
	mostAddresses = 64      // of a host
	mostAddress   = 8 << 10 // bytes of them all
	mostProblems  = 3       // told of a host
	clockSlack    = time.Minute
)

const (
	stateStarting = control.StateStarting
	stateReady    = control.StateReady
	stateDraining = control.StateDraining
)

// The fields of a host's hash that are read, in the order of HMGET; workers is
// the last, so that it can be left out.
const (
	fieldSchema = iota
	fieldHost
	fieldBoot
	fieldTwin
	fieldAddresses
	fieldState
	fieldVersion
	fieldGeneration
	fieldWanted
	fieldReady
	fieldConnections
	fieldCapacity
	fieldAccepted
	fieldRequests
	fieldRefused
	fieldRestarts
	fieldQueue
	fieldCPU
	fieldRSS
	fieldStarted
	fieldUpdated
	fieldInterval
	fieldSeq
	fieldWorkers
	allFields
)

func fieldNames() [allFields]string {
	return [allFields]string{
		"schema", "host", "boot", "twin", "addresses", "state", "version", "generation", "wanted", "ready",
		"connections", "capacity", "accepted", "requests", "refused", "restarts", "queue", "cpu_percent", "rss_bytes",
		"started_at", "updated_at", "interval_ms", "seq", "workers",
	}
}

// hostParser reads hashes, one after the other. One goroutine uses it.
type hostParser struct {
	names   [allFields]string
	columns parser
	values  []string // of the hash that is being read
	host    *Host
	wrong   []string
	figures []int64 // room for those of a host

	listed   string // the addresses of the host before: often the same
	listedAs []string
}

func newHostParser() *hostParser { return &hostParser{names: fieldNames()} }

// parse makes a Host of the values of HMGET, in the order of the fields: "" for
// what is not there. Both times are Redis's: now and, of the host's
// entry in the list of hosts, when it expires.
func (p *hostParser) parse(id string, values []string, now, expires time.Time) Host {
	h := Host{ID: strings.Clone(cut(id, mostText))}
	p.host, p.values, p.wrong = &h, values, p.wrong[:0]
	p.figures = make([]int64, 0, allFields)
	defer func() { p.host, p.values, p.figures = nil, nil, nil }()
	empty := true
	for _, v := range values {
		empty = empty && v == ""
	}
	h.Vanished = empty || !expires.After(now)
	if !empty {
		p.hash(now)
	}
	if h.Vanished {
		h.Stale = false
	}
	h.Problem = problem(p.wrong)
	return h
}

func problem(wrong []string) string {
	if len(wrong) > mostProblems {
		more := len(wrong) - mostProblems
		return fmt.Sprintf("%s; and %d more", strings.Join(wrong[:mostProblems], "; "), more)
	}
	return strings.Join(wrong, "; ")
}

func (p *hostParser) hash(now time.Time) {
	h := p.host
	switch schema, ok := p.raw(fieldSchema); {
	case !ok:
		p.bad("it doesn't say its schema: this forkd reads 1")
		return
	case schema != "1":
		p.bad("speaks schema %s: this forkd reads 1", bare(schema))
		return
	}
	if host, ok := p.raw(fieldHost); ok && host != h.ID {
		p.bad("calls itself %s", short(host))
	}
	h.Boot, h.Twin, h.State, h.Version = p.text(fieldBoot), p.text(fieldTwin), p.text(fieldState), p.text(fieldVersion)
	h.Addresses = p.addresses()
	if h.State != "" && knownState(h.State) == "" {
		p.bad("state %s is not known", short(h.State))
	}
	h.Generation, h.Wanted, h.Ready = p.whole(fieldGeneration), p.whole(fieldWanted), p.whole(fieldReady)
	h.Connections, h.Capacity = p.whole(fieldConnections), p.whole(fieldCapacity)
	h.Accepted, h.Requests, h.Refused = p.whole(fieldAccepted), p.whole(fieldRequests), p.whole(fieldRefused)
	h.Restarts, h.Queue, h.RSSBytes, h.Seq = p.whole(fieldRestarts), p.whole(fieldQueue), p.whole(fieldRSS), p.whole(fieldSeq)
	h.CPUPercent = p.percent(fieldCPU)
	if h.Capacity != nil && *h.Capacity == 0 {
		h.Capacity = nil // as in the settings, 0 is not known
	}
	if h.Capacity != nil && h.Connections != nil {
		h.Utilization = new(100 * float64(*h.Connections) / float64(*h.Capacity))
	}
	p.times(now)
	if text, ok := p.raw(fieldWorkers); ok {
		workers, err := p.columns.columns(text)
		if err != nil {
			p.bad("workers: %v", err)
		}
		h.Workers = workers
	}
}

// times reads what is a time. One of a wild clock is not shown.
func (p *hostParser) times(now time.Time) {
	h := p.host
	interval := defaultInterval
	if ms := p.whole(fieldInterval); ms != nil {
		interval = time.Duration(min(*ms, 1e9)) * time.Millisecond
		if interval < minInterval || interval > maxInterval {
			p.bad("interval_ms %d is not from %d to %d", *ms, minInterval.Milliseconds(), maxInterval.Milliseconds())
			interval = defaultInterval
		} else {
			h.Interval = new(interval.Seconds())
		}
	}
	if started := p.whole(fieldStarted); started != nil {
		if at := time.UnixMilli(*started); !at.After(now.Add(clockSlack)) {
			h.StartedAt = new(at.UTC())
		}
	}
	updated := p.whole(fieldUpdated)
	if updated == nil {
		if _, there := p.raw(fieldUpdated); !there {
			p.bad("it doesn't say when it was updated")
		}
		return
	}
	at := time.UnixMilli(*updated)
	age := now.Sub(at)
	if age < -clockSlack {
		p.bad("updated_at is %s ahead of Redis's clock", roughly(-age))
		return
	}
	h.UpdatedAt, h.Age = new(at.UTC()), new(max(age, 0).Seconds())
	h.Stale = age > 2*interval+time.Second
}

func (p *hostParser) bad(format string, args ...any) {
	p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
}

// raw is a field as it is there, and whether it is.
func (p *hostParser) raw(field int) (string, bool) {
	if field >= len(p.values) {
		return "", false
	}
	return p.values[field], p.values[field] != ""
}

// text is a field to be shown: short, of one line, without what drives a terminal.
func (p *hostParser) text(field int) string {
	s, _ := p.raw(field)
	if len(s) > mostText || !printable(s) {
		p.bad("%s is %s", p.names[field], short(s))
		return ""
	}
	return s
}

// whole is a field that is a number from 0 to 2^53 in decimal digits.
func (p *hostParser) whole(field int) *int64 {
	s, ok := p.raw(field)
	if !ok {
		return nil
	}
	v, err := wholeOf(s)
	if err != nil {
		p.bad("%s %v", p.names[field], err)
		return nil
	}
	p.figures = append(p.figures, v)
	return &p.figures[len(p.figures)-1]
}

func wholeOf(s string) (int64, error) {
	bad := len(s) == 0 || len(s) > 16 || len(s) > 1 && s[0] == '0'
	v := int64(0)
	for i := 0; i < len(s) && !bad; i++ {
		bad = s[i] < '0' || s[i] > '9'
		v = v*10 + int64(s[i]-'0')
	}
	if bad || v > mostNumber {
		return 0, fmt.Errorf("%s is not a whole number from 0 to 2^53", short(s))
	}
	return v, nil
}

func (p *hostParser) percent(field int) *float64 {
	s, ok := p.raw(field)
	if !ok {
		return nil
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || len(s) > 32 || !(v >= 0 && v <= mostPercent) {
		p.bad("%s %s is no share of a processor", p.names[field], short(s))
		return nil
	}
	v = max(v, 0)
	return &v
}

// addresses reads a JSON list of strings.
func (p *hostParser) addresses() []string {
	s, ok := p.raw(fieldAddresses)
	if !ok {
		return nil
	}
	if s == p.listed {
		return slices.Clone(p.listedAs)
	}
	var list []string
	err := error(nil)
	if len(s) > mostAddress {
		err = errors.New("too long")
	} else {
		err = json.Unmarshal([]byte(s), &list)
	}
	if err != nil {
		p.bad("addresses: %s is no JSON list of strings of at most %d bytes", short(s), mostAddress)
		return nil
	}
	if len(list) > mostAddresses {
		p.bad("addresses: %d, at most %d are shown", len(list), mostAddresses)
		list = list[:mostAddresses]
	}
	for _, address := range list {
		if len(address) > mostText || !printable(address) {
			p.bad("addresses: %s is none", short(address))
			return nil
		}
	}
	p.listed, p.listedAs = s, list
	return slices.Clone(list)
}

// knownState is the same state, of an app, of a slot or of a worker, as a
// constant; "" when it is none.
func knownState(s string) string {
	for _, known := range [...]string{stateReady, stateStarting, stateDraining, "stopping", "backoff", "exited", "failed"} {
		if s == known {
			return known
		}
	}
	return ""
}

// printable reports whether s can be shown as it is: UTF-8 without control,
// direction or other invisible characters.
func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return printableRunes(s[i:])
		}
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func printableRunes(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// short quotes s for a Problem: escaped, the first 40 bytes of it.
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

// bare is a short number as it is, and anything else quoted.
func bare(s string) string {
	if _, err := wholeOf(s); err == nil {
		return s
	}
	return short(s)
}

func roughly(d time.Duration) string {
	if d > 48*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	return d.Round(time.Second).String()
}
