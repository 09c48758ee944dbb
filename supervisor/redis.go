package supervisor

import (
	"errors"
	"time"

	"github.com/forkd/forkd/internal/fleet"
)

// Redis is how an app finds Redis and what it does there. Its fields are those
// of internal/fleet's Settings in their order, so that one converts to the other.
type Redis struct {
	URL             string // redis:// rediss:// unix:// redis+sentinel:// redis+cluster://; RedisEmbedded; "": none
	Username        string
	PasswordFile    string        // absolute; "": none
	CAFile          string        // absolute; "": the system's
	Interval        time.Duration // between two reports, 100ms..1h
	TTL             time.Duration // 0: 4 x Interval; else more than Interval
	HostID          string        // "": the host's name
	Advertise       []string      // where this host is said to be; nil: where it listens
	ReadFrom        string        // "primary", "replica": of readers
	Control         bool          // obey orders from Redis
	ConnectionLimit int64         // reported as the host's capacity; 0: not known
	MaxConnections  int64         // what its workers take at most, all together; 0: no limit
}

// RedisEmbedded is the URL of a small Redis that the master starts itself.
const RedisEmbedded = "embedded"

// BadRedis is what is wrong with one of the settings of Redis.
type BadRedis struct {
	Key  string // "url"
	Text string // never a password
}

func (e *BadRedis) Error() string { return "redis." + e.Key + ": " + e.Text }

// CheckRedis reports, as a [*BadRedis], what can be known to be wrong without
// connecting. It reads the files that r names, also where there is no URL yet.
func CheckRedis(r Redis) error {
	s := fleet.Settings(r)
	if s.URL == "" && s.HostID == "" {
		s.HostID = "localhost" // nobody needs one
	}
	if s.URL == "" || s.URL == RedisEmbedded {
		s.URL = "rediss://localhost" // one that all other settings go with
	}
	err := s.Check()
	if bad, ok := errors.AsType[*fleet.BadSetting](err); ok {
		return &BadRedis{Key: bad.Key, Text: bad.Text}
	}
	return err
}

// MaskRedisURL is a URL as people may see it: without its password.
func MaskRedisURL(url string) string {
	if url == "" || url == RedisEmbedded {
		return url
	}
	return fleet.MaskURL(url)
}
