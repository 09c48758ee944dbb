package fleet

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// endpoint is what a URL says.
type endpoint struct {
	kind               kind
	tls                bool
	username, password string
	addresses          []string // HOST:PORT, or the one path of a unix socket
	master             string   // what Sentinel calls it
	db                 int
}

type kind int

const (
	single kind = iota
	unixSocket
	sentinel
	cluster
)

// parseURL reads a URL of Redis. Its errors hold nothing of what may be a password.
//
//	redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]
//	unix://[USER[:PASSWORD]@]/PATH[?db=DB]
//	redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT][,HOST...]/NAME[/DB]
//	redis+cluster://[USER[:PASSWORD]@]HOST[:PORT][,HOST...]
//
// It does not leave that to net/url, which has no list of hosts.
func parseURL(text string) (endpoint, error) {
	var e endpoint
	scheme, rest, ok := strings.Cut(text, "://")
	port := "6379"
	switch scheme {
	case "redis", "rediss":
		e.kind = single
	case "unix":
		e.kind = unixSocket
	case "redis+sentinel", "rediss+sentinel":
		e.kind, port = sentinel, "26379"
	case "redis+cluster", "rediss+cluster":
		e.kind = cluster
	default:
		ok = false
	}
	if !ok {
		return e, errors.New("is no URL of Redis: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// and a host")
	}
	e.tls = strings.HasPrefix(scheme, "rediss")
	for _, r := range rest {
		if r <= ' ' || r == 0x7f {
			return e, errors.New("has a space or a control character: write it as %XX")
		}
	}
	rest, query, _ := strings.Cut(rest, "?")
	end := strings.IndexByte(rest, '/')
	if end < 0 {
		end = len(rest)
	}
	hosts, path := rest[:end], rest[end:]
	if strings.ContainsRune(path+query, '@') {
		return e, errors.New("has a / or ? in the user or password, or an @ after the host: write it as %2F, %3F or %40")
	}
	if at := strings.LastIndexByte(hosts, '@'); at >= 0 {
		if err := e.user(hosts[:at]); err != nil {
			return e, err
		}
		hosts = hosts[at+1:]
	}
	if e.kind == unixSocket {
		return e, e.socket(hosts, path, query)
	}
	if query != "" {
		return e, errors.New("has options after a ?: none are known")
	}
	if err := e.hosts(hosts, port); err != nil {
		return e, err
	}
	return e, e.place(strings.TrimPrefix(path, "/"))
}

func (e *endpoint) user(info string) error {
	user, password, _ := strings.Cut(info, ":")
	var err, err2 error
	e.username, err = url.PathUnescape(user)
	e.password, err2 = url.PathUnescape(password)
	if err != nil || err2 != nil {
		return errors.New("has a % in the user or password that begins no %XX: write it as %25")
	}
	return nil
}

func (e *endpoint) socket(host, path, query string) error {
	if host != "" || len(path) < 2 {
		return errors.New("names no socket: unix:///run/redis.sock")
	}
	path, err := url.PathUnescape(path)
	if err != nil || strings.ContainsRune(path, 0) {
		return errors.New("has a % in its path that begins no %XX: write it as %25")
	}
	e.addresses = []string{path}
	if query == "" {
		return nil
	}
	db, ok := strings.CutPrefix(query, "db=")
	if !ok {
		return errors.New("has options after a ?: only db=N is known")
	}
	return e.database(db)
}

func (e *endpoint) hosts(list, port string) error {
	for host := range strings.SplitSeq(list, ",") {
		name, number, err := net.SplitHostPort(host)
		if err != nil {
			name, number, err = net.SplitHostPort(host + ":" + port)
		}
		n, bad := strconv.ParseUint(number, 10, 16)
		if err != nil || bad != nil || n == 0 || name == "" || strings.ContainsAny(name, "@/[]") {
			return errors.New("names a host that is no HOST or HOST:PORT") // or a password, and no host
		}
		e.addresses = append(e.addresses, net.JoinHostPort(name, number))
	}
	if e.kind == single && len(e.addresses) > 1 {
		return errors.New("names several hosts: that is for redis+sentinel:// and redis+cluster://")
	}
	return nil
}

// place reads what stands after the hosts.
func (e *endpoint) place(path string) error {
	switch e.kind {
	case sentinel:
		name, db, more := strings.Cut(path, "/")
		if name == "" {
			return errors.New("names no primary: redis+sentinel://HOST:26379/NAME, as it is called in sentinel.conf")
		}
		e.master = name
		if more {
			return e.database(db)
		}
	case cluster:
		if path != "" {
			return errors.New("has a path: a Cluster has only one database")
		}
	case single, unixSocket:
		if path != "" {
			return e.database(path)
		}
	}
	return nil
}

func (e *endpoint) database(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is no number of a database", text)
	}
	e.db = int(n)
	return nil
}

// MaskURL returns a URL of Redis with *** for its password, and "(not a URL)" for
// what is none.
func MaskURL(text string) string {
	e, err := parseURL(text)
	switch {
	case err != nil:
		return "(not a URL)"
	case e.password == "":
		return text
	}
	scheme, rest, _ := strings.Cut(text, "://")
	end := strings.IndexByte(rest, '/')
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@')
	user, _, _ := strings.Cut(rest[:at], ":")
	return scheme + "://" + user + ":***" + rest[at:]
}
