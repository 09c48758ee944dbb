package config

import "testing"

func TestParseAddress(t *testing.T) {
	for _, test := range []struct {
		address, network, host string
		port                   int
	}{
		{"8080", "tcp", "", 8080},
		{":0", "tcp", "", 0},
		{"*:80", "tcp", "", 80},
		{"tcp://:80", "tcp", "", 80},
		{"tcp4://80", "tcp4", "", 80},
		{"127.0.0.1:80", "tcp", "127.0.0.1", 80},
		{"0.0.0.0:80", "tcp", "0.0.0.0", 80},
		{"localhost:80", "tcp", "127.0.0.1", 80},
		{"tcp6://localhost:80", "tcp6", "::1", 80},
		{"[::1]:80", "tcp", "::1", 80},
		{"[0:0::1]:80", "tcp", "::1", 80},
		{"[::ffff:10.0.0.1]:80", "tcp", "10.0.0.1", 80},
	} {
		network, host, port, err := parseAddress(test.address)
		if err != nil || network != test.network || host != test.host || port != test.port {
			t.Errorf("%s is %s %s %d, %v", test.address, network, host, port, err)
		}
	}
	for _, wrong := range []string{"", ":", ":x", ":-1", ":65536", "1.2.3.4", "::1", "[::1]", "tcp://", "tcp://a:1:2", "/run/x", "unix:/run/x", "udp://:53", "tcp4://[::1]:80", "-1", "+80x"} {
		if network, host, port, err := parseAddress(wrong); err == nil {
			t.Errorf("%q is %s %s %d", wrong, network, host, port)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{":80", ":80", true},
		{":80", ":81", false},
		{":0", ":0", false},
		{":80", "127.0.0.1:80", true},
		{":80", "tcp6://[::1]:80", true},
		{"tcp4://:80", "tcp6://:80", false},
		{"0.0.0.0:80", "[::1]:80", false},
		{"[::]:80", "127.0.0.1:80", true},
		{"tcp6://[::]:80", "127.0.0.1:80", false},
		{"127.0.0.1:80", "127.0.0.2:80", false},
		{"[::1]:80", "tcp6://[::1]:80", true},
	} {
		var a, b listener
		for address, l := range map[string]*listener{test.a: &a, test.b: &b} {
			if err := l.setAddress(value{kind: text, text: address}); err != nil {
				t.Fatal(err)
			}
		}
		if test.a == test.b {
			a = b
		}
		if got := overlap(a.Listener, b.Listener); got != test.want || overlap(b.Listener, a.Listener) != got {
			t.Errorf("%s and %s: overlap is %v", test.a, test.b, got)
		}
	}
}
