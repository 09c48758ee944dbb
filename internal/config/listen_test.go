package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/supervisor"
)

func TestParseAddress(t *testing.T) {
	tcp := func(network, host string, port int) supervisor.Listener {
		return supervisor.Listener{Network: network, Host: host, Port: port}
	}
	unix := func(path string) supervisor.Listener { return supervisor.Listener{Network: "unix", Path: path} }
	moded := unix("/run/x")
	moded.Perm = 0o660
	for address, want := range map[string]supervisor.Listener{
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
		got, err := parseAddress(address)
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
		if got, err := parseAddress(wrong); err == nil {
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
		l, err := parseAddress(written)
		if got := Address(l); err != nil || got != want {
			t.Errorf("%s is %s, %v, not %s", written, got, err, want)
		}
	}
}

func TestOverlap(t *testing.T) {
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
		listen := func(text string) supervisor.Listener {
			address, each := strings.CutPrefix(text, "+")
			l, err := parseAddress(address)
			if err != nil {
				t.Fatal(err)
			}
			if each {
				l.Mode = "each"
			}
			return l
		}
		a, b := listen(test.a), listen(test.b)
		if got := overlap(a, b, 3); got != test.want || overlap(b, a, 3) != got {
			t.Errorf("%s and %s: both take %q, not %q", test.a, test.b, got, test.want)
		}
	}
}

// What is not said of a listener, and where a relative path begins.
func TestListenerDefaults(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.etc, "shop.toml")
	load := func(content string, flags ...string) string {
		write(t, file, "command = ['x']\nworkers = 2\n"+content)
		cfg, err := h.load(typedFlags(t, flags...), "shop", nil)
		if err != nil {
			return err.Error()
		}
		var all []string
		for _, l := range cfg.Listeners {
			all = append(all, strings.Join([]string{l.Name, strings.ReplaceAll(Address(l), filepath.Dir(h.etc), "ROOT"), l.Mode, l.Balance}, " "))
		}
		return strings.TrimSpace(strings.Join(all, "\n"))
	}
	long := strings.Repeat("n", 48)
	for _, test := range []struct {
		content string
		flags   []string
		want    string
	}{
		{
			"listen=[{address=80},{address='/x'},{address=90,mode='each'},{address=99,mode='shared'}]", nil,
			"80 tcp://:80 reuseport hash\nx unix:///x shared \n90 tcp://:90 each \n99 tcp://:99 shared",
		},
		{
			"listen=[{address=80},{address='/x'},{address=90,mode='each'},{address=99,balance='hash'}]",
			[]string{"--balance", "source"},
			"80 tcp://:80 reuseport source\nx unix:///x shared \n90 tcp://:90 each \n99 tcp://:99 reuseport source",
		},
		{"listen=[{address='run/../x'}]", nil, file + `:3:18: listen.address: "run/../x": a unix socket's path begins with "/" or "./": ` + addressForms},
		{"listen=[{address='./run/../x', mode='shared'}]", nil, "x unix://ROOT/etc/x shared"},
		{"listen=[{address=80}]", []string{"--listen", "../x.sock?mode=0600"}, "x.sock unix://ROOT/x.sock?mode=0600 shared"},
		{
			"listen=[{address='/a/x'},{address='/b/x'},{address='/c/é'},{address='/d/...'}]", nil,
			"x unix:///a/x shared \nx-2 unix:///b/x shared \nunix unix:///c/é shared \nunix-2 unix:///d/... shared",
		},
		{
			"listen=[{address='/a/" + long + "'},{address='/b/" + long + "y'}]", nil,
			long + " unix:///a/" + long + " shared \n" + long[:46] + "-2 unix:///b/" + long + "y shared",
		},
		{
			"listen=[{address='/a/80',name='web'},{address=80},{address='/b/80'}]", nil,
			"web unix:///a/80 shared \n80 tcp://:80 reuseport hash\n80-2 unix:///b/80 shared",
		},
	} {
		if got := load(test.content, test.flags...); got != test.want {
			t.Errorf("%s %v:\ngot  %s\nwant %s", test.content, test.flags, got, test.want)
		}
	}
}

// A queue that is shorter than was asked for is warned of.
func TestBacklogCut(t *testing.T) {
	h := newHost(t)
	write(t, filepath.Join(h.directory, "forkd.toml"), "command = ['x']\nlisten = [{address=80,backlog=4096},{address='/x',backlog=4097}]\n")
	for most, want := range map[int][]string{
		4096: {"listener x: net.core.somaxconn cuts its backlog of 4097 to 4096: raise it (sysctl -w net.core.somaxconn=4097) or lower the backlog"},
		4097: nil,
		0:    nil,
	} {
		h.backlog = func() int { return most }
		cfg, err := h.load(&Flags{}, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, cfg.Warnings); diff != "" {
			t.Errorf("with %d: %s", most, diff)
		}
	}
	if maxBacklog() < 1 {
		t.Error("net.core.somaxconn cannot be read")
	}
}
