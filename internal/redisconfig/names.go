package redisconfig

import (
	"fmt"
	"os"
	"strings"
)

// CheckApp reports what is wrong with the name of an app.
func CheckApp(name string) error {
	if !valid(name, 48, "._-") {
		return fmt.Errorf("%q is no name of an app: 1 to 48 of A-Z a-z 0-9 . _ -, a letter or digit first", name)
	}
	return nil
}

// CheckHost reports what is wrong with the id of a host.
func CheckHost(id string) error {
	if !ValidHost(id) {
		return fmt.Errorf("%q is no host id: 1 to 128 of A-Z a-z 0-9 . _ : -, a letter or digit first", id)
	}
	return nil
}

// ValidHost is CheckHost without an error text, for thousands of hosts.
func ValidHost(id string) bool { return valid(id, 128, "._:-") }

// valid reports whether s has 1 to most letters, digits and other characters, and
// begins with a letter or a digit.
func valid(s string, most int, others string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && strings.IndexByte(others, c) >= 0:
		default:
			return false
		}
	}
	return s != "" && len(s) <= most
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
	if !ValidHost(name) {
		return "", fmt.Errorf("the host's name %q is no host id: give it one by redis.host_id", name)
	}
	return name, nil
}
