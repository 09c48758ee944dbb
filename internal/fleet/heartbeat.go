package fleet

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/forkd/forkd/internal/control"
)

//go:embed heartbeat.lua
var heartbeatSource string

// The kinds of heartbeats.
const (
	heartbeatReport = "beat"   // the whole state, and events
	heartbeatEvents = "events" // nothing else
	heartbeatLeave  = "leave"  // events, and the host goes
	heartbeatPart   = "part"   // events, and the host stays to its duplicate
)

const (
	schema      = 1
	maxEvents   = 64  // events of one heartbeat
	maxReason   = 512 // bytes of the reason of an event
	minForgetAt = 10 * time.Minute
)

// heartbeat is one report. It is sent whole, and what it says is what is there then.
type heartbeat struct {
	kind      string
	host      string
	boot      string
	seq       uint64 // counts the heartbeats of the boot; 0: whenever it arrives, it is in time
	ttl       time.Duration
	fields    []any  // names and values of the hash, without what the script adds
	load      string // of the host, 0 to 10000 and beyond; "": not known
	changed   bool   // worth a look now
	uncertain bool   // events may have arrived whose heartbeat was not answered
	acked     uint64 // the last event that Redis has confirmed
	newest    uint64 // the last event that there is, in events or after them
	events    []control.Event
	commands  bool     // ask for commands
	done      []string // commands, as they were given, that are not to come again
}

// answer is what Redis says to a heartbeat.
type answer struct {
	now      time.Time // Redis's clock, whole ms
	before   string    // the boot whose report this one replaced; "": there was none
	last     uint64    // the number of the last event of this boot in the stream; 0: not known
	problem  string    // what did not work although the report arrived; "": nothing
	newer    uint64    // a later heartbeat of this boot that was there: nothing was done; 0: there was none
	commands []string  // as they stand in the list
}

// conn sends heartbeats of an app to a Redis. The script's digest is the only thing
// that it keeps.
type conn struct {
	client redis.UniversalClient
	keys   keys
	script *redis.Script
}

func newConn(client redis.UniversalClient, app string) *conn {
	return &conn{client: client, keys: keys{app}, script: HeartbeatScript()}
}

// HeartbeatScript is the script that takes the reports of hosts.
func HeartbeatScript() *redis.Script { return redis.NewScript(heartbeatSource) }

// Heartbeat returns the keys and the arguments of HeartbeatScript for a report of an app
// on the host s.HostID. It is for those who play many hosts: the benchmark and the
// tests. The first seq of a boot is 1.
func Heartbeat(s Settings, app App, status control.App, seq uint64, events []control.Event) (k []string, args []any) {
	w := conn{keys: keys{app.Name}}
	return w.input(heartbeat{
		kind: heartbeatReport, host: s.HostID, boot: app.Boot, ttl: s.Expiry(), load: loadOf(s, status),
		changed: len(events) > 0, events: events, fields: hostFields(s, s.HostID, app, status, seq, ""),
	})
}

// send sends b within ctx, in one round trip unless Redis does not have the script yet.
func (w *conn) send(ctx context.Context, b heartbeat) (answer, error) {
	k, args := w.input(b)
	list, err := w.script.Run(ctx, w.client, k, args...).Slice()
	if err != nil {
		return answer{}, err
	}
	a, err := parseAnswer(list)
	if err == nil && a.last > b.lastEvent() {
		return answer{}, errAnswer
	}
	return a, err
}

func (b *heartbeat) lastEvent() uint64 {
	last := max(b.acked, b.newest)
	if n := len(b.events); n > 0 {
		last = max(last, b.events[n-1].Seq)
	}
	return last
}

// input is what the script gets: its keys and its arguments.
func (w *conn) input(b heartbeat) (k []string, args []any) {
	k = []string{w.keys.hosts(), w.keys.host(b.host), w.keys.load(), w.keys.events(), w.keys.left(b.host)}
	if b.commands {
		k = append(k, w.keys.commands(b.host))
	}
	channel := ""
	if b.changed {
		channel = w.keys.changed()
	}
	return k, b.args(channel)
}

// register says that the app exists, and forgets those that have not for long. The
// key is in another slot of a Cluster than those of a heartbeat. It lives for twice as
// long as it must, so that this is seldom a second round trip.
func (w *conn) register(ctx context.Context, now time.Time, ttl time.Duration) error {
	var left *redis.DurationCmd
	forget := forgetAfter(ttl)
	_, err := w.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZAdd(ctx, appsKey, redis.Z{Score: float64(now.Add(ttl).UnixMilli()), Member: w.keys.app})
		p.ZRemRangeByScore(ctx, appsKey, "-inf", strconv.FormatInt(now.Add(-forget).UnixMilli(), 10))
		left = p.PTTL(ctx, appsKey)
		return nil
	})
	if err == nil && left.Val() < forget {
		err = w.client.PExpire(ctx, appsKey, 2*forget).Err()
	}
	return err
}

// forgetAfter is how long what has expired is still remembered.
func forgetAfter(ttl time.Duration) time.Duration { return max(minForgetAt, 10*ttl) }

