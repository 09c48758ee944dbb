package redisconfig

import (
	"crypto/x509"
	"errors"
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
	Interval        time.Duration // between beats, 100ms..1h; 0: 2s
	TTL             time.Duration // a host that is silent for so long is gone, more than Interval; 0: 4 x Interval
	HostID          string        // "": the host's name
	Advertise       []string      // addresses said of this host; nil: what listens
	ReadFrom        string        // of readers: "primary" or "", "replica"
	Control         bool          // obey orders from Redis
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

// DefaultInterval is what no interval means.
const DefaultInterval = 2 * time.Second

const (
	MinInterval = 100 * time.Millisecond
	MaxInterval = time.Hour
	maxTTL      = 30 * 24 * time.Hour
	maxSecret   = 4 << 10  // bytes of a password file
	maxCA       = 16 << 20 // bytes of a CA file: the system's own bundles are 0.3 MB
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
	for _, c := range []struct {
		key   string
		check func() error
	}{
		{"url", s.checkURL},
		{"username", s.checkUsername},
		{"password_file", s.checkPassword},
		{"ca_file", s.checkCA},
		{"interval", func() error { return between(s.Every(), MinInterval, MaxInterval) }},
		{"ttl", s.checkTTL},
		{"host_id", func() error { _, err := s.Host(); return err }},
		{"advertise", s.checkAdvertise},
		{"read_from", s.checkReadFrom},
		{"connection_limit_per_host", func() error { return notNegative(s.ConnectionLimit) }},
		{"max_connections_per_host", func() error { return notNegative(s.MaxConnections) }},
	} {
		if err := c.check(); err != nil {
			return &BadSetting{Key: c.key, Text: err.Error()}
		}
	}
	return nil
}

func (s Settings) Every() time.Duration {
	if s.Interval == 0 {
		return DefaultInterval
	}
	return s.Interval
}

func (s Settings) Expiry() time.Duration {
	if s.TTL == 0 {
		return 4 * s.Every()
	}
	return s.TTL
}

func (s Settings) checkURL() error {
	_, err := ParseURL(s.URL)
	return err
}

func (s Settings) checkUsername() error {
	e, err := ParseURL(s.URL)
	if err == nil && s.Username != "" && e.Username != "" && e.Username != s.Username {
		return fmt.Errorf("is %q, and the url has %q", s.Username, e.Username)
	}
	return nil
}

func (s Settings) checkPassword() error {
	e, err := ParseURL(s.URL)
	if err != nil || s.PasswordFile == "" {
		return nil
	}
	if e.Password != "" {
		return errors.New("the url has a password too: leave one of them out")
	}
	_, err = ReadSecret(s.PasswordFile)
	return err
}

func (s Settings) checkCA() error {
	e, err := ParseURL(s.URL)
	if err != nil || s.CAFile == "" {
		return nil
	}
	if !e.TLS {
		return errors.New("is of use with rediss:// only, and the url is without TLS")
	}
	_, err = ReadCA(s.CAFile)
	return err
}

func (s Settings) checkTTL() error {
	if ttl := s.Expiry(); ttl <= s.Every() || ttl > maxTTL {
		return fmt.Errorf("is %s: must be more than the interval of %s, and at most 30 days", ttl, s.Every())
	}
	return nil
}

func (s Settings) checkAdvertise() error {
	if len(s.Advertise) > 64 {
		return errors.New("has more than 64 addresses")
	}
	for _, a := range s.Advertise {
		if a == "" || len(a) > 256 || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return fmt.Errorf("%q is no address: 1 to 256 bytes without spaces", a)
		}
	}
	return nil
}

func (s Settings) checkReadFrom() error {
	switch s.ReadFrom {
	case "", FromPrimary, FromReplica:
		return nil
	default:
		return fmt.Errorf("is %q: must be %q or %q", s.ReadFrom, FromPrimary, FromReplica)
	}
}

func between(d, from, to time.Duration) error {
	if d < from || d > to {
		return fmt.Errorf("is %s: must be %s to %s", d, from, to)
	}
	return nil
}

func notNegative(n int64) error {
	if n < 0 {
		return fmt.Errorf("is %d: must not be negative", n)
	}
	return nil
}

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
