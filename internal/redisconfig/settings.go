// Package redisconfig is how an app finds Redis: the settings, their checks and
// Redis's URLs. It never connects, so that the master can import it without linking
// a Redis client.
package redisconfig

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Settings is how an app finds Redis and what it does there (docs/contract.md,
// Redis).
type Settings struct {
	URL             string // redis:// rediss:// unix:// redis+sentinel:// redis+cluster:// (and rediss+); Embedded; "": none
	Username        string
	PasswordFile    string        // absolute; its first line, read again at each connect
	CAFile          string        // absolute; PEM; "": the system's
	Interval        time.Duration // between heartbeats, 100ms..1h; 0: 2s
	TTL             time.Duration // a host that is silent for so long is gone, more than Interval; 0: 4 x Interval
	HostID          string        // "": the host's name
	Advertise       []string      // addresses said of this host; nil: what listens
	ReadFrom        string        // of readers: "primary" or "", "replica"
	Control         bool          // execute commands from Redis
	ConnectionLimit int64         // what this host can hold, reported as its capacity; 0: not known
	MaxConnections  int64         // what its workers take at most, all together; 0: no limit
}

// Where readers read.
const (
	FromPrimary = "primary"
	FromReplica = "replica"
)

// Embedded is the URL of a small Redis that the master starts itself. Whoever
// connects has put that one's own in its place.
const Embedded = "embedded"

// The bounds of Settings.
const (
	DefaultInterval = 2 * time.Second
	MinInterval     = 100 * time.Millisecond
	MaxInterval     = time.Hour

	maxTTL       = 30 * 24 * time.Hour
	maxAdvertise = 64       // addresses
	maxURL       = 16 << 10 // bytes
	maxSecret    = 4 << 10  // bytes of a password file
	maxCA        = 16 << 20 // bytes of a CA file: the system's own bundles are 0.3 MB
)

// BadSetting is what is wrong with one of the Settings.
type BadSetting struct {
	Key  string // as in the section redis of the configuration file: "ca_file"
	Text string // never a password
}

func (e *BadSetting) Error() string { return "redis." + e.Key + ": " + e.Text }

// Check reports, as a [*BadSetting], what can be known to be wrong without
// connecting. It reads the files that s names.
func (s Settings) Check() error {
	bad := func(key, format string, args ...any) error {
		return &BadSetting{Key: key, Text: fmt.Sprintf(format, args...)}
	}
	if len(s.URL) > maxURL {
		return bad("url", "is %d bytes: at most %d", len(s.URL), maxURL)
	}
	e, err := ParseURL(s.URL)
	if err != nil {
		return bad("url", "%v", err)
	}
	_, hostErr := s.Host()
	switch every, ttl := s.Every(), s.Expiry(); {
	case s.Username != "" && e.Username != "" && e.Username != s.Username:
		return bad("username", "is %q, and the url has %q", s.Username, e.Username)
	case s.PasswordFile != "" && e.Password != "":
		return bad("password_file", "the url has a password too: leave one of them out")
	case s.CAFile != "" && !e.TLS:
		return bad("ca_file", "is of use with rediss:// only, and the url is without TLS")
	case every < MinInterval || every > MaxInterval:
		return bad("interval", "is %s: must be %s to %s", every, MinInterval, MaxInterval)
	case ttl <= every || ttl > maxTTL:
		return bad("ttl", "is %s: must be more than the interval of %s, and at most 30 days", ttl, every)
	case len(s.Advertise) > maxAdvertise:
		return bad("advertise", "has more than %d addresses", maxAdvertise)
	case s.ReadFrom != "" && s.ReadFrom != FromPrimary && s.ReadFrom != FromReplica:
		return bad("read_from", "is %q: must be %q or %q", s.ReadFrom, FromPrimary, FromReplica)
	case hostErr != nil:
		return bad("host_id", "%v", hostErr)
	}
	for _, a := range s.Advertise {
		if a == "" || len(a) > 256 || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return bad("advertise", "%q is no address: 1 to 256 bytes without spaces", a)
		}
	}
	if _, err := ReadSecret(s.PasswordFile); err != nil {
		return err
	}
	_, err = ReadCA(s.CAFile)
	return err
}

// Every is the time between heartbeats.
func (s Settings) Every() time.Duration { return cmp.Or(s.Interval, DefaultInterval) }

// Expiry is the time after which a silent host is gone.
func (s Settings) Expiry() time.Duration { return cmp.Or(s.TTL, 4*s.Every()) }

// ReadSecret returns the first line of a password file, "" without a path. The error
// is a [*BadSetting].
func ReadSecret(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := readPlain(path, maxSecret)
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSuffix(line, "\r")
	if err == nil && line == "" {
		err = fmt.Errorf("%s: its first line is empty", path)
	}
	if err != nil {
		return "", &BadSetting{Key: "password_file", Text: err.Error()}
	}
	return line, nil
}

// ReadCA returns the certificates in a file, nil without a path. The error is a
// [*BadSetting].
func ReadCA(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	b, err := readPlain(path, maxCA)
	if err == nil && !pool.AppendCertsFromPEM(b) {
		err = fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	if err != nil {
		return nil, &BadSetting{Key: "ca_file", Text: err.Error()}
	}
	return pool, nil
}

// readPlain opens only a plain file: opening any other can block.
func readPlain(path string, most int64) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s is not an absolute path", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a plain file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return b, err
}

const alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// CheckHost reports what is wrong with the id of a host.
func CheckHost(id string) error {
	if id == "" || len(id) > 128 || strings.Trim(id[:1], alphanumeric) != "" || strings.Trim(id, alphanumeric+"._:-") != "" {
		return fmt.Errorf("%.200q is no host id: 1 to 128 of A-Z a-z 0-9 . _ : -, a letter or digit first", id)
	}
	return nil
}

// Host returns the id that s gives to this host: by default the host's name.
func (s Settings) Host() (string, error) {
	if s.HostID != "" {
		return s.HostID, CheckHost(s.HostID)
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("cannot find out the host's name: %v", err)
	}
	if CheckHost(name) != nil {
		return "", fmt.Errorf("the host's name %q is no host id: give it one by redis.host_id", name)
	}
	return name, nil
}

// Agent is what the master tells the fleet agent when it starts it, as a line of
// JSON on AgentChannel. The agent answers with lines of JSON: {"health": a
// control.Redis} whenever that has changed, and records of log/slog. The line
// AgentLeave asks it to take the host out of Redis and to end; at the end of the
// channel it ends at once.
type Agent struct {
	Settings  Settings
	App       string
	Boot      string // of the master's event log
	StartedAt time.Time
	Metrics   string // HOST:PORT that answers /metrics; "": none
	Directory string // DIR of DIR/APP/control.sock
	Embedded  bool   // serve a small Redis on AgentListener, which is Settings.URL
}

// Descriptors of the fleet agent.
const (
	AgentChannel  = 3
	AgentListener = 4
)

// What the master and the agent say on the channel.
const (
	AgentLeave       = "leave"
	AgentLineMax     = 64 << 10        // bytes of a line from the agent
	AgentHealthEvery = 2 * time.Second // the agent says at least as often how it is
	AgentLeaveWithin = 2 * time.Second // the host is taken out of Redis, or not
)
