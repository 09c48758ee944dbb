package sockets

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseAddress(t *testing.T) {
	tcp := func(network, host string, port int) Listener {
		return Listener{Network: network, Host: host, Port: port}
	}
	unix := func(path string) Listener { return Listener{Network: "unix", Path: path} }
	moded := unix("/run/x")
	moded.Perm = 0o660
	for address, want := range map[string]Listener{
		"8080":                   tcp("tcp", "", 8080),
		":0":                     tcp("tcp", "", 0),
		"*:80":                   tcp("tcp", "", 80),
		"tcp://:80":              tcp("tcp", "", 80),
		"tcp4://80":              tcp("tcp4", "", 80),
		"127.0.0.1:80":           tcp("tcp", "127.0.0.1", 80),
		"0.0.0.0:80":             tcp("tcp", "0.0.0.0", 80),
		"localhost:80":           tcp("tcp", "127.0.0.1", 80),
		"tcp6://localhost:80":    tcp("tcp6", "::1", 80),
		"[::1]:80":               tcp("tcp", "::1", 80),
		"[0:0::1]:80":            tcp("tcp", "::1", 80),
		"[::ffff:10.0.0.1]:80":   tcp("tcp", "10.0.0.1", 80),
		"unix:///run/x":          unix("/run/x"),
		"unix:/run/x":            unix("/run/x"),
		"/run/x":                 unix("/run/x"),
		"./x":                    unix("./x"),
		"../x":                   unix("../x"),
		"unix:x":                 unix("x"),
		"unix:./a:1":             unix("./a:1"),
		"/run/é%20#":             unix("/run/é%20#"),
		"unix:///run/x?mode=660": moded,
		"/run/x?mode=0660":       moded,
	} {
		got, err := ParseAddress(address)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", address, err, diff)
		}
	}
	for _, wrong := range []string{
		"", ":", ":x", ":-1", ":65536", "1.2.3.4", "::1", "[::1]", "tcp://", "tcp://a:1:2", "udp://:53", "tcp4://[::1]:80", "-1", "+80x",
		"unix:", "unix://", "unix:///", "unix:.", "unix:/run/..", "/", "./", "/run/", "run/x", "unix://run/x", "unix://x", "unix://./x", "UNIX:/x",
		"unix:@x", "/run/\n", "/run/x?", "/run/x?mode", "/run/x?mode=", "/run/x?mode=0", "/run/x?mode=1000", "/run/x?mode=-1", "/run/x?mode=0o660",
		"/run/x?mode=660&mode=660", "/run/x?mode=660&user=a", "/run/x?Mode=660", "unix://localhost/run/x", "?mode=660", "unix:?mode=660",
	} {
		if got, err := ParseAddress(wrong); err == nil {
			t.Errorf("%q is %+v", wrong, got)
		} else if !strings.Contains(err.Error(), ": ") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func TestAddress(t *testing.T) {
	for written, want := range map[string]string{
		"80":              "tcp://:80",
		"[::1]:80":        "tcp://[::1]:80",
		"tcp4://*:0":      "tcp4://:0",
		"unix:/x":         "unix:///x",
		"/run/x?mode=600": "unix:///run/x?mode=0600",
	} {
		l, err := ParseAddress(written)
		if got := l.Address(); err != nil || got != want {
			t.Errorf("%s is %s, %v, not %s", written, got, err, want)
		}
	}
}

func TestAddressOverlap(t *testing.T) {
	for _, test := range []struct {
		a, b string // with "+": mode each, of three slots
		want string
	}{
		{":80", ":80", "port 80 of an address"},
		{":80", ":81", ""},
		{":0", ":0", ""},
		{":80", "127.0.0.1:80", "port 80 of an address"},
		{":80", "tcp6://[::1]:80", "port 80 of an address"},
		{"tcp4://:80", "tcp6://:80", ""},
		{"0.0.0.0:80", "[::1]:80", ""},
		{"[::]:80", "127.0.0.1:80", "port 80 of an address"},
		{"tcp6://[::]:80", "127.0.0.1:80", ""},
		{"127.0.0.1:80", "127.0.0.2:80", ""},
		{"[::1]:80", "tcp6://[::1]:80", "port 80 of an address"},
		{"+:80", ":82", "port 82 of an address"},
		{"+:80", ":83", ""},
		{"+:80", ":79", ""},
		{"+:80", "+:82", "port 82 of an address"},
		{"+:80", "+:83", ""},
		{"+127.0.0.1:80", "127.0.0.2:81", ""},
		{"+:80", ":0", ""},
		{"/x", ":80", ""},
		{"/x", "/y", ""},
		{"/x", "unix:/x?mode=600", "/x"},
		{"/x", "/.x.forkd", "/.x.forkd"},
	} {
		listen := func(text string) Listener {
			address, each := strings.CutPrefix(text, "+")
			l, err := ParseAddress(address)
			if err != nil {
				t.Fatal(err)
			}
			if each {
				l.Mode = "each"
			}
			return l
		}
		a, b := listen(test.a), listen(test.b)
		if got := Overlap(a, b, 3); got != test.want || Overlap(b, a, 3) != got {
			t.Errorf("%s and %s: both take %q, not %q", test.a, test.b, got, test.want)
		}
	}
}
