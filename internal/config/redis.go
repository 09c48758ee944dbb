package config

import (
	"errors"
	"fmt"

	"github.com/forkd/forkd/internal/redisconfig"
)

// finishRedis checks what needs several settings, the number of workers, or the files.
// Its errors show no password.
func (d *draft) finishRedis() {
	r := &d.config.Redis
	if d.origins["redis.url"].flagged() && redisconfig.MaskURL(r.URL) != r.URL { // proc_pid_cmdline(5)
		d.warn("--redis: every user of this machine can read the password on the command line: leave it out of the URL, and give --redis-password-file FILE")
	}
	if r.MaxConnections != 0 && r.MaxConnections < int64(d.config.Workers) {
		d.report(d.origins["redis.max_connections_per_host"], fmt.Errorf("%d is fewer than there are workers (%d): each needs one at least", r.MaxConnections, d.config.Workers))
	}
	if r.Control && r.URL == redisconfig.Embedded {
		d.report(d.origins["redis.control"], errors.New("is not to be had with the embedded Redis: every user of this machine could send commands there"))
	}
	checked := *r
	if r.URL == "" && r.HostID == "" {
		checked.HostID = "localhost" // nobody needs one
	}
	if r.URL == "" || r.URL == redisconfig.Embedded {
		checked.URL = "rediss://localhost" // all other settings are valid with it
	}
	bad, ok := errors.AsType[*redisconfig.BadSetting](checked.Check())
	if !ok {
		return
	}
	key := "redis." + bad.Key
	at := d.origin(key, "redis.url")
	if _, given := d.origins[key]; !given { // a default does not go with the url
		at.label = key
	}
	d.report(at, errors.New(bad.Text))
}

// LoadRedis reads only [redis] of an app's file: the app's command and user need not
// be on this machine. The settings are not checked against each other. The error is
// an *Error.
func LoadRedis(file string) (redisconfig.Settings, error) {
	h, err := thisHost()
	if err != nil {
		return redisconfig.Settings{}, err
	}
	return h.loadRedis(file)
}

func (h host) loadRedis(file string) (redisconfig.Settings, error) {
	d, err := (&start{host: h, file: file, flags: new(Flags)}).read("redis")
	switch {
	case err != nil:
		return redisconfig.Settings{}, err
	case len(d.failures) > 0:
		return redisconfig.Settings{}, together(d.failures)
	}
	return d.config.Redis, nil
}
