package redisconfig

import (
	"errors"
	"fmt"
	"os"
	"regexp"
)

// CheckApp reports what is wrong with the name of an app.
func CheckApp(name string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$`).MatchString(name) {
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

// ValidHost is CheckHost by hand: it is asked for each of thousands of hosts.
func ValidHost(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == ':' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// Host returns the id that s gives to this host: by default the host's name.
func (s Settings) Host() (string, error) {
	if s.HostID != "" {
		return s.HostID, CheckHost(s.HostID)
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("cannot tell the host's name: %v", err)
	}
	if !ValidHost(name) {
		return "", errors.New("the host's name " + fmt.Sprintf("%q", name) + " is no host id: give it one by redis.host_id")
	}
	return name, nil
}