// args are the script's, in its order.
func (b heartbeat) args(channel string) []any {
	uncertain := ""
	if b.uncertain {
		uncertain = "1"
	}
	a := make([]any, 0, 14+len(b.fields)+len(b.done)+20*len(b.events))
	a = append(a, b.kind, b.host, b.boot, b.ttl.Milliseconds(), b.load, forgetAfter(b.ttl).Milliseconds(), channel, uncertain, b.acked, b.lastEvent(), b.seq)
	a = append(a, len(b.fields))
	a = append(a, b.fields...)
	at := len(a)
	a = append(a, 0)
	for _, e := range b.events {
		a = appendEvent(a, b.host, b.boot, e)
	}
	a[at] = len(a) - at - 1
	a = append(a, len(b.done))
	for _, command := range b.done {
		a = append(a, command)
	}
	return a
}

// appendEvent appends e as the script wants it: its number, how many fields and
// values there are, and these.
func appendEvent(a []any, host, boot string, e control.Event) []any {
	a = append(a, e.Seq, 0)
	at := len(a)
	a = append(a, "seq", e.Seq, "time", e.Time.UnixMilli(), "host", host, "boot", boot, "type", e.Type)
	for _, of := range []struct {
		name   string
		number *int
	}{{"slot", e.Slot}, {"generation", e.Generation}, {"pid", e.PID}} {
		if of.number != nil {
			a = append(a, of.name, *of.number)
		}
	}
	if e.Reason != "" {
		a = append(a, "reason", cut(e.Reason, maxReason))
	}
	if e.Command != "" {
		a = append(a, "command", e.Command)
	}
	a[at-1] = len(a) - at
	return a
}

// cut returns at most n bytes of s, and no half of a letter.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// hostFields are the names and values of the hash of a host, but for those that
// only Redis knows. What is not known is left out. Times are ms since the epoch.
func hostFields(s Settings, host string, app App, a control.App, seq uint64, duplicate string) []any {
	addresses := s.Advertise
	if addresses == nil {
		addresses = []string{}
		for _, l := range a.Listeners {
			addresses = append(addresses, l.Address)
		}
	}
	list, _ := json.Marshal(addresses)
	f := make([]any, 0, 54)
	f = append(
		f, "schema", schema, "host", host, "boot", app.Boot, "seq", seq, "addresses", list,
		"state", a.State, "version", a.Version, "generation", a.Generation, "wanted", a.Totals.Wanted, "ready", a.Totals.Ready,
		"restarts", a.Totals.Restarts, "started_at", app.StartedAt.UnixMilli(), "interval_ms", s.Every().Milliseconds(),
		"workers", appendColumns(make([]byte, 0, 512+64*len(a.Slots)), a.Slots),
	)
	obeys := 0
	if s.Control {
		obeys = 1
	}
	f = append(f, "control", obeys)
	if s.ConnectionLimit > 0 {
		f = append(f, "capacity", s.ConnectionLimit)
	}
	if app.Metrics != "" {
		f = append(f, "metrics", app.Metrics)
	}
	for _, of := range []struct {
		name   string
		figure *int64
	}{
		{"connections", a.Totals.Connections},
		{"accepted", a.Totals.Accepted},
		{"requests", a.Totals.Requests},
		{"refused", a.Totals.Refused},
		{"moved", a.Totals.Moved},
		{"queue", a.Totals.Queue},
		{"rss_bytes", a.Totals.RSSBytes},
	} {
		if of.figure != nil {
			f = append(f, of.name, *of.figure)
		}
	}
	if p := a.Totals.CPUPercent; p != nil {
		f = append(f, "cpu_percent", strconv.FormatFloat(tenths(*p), 'f', -1, 64))
	}
	if duplicate != "" {
		f = append(f, "twin", duplicate)
	}
	return f
}

// loadOf is connections/capacity x 10000, rounded; "" where one is not known.
func loadOf(s Settings, a control.App) string {
	if s.ConnectionLimit <= 0 || a.Totals.Connections == nil {
		return ""
	}
	return strconv.FormatInt(int64(math.Round(float64(*a.Totals.Connections)/float64(s.ConnectionLimit)*10000)), 10)
}

// errAnswer is of an answer that the script does not give.
var errAnswer = errors.New("what answers there is no Redis: it answers a script with something else")

func parseAnswer(list []any) (answer, error) {
	text := make([]string, len(list))
	for i, v := range list {
		s, ok := v.(string)
		if !ok {
			return answer{}, errAnswer
		}
		text[i] = s
	}
	if len(text) < 5 {
		return answer{}, errAnswer
	}
	now, err := strconv.ParseInt(text[0], 10, 64)
	last, err2 := strconv.ParseUint(text[2], 10, 64)
	newer, err3 := strconv.ParseUint(text[4], 10, 64)
	if err != nil || err2 != nil || err3 != nil {
		return answer{}, errAnswer
	}
	return answer{now: time.UnixMilli(now), before: text[1], last: last, problem: strings.TrimSpace(text[3]), newer: newer, commands: text[5:]}, nil
}
