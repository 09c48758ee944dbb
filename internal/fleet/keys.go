package fleet

import (
	"errors"
	"fmt"
	"os"
	"regexp"
)

// appsKey is a zset of the names of all apps: a name scores when it expires, in
// ms since the epoch.
const appsKey = "forkd:apps"

// keys names what belongs to an app in Redis (docs/contract.md, section 8). The
// braces make one slot of a Cluster of them.
type keys struct{ app string }

func (k keys) hosts() string           { return k.of("hosts") }
func (k keys) host(id string) string   { return k.of("host:" + id) }
func (k keys) load() string            { return k.of("load") }
func (k keys) events() string          { return k.of("events") }
func (k keys) changed() string         { return k.of("changed") }
func (k keys) left(id string) string   { return k.of("left:" + id) }
func (k keys) orders(id string) string { return k.of("cmd:" + id) }

func (k keys) of(what string) string { return "forkd:{" + k.app + "}:" + what }

// CheckApp reports what is wrong with the name of an app.
func CheckApp(name string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,47}$`).MatchString(name) {
		return fmt.Errorf("%q is no name of an app: 1 to 48 of A-Z a-z 0-9 . _ -, a letter or digit first", name)
	}
	return nil
}

// CheckHost reports what is wrong with the id of a host.
func CheckHost(id string) error {
	if !validHost(id) {
		return fmt.Errorf("%q is no host id: 1 to 128 of A-Z a-z 0-9 . _ : -, a letter or digit first", id)
	}
	return nil
}

// validHost is CheckHost by hand: it is asked for each of thousands of hosts.
func validHost(id string) bool {
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

// hostID returns the id that s gives to this host: by default the host's name.
func (s Settings) hostID() (string, error) {
	if s.HostID != "" {
		return s.HostID, CheckHost(s.HostID)
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("cannot tell the host's name: %v", err)
	}
	if !validHost(name) {
		return "", errors.New("the host's name " + fmt.Sprintf("%q", name) + " is no host id: give it one by redis.host_id")
	}
	return name, nil
}
