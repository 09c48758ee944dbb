package redisconfig

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Endpoint is what a URL of Redis names.
type Endpoint struct {
	TLS                bool
	Username, Password string
	Addresses          []string // HOST:PORT, or the one path of a unix socket
	Master             string   // the primary, as Sentinel calls it; "": no Sentinel
	Cluster            bool
	DB                 int
}

// ParseURL parses a URL of Redis. Its errors contain no part that may be a password.
//
//	redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]
//	unix://[USER[:PASSWORD]@]/PATH[?db=DB]
//	redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT][,HOST...]/NAME[/DB]
//	redis+cluster://[USER[:PASSWORD]@]HOST[:PORT][,HOST...]
//
// Why not by another's parser: docs/decisions/0043.
func ParseURL(text string) (Endpoint, error) {
	scheme, rest, _ := strings.Cut(text, "://")
	e := Endpoint{TLS: strings.HasPrefix(scheme, "rediss"), Cluster: strings.HasSuffix(scheme, "+cluster")}
	scheme = strings.Replace(scheme, "rediss", "redis", 1)
	at := strings.LastIndexByte(rest, '@')
	login, location := rest[:max(0, at)], rest[at+1:]
	switch {
	case !slices.Contains([]string{"redis", "unix", "redis+sentinel", "redis+cluster"}, scheme):
		return e, errors.New("is no URL of Redis: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// and a host")
	case strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return e, errors.New("has a space or a control character: write it as %XX")
	case strings.ContainsAny(login, "/?"):
		return e, errors.New("has a / or ? in the user or password, or an @ after the host: write it as %2F, %3F or %40")
	}
	location, query, _ := strings.Cut(location, "?")
	hosts, path, _ := strings.Cut(location, "/")
	e.Username, e.Password, _ = strings.Cut(login, ":")
	where := "the user or password"
	for _, part := range []*string{&e.Username, &e.Password, &path} {
		if part == &path {
			where = "its path"
		}
		decoded, err := url.PathUnescape(*part)
		if err != nil {
			return e, errors.New("has a % in " + where + " that begins no %XX: write it as %25")
		}
		*part = decoded
	}
	return e, e.parse(scheme, hosts, path, query)
}

func (e *Endpoint) parse(scheme, hosts, path, query string) error {
	db, port := path, "6379"
	switch scheme {
	case "unix":
		if hosts != "" || path == "" || strings.ContainsRune(path, 0) {
			return errors.New("names no socket: unix:///run/redis.sock")
		}
		e.Addresses = []string{"/" + path}
		if text, ok := strings.CutPrefix(query, "db="); ok || query == "" {
			db, query = text, ""
		}
	case "redis+sentinel":
		port = "26379"
		if e.Master, db, _ = strings.Cut(path, "/"); e.Master == "" {
			return errors.New("names no primary: redis+sentinel://HOST:26379/NAME, as it is called in sentinel.conf")
		}
	case "redis":
		if strings.Contains(hosts, ",") {
			return errors.New("names several hosts: that is for redis+sentinel:// and redis+cluster://")
		}
	case "redis+cluster":
		if path != "" {
			return errors.New("has a path: a Cluster has only one database")
		}
	}
	n, err := strconv.ParseUint(db, 10, 16)
	switch {
	case query != "" && scheme == "unix":
		return errors.New("has options after a ?: only db=N is known")
	case query != "":
		return errors.New("has options after a ?: none are known")
	case err != nil && db != "":
		return fmt.Errorf("%q is no number of a database", db)
	}
	e.DB = int(n)
	if scheme == "unix" {
		return nil
	}
	for host := range strings.SplitSeq(hosts, ",") {
		name, number, err := net.SplitHostPort(host)
		if err != nil {
			name, number, err = net.SplitHostPort(host + ":" + port)
		}
		n, bad := strconv.ParseUint(number, 10, 16)
		if err != nil || bad != nil || n == 0 || name == "" || strings.ContainsAny(name, "[]") {
			return errors.New("names a host that is no HOST or HOST:PORT") // it may be a password, without a host
		}
		e.Addresses = append(e.Addresses, net.JoinHostPort(name, number))
	}
	return nil
}

// MaskURL returns a URL of Redis with *** for its password, and "(not a URL)" for
// other text. No URL and Embedded stay as they are.
func MaskURL(text string) string {
	if text == "" || text == Embedded {
		return text
	}
	if len(text) > maxURL {
		return "(not a URL)"
	}
	e, err := ParseURL(text)
	switch {
	case err != nil:
		return "(not a URL)"
	case e.Password == "":
		return text
	}
	scheme, rest, _ := strings.Cut(text, "://")
	user, _, _ := strings.Cut(rest, ":")
	return scheme + "://" + user + ":***" + text[strings.LastIndexByte(text, '@'):]
}
