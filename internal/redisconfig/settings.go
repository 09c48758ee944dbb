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
// section 8).
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
	e, err := ParseURL(s.URL)
	if err != nil {
		return bad("url", "%v", err)
	}
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
	case s.ConnectionLimit < 0:
		return bad("connection_limit_per_host", "is %d: must not be negative", s.ConnectionLimit)
	case s.MaxConnections < 0:
		return bad("max_connections_per_host", "is %d: must not be negative", s.MaxConnections)
	}
	for _, a := range s.Advertise {
		if a == "" || len(a) > 256 || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return bad("advertise", "%q is no address: 1 to 256 bytes without spaces", a)
		}
	}
	if _, err := s.Host(); err != nil {
		return bad("host_id", "%v", err)
	}
	if s.PasswordFile != "" {
		if _, err := ReadSecret(s.PasswordFile); err != nil {
			return bad("password_file", "%v", err)
		}
	}
	if s.CAFile != "" {
		if _, err := ReadCA(s.CAFile); err != nil {
			return bad("ca_file", "%v", err)
		}
	}
	return nil
}

// Every is the time between heartbeats.
func (s Settings) Every() time.Duration { return cmp.Or(s.Interval, DefaultInterval) }

// Expiry is the time after which a silent host is gone.
func (s Settings) Expiry() time.Duration { return cmp.Or(s.TTL, 4*s.Every()) }

// ReadSecret returns the first line of a file. Only a plain file will do: opening
// any other can block.
func ReadSecret(path string) (string, error) {
	b, err := readPlain(path, maxSecret)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", fmt.Errorf("%s: its first line is empty", path)
	}
	return line, nil
}

// ReadCA returns the certificates in a file.
func ReadCA(path string) (*x509.CertPool, error) {
	b, err := readPlain(path, maxCA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	return pool, nil
}

func readPlain(path string, most int64) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s is not an absolute path", path)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
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
