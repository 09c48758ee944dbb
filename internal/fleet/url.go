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
// [redis.ParseURL] is of no use here: it takes one host, and for what is none, and
// for a port or a database out of bounds, it has defaults or takes them as they are.
func parseURL(text string) (endpoint, error) {
	scheme, rest, isURL := strings.Cut(text, "://")
	e := endpoint{tls: strings.HasPrefix(scheme, "rediss")}
	if !isURL {
		scheme = ""
	}
	switch strings.Replace(scheme, "rediss", "redis", 1) {
	case "redis":
		e.kind = single
	case "unix":
		e.kind = unixSocket
	case "redis+sentinel":
		e.kind = sentinel
	case "redis+cluster":
		e.kind = cluster
	default:
		return e, errors.New("is no URL of Redis: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// and a host")
	}
	if strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return e, errors.New("has a space or a control character: write it as %XX")
	}
	hosts, path := rest, ""
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		hosts, path = rest[:end], rest[end:]
	}
	if strings.Contains(path, "@") {
		return e, errors.New("has a / or ? in the user or password, or an @ after the host: write it as %2F, %3F or %40")
	}
	if at := strings.LastIndexByte(hosts, '@'); at >= 0 {
		user, password, _ := strings.Cut(hosts[:at], ":")
		var err, err2 error
		e.username, err = url.PathUnescape(user)
		e.password, err2 = url.PathUnescape(password)
		if err != nil || err2 != nil {
			return e, errors.New("has a % in the user or password that begins no %XX: write it as %25")
		}
		hosts = hosts[at+1:]
	}
	path, query, _ := strings.Cut(path, "?")
	if e.kind == unixSocket {
		return e, e.socket(hosts, path, query)
	}
	if query != "" {
		return e, errors.New("has options after a ?: none are known")
	}
	if err := e.hosts(hosts); err != nil {
		return e, err
	}
	db := strings.TrimPrefix(path, "/")
	switch {
	case e.kind == sentinel:
		e.master, db, _ = strings.Cut(db, "/")
		if e.master == "" {
			return e, errors.New("names no primary: redis+sentinel://HOST:26379/NAME, as it is called in sentinel.conf")
		}
	case e.kind == cluster && db != "":
		return e, errors.New("has a path: a Cluster has only one database")
	}
	return e, e.database(db)
}

func (e *endpoint) socket(host, path, query string) error {
	path, err := url.PathUnescape(path)
	if err != nil || strings.ContainsRune(path, 0) {
		return errors.New("has a % in its path that begins no %XX: write it as %25")
	}
	if host != "" || len(path) < 2 {
		return errors.New("names no socket: unix:///run/redis.sock")
	}
	e.addresses = []string{path}
	db, ok := strings.CutPrefix(query, "db=")
	if !ok && query != "" {
		return errors.New("has options after a ?: only db=N is known")
	}
	return e.database(db)
}

func (e *endpoint) hosts(list string) error {
	port := "6379"
	if e.kind == sentinel {
		port = "26379"
	}
	for host := range strings.SplitSeq(list, ",") {
		name, number, err := net.SplitHostPort(host)
		if err != nil {
			name, number, err = net.SplitHostPort(host + ":" + port)
		}
		n, bad := strconv.ParseUint(number, 10, 16)
		if err != nil || bad != nil || n == 0 || name == "" || strings.ContainsAny(name, "[]") {
			return errors.New("names a host that is no HOST or HOST:PORT") // or a password, and no host
		}
		e.addresses = append(e.addresses, net.JoinHostPort(name, number))
	}
	if e.kind == single && len(e.addresses) > 1 {
		return errors.New("names several hosts: that is for redis+sentinel:// and redis+cluster://")
	}
	return nil
}

// database is 0 where there is no text.
func (e *endpoint) database(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil && text != "" {
		return fmt.Errorf("%q is no number of a database", text)
	}
	e.db = int(n)
	return nil
}

// MaskURL returns a URL of Redis with *** for its password, and "(not a URL)" for
// other text. No URL and Embedded stay as they are.
func MaskURL(text string) string {
	if text == "" || text == Embedded {
		return text
	}
	e, err := parseURL(text)
	switch {
	case err != nil:
		return "(not a URL)"
	case e.password == "":
		return text
	}
	scheme, rest, _ := strings.Cut(text, "://")
	user, _, _ := strings.Cut(rest, ":")
	return scheme + "://" + user + ":***" + text[strings.LastIndexByte(text, '@'):]
}
