package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/supervisor"
)

// newHost is a host with four CPUs whose current directory, and the places of
// configuration files, are empty and the test's own.
func newHost(t *testing.T) host {
	t.Helper()
	root := t.TempDir()
	h := host{
		directory: filepath.Join(root, "work"),
		etc:       filepath.Join(root, "etc"),
		home:      filepath.Join(root, "home"),
		cpus:      func() int { return 4 },
		backlog:   func() int { return 4096 },
		env:       func(string) (string, bool) { return "", false },
	}
	for _, directory := range []string{h.directory, h.etc, h.home} {
		if err := os.Mkdir(directory, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// typedFlags are flags as the command line has them.
func typedFlags(t *testing.T, args ...string) *Flags {
	t.Helper()
	f := &Flags{}
	set := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.Register(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f
}

// loadFile is Load of a ./forkd.toml with content.
func loadFile(t *testing.T, content string) (supervisor.Config, host, error) {
	t.Helper()
	h := newHost(t)
	write(t, filepath.Join(h.directory, "forkd.toml"), content)
	config, err := h.load(&Flags{}, "", nil)
	return config, h, err
}

const whole7 = `
name = "shop"
command = ["./shop", "--fd={fd:http}"]
directory = "."
workers = "cpus-1"
user = "nobody"
umask = "0027"
env = { RAILS_ENV = "production", PORT = "{port}" }
env_file = "shop.env"
preset = "none"
stop_signal = "SIGQUIT"
channel = "none"
protocols = ["systemd", "server-starter"]
sockets = "capture"
pid_file = "run/shop.pid"

[[listen]]
name = "http"
address = "tcp://:8080"
mode = "reuseport"
balance = "source"
backlog = 1_024
nonblocking = false
freebind = true

[[listen]]
address = "tcp6://[::1]:9090"
mode = "each"

[[listen]]
address = "unix:run/shop.sock?mode=0660"

[ready]
mode = "accepting"
delay = "2s"
timeout = "1m"

[restart]
condition = "on-failure"
delay = "200ms"
max_delay = "10s"
max_attempts = 3
window = "6s"
clean_resets = false
prevent = [78, 64]

[update]
parallelism = 2
delay = "3s"
order = "stop-first"
monitor = "0s"
failure_action = "pause"
fallback = false

[drain]
timeout = "45s"
idle = "500ms"
delay = "5s"
shed_per_second = 20

[recycle]
max_age = "1h"
max_requests = 1_000_000
max_rss = "512MiB"
jitter = "20%"

[health]
stall = "0"
abort = true
watchdog = "30s"

[limits]
memory_max = "0"
tasks_max = 0
nofile = 65_536
cpu_affinity = true

[count]
mark_mask = "0x0000ff00"

[log]
mode = "inherit"
max_size = "1MiB"
max_files = 3

[redis]
url = "rediss://10.0.0.5:6380/1"
username = "reporter"
password_file = "redis.password"
ca_file = "ca.pem"
interval = "1s"
ttl = "10s"
host_id = "web-1"
advertise = ["10.0.0.5:8080", "[fd00::5]:8080"]
read_from = "replica"
control = true
connection_limit_per_host = 20_000
max_connections_per_host = 25_000

[control]
group = "nogroup"
`

func TestEveryKey(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.etc, "shop.toml")
	write(t, file, whole7)
	writeSecrets(t, h.etc)
	write(t, filepath.Join(h.etc, "shop.env"), "export SECRET='{\"a\": 1}'\nRAILS_ENV=test\n\n# done\n")
	got, err := h.load(&Flags{}, "shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.User == nil || got.User.UID != 65534 || got.User.Name != "nobody" || len(got.User.Groups) == 0 {
		t.Errorf("user is %+v, not nobody with groups", got.User)
	}
	got.User, got.Reload, got.Settings = nil, nil, nil
	want := supervisor.Config{
		Name: "shop", Command: []string{"./shop", "--fd={fd:http}"}, Directory: h.etc, Workers: 3, Umask: 0o27, ControlGroup: 65534, CPUs: 4,
		Env:        map[string]string{"RAILS_ENV": "production", "PORT": "{port}", "SECRET": `{{"a": 1}`},
		StopSignal: syscall.SIGQUIT, Channel: "none", Protocols: []string{"systemd", "server-starter"}, PIDFile: filepath.Join(h.etc, "run/shop.pid"),
		Listeners: []sockets.Listener{
			{Name: "http", Network: "tcp", Port: 8080, Mode: "reuseport", Balance: "source", Backlog: 1024, Freebind: true},
			{Name: "9090", Network: "tcp6", Host: "::1", Port: 9090, Mode: "each", Backlog: 4096, Nonblocking: true},
			{
				Name: "shop.sock", Network: "unix", Path: filepath.Join(h.etc, "run/shop.sock"), Perm: 0o660,
				Mode: "shared", Backlog: 4096, Nonblocking: true,
			},
		},
		Ready: supervisor.Ready{Mode: "accepting", Delay: 2 * time.Second, Timeout: time.Minute},
		Restart: supervisor.Restart{
			Condition: "on-failure", Delay: 200 * time.Millisecond, MaxDelay: 10 * time.Second, MaxAttempts: 3, Window: 6 * time.Second, Prevent: []int{78, 64},
		},
		Update:  supervisor.Update{Parallelism: 2, Delay: 3 * time.Second, Order: "stop-first", FailureAction: "pause"},
		Drain:   supervisor.Drain{Timeout: 45 * time.Second, Idle: 500 * time.Millisecond, Delay: 5 * time.Second, ShedPerSecond: 20, Handoff: true},
		Recycle: supervisor.Recycle{MaxAge: time.Hour, MaxRequests: 1_000_000, MaxRSS: 512 << 20, Jitter: 0.2},
		Health:  supervisor.Health{Abort: true, Watchdog: 30 * time.Second},
		Sockets: "capture", MarkMask: 0xff00,
		Limits: supervisor.Limits{NoFile: 65_536, CPUAffinity: true},
		Log:    supervisor.Log{Mode: "inherit", MaxSize: 1 << 20, MaxFiles: 3},
		Redis: redisconfig.Settings{
			URL: "rediss://10.0.0.5:6380/1", Username: "reporter",
			PasswordFile: filepath.Join(h.etc, "redis.password"), CAFile: filepath.Join(h.etc, "ca.pem"),
			Interval: time.Second, TTL: 10 * time.Second, HostID: "web-1", Advertise: []string{"10.0.0.5:8080", "[fd00::5]:8080"},
			ReadFrom: "replica", Control: true, ConnectionLimit: 20_000, MaxConnections: 25_000,
		},
		File: file,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDefaults(t *testing.T) {
	got, h, err := loadFile(t, `command = ["shop"]`)
	if err != nil {
		t.Fatal(err)
	}
	want := supervisor.Defaults()
	want.Name, want.Command, want.Workers, want.Env = "forkd", []string{"shop"}, 4, map[string]string{}
	want.CPUs, got.Reload, got.Settings = 4, nil, nil
	want.Directory, want.File = h.directory, filepath.Join(h.directory, "forkd.toml")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// However a table is written, it means the same; BOM and CRLF mean nothing.
func TestSpellings(t *testing.T) {
	for name, content := range map[string]string{
		"tables":      "command = ['x']\n[[listen]]\naddress = ':80'\n[ready]\nmode = 'delay'\n[env]\nA = '1'\n",
		"inline":      "command = ['x']\nlisten = [{ address = ':80' }]\nready = { mode = 'delay' }\nenv = { A = '1' }\n",
		"dotted":      "command = ['x']\nready.mode = 'delay'\nenv.A = '1'\n[[listen]]\naddress = 80\n",
		"quoted":      "\"command\" = ['x']\n['ready']\n\"mode\" = 'delay'\n['env']\nA = '1'\n[['listen']]\naddress = '80'\n",
		"BOM, CRLF":   "\xef\xbb\xbfcommand = ['x']\r\nready.mode = 'delay'\r\nenv.A = '1'\r\n[[listen]]\r\naddress = ':80'\r\n",
		"long arrays": "command = [ # what to run\n 'x',\n]\nlisten = [\n { address = 'tcp://*:80' },\n]\nready.mode = 'delay'\nenv.A = '1'",
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := loadFile(t, content)
			if err != nil {
				t.Fatal(err)
			}
			if got.Ready.Mode != "delay" || got.Env["A"] != "1" || len(got.Listeners) != 1 || got.Listeners[0].Port != 80 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestFlagsWin(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.etc, "shop.toml")
	write(t, file, whole7)
	writeSecrets(t, h.etc)
	write(t, filepath.Join(h.directory, "mine.env"), "A=\"x\\ny\" # why\n")
	f := typedFlags(t, "-c", file, "--name", "other", "--workers=50%", "--listen=8081", "--listen", "127.0.0.1:8081",
		"--balance=source", "--directory=.", "--umask=077", "--env=RAILS_ENV=", "--env", "B=c=d", "--env-file=mine.env",
		"--stop-signal=int", "--channel=forkd", "--protocols=none", "--pid-file=p", "--ready=auto", "--ready-delay=3s",
		"--ready-timeout=4s", "--restart=none", "--max-attempts=010", "--parallelism=0", "--update-delay=5s",
		"--order=start-first", "--monitor=6s", "--failure-action=rollback", "--drain-timeout=7s", "--drain-idle=0", "--drain-delay=8s",
		"--log=capture", "--log-directory=log", "--sockets=pass", "--preset=none", "--stall=20s", "--nofile=1000", "--user=0", "--group=0", "--redis=rediss://other")
	got, err := h.load(f, "", []string{"./bin/server", "{slot}"})
	if err == nil || err.Error() != `--listen: listeners "8081" and "8081-2" overlap: both take port 8081 of an address` {
		t.Errorf("of overlapping listeners: %v", err)
	}
	f.given["listen"][0].text = "127.0.0.2:8081"
	if got, err = h.load(f, "", []string{"./bin/server", "{slot}"}); err != nil {
		t.Fatal(err)
	}
	if got.User == nil || got.User.Name != "root" || got.User.Home != "/root" {
		t.Errorf("user is %+v", got.User)
	}
	got.User, got.Reload, got.Settings = nil, nil, nil
	want := supervisor.Config{
		Name: "other", Command: []string{"./bin/server", "{slot}"}, Directory: h.directory, Workers: 2, Umask: 0o77, ControlGroup: 65534, CPUs: 4,
		Env:        map[string]string{"A": "x\ny", "B": "c=d", "RAILS_ENV": "", "PORT": "{port}"},
		StopSignal: syscall.SIGINT, Channel: "forkd", PIDFile: filepath.Join(h.directory, "p"),
		Listeners: []sockets.Listener{
			{Name: "8081", Network: "tcp", Host: "127.0.0.2", Port: 8081, Mode: "reuseport", Balance: "source", Backlog: 4096, Nonblocking: true},
			{Name: "8081-2", Network: "tcp", Host: "127.0.0.1", Port: 8081, Mode: "reuseport", Balance: "source", Backlog: 4096, Nonblocking: true},
		},
		Ready: supervisor.Ready{Mode: "auto", Delay: 3 * time.Second, Timeout: 4 * time.Second},
		Restart: supervisor.Restart{
			Condition: "none", Delay: 200 * time.Millisecond, MaxDelay: 10 * time.Second, MaxAttempts: 10, Window: 6 * time.Second, Prevent: []int{78, 64},
		},
		Update:  supervisor.Update{Delay: 5 * time.Second, Order: "start-first", Monitor: 6 * time.Second, FailureAction: "rollback"},
		Drain:   supervisor.Drain{Timeout: 7 * time.Second, Delay: 8 * time.Second, ShedPerSecond: 20, Handoff: true},
		Recycle: supervisor.Recycle{MaxAge: time.Hour, MaxRequests: 1_000_000, MaxRSS: 512 << 20, Jitter: 0.2},
		Health:  supervisor.Health{Stall: 20 * time.Second, Abort: true, Watchdog: 30 * time.Second},
		Sockets: "pass", Preset: supervisor.Preset{}, MarkMask: 0xff00,
		Limits: supervisor.Limits{NoFile: 1000, CPUAffinity: true},
		Log:    supervisor.Log{Mode: "capture", Directory: filepath.Join(h.directory, "log"), MaxSize: 1 << 20, MaxFiles: 3},
		Redis: redisconfig.Settings{
			URL: "rediss://other", Username: "reporter",
			PasswordFile: filepath.Join(h.etc, "redis.password"), CAFile: filepath.Join(h.etc, "ca.pem"),
			Interval: time.Second, TTL: 10 * time.Second, HostID: "web-1", Advertise: []string{"10.0.0.5:8080", "[fd00::5]:8080"},
			ReadFrom: "replica", Control: true, ConnectionLimit: 20_000, MaxConnections: 25_000,
		},
		File: file,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBadFlags(t *testing.T) {
	h := newHost(t)
	server := []string{"./server"}
	for _, test := range []struct {
		flags   string
		command []string
		want    string
	}{
		{"", nil, "there is no command to run, and no forkd.toml here: try forkd run --listen :8080 -- ./server"},
		{"--workers 0", server, `--workers: "0" is no number of workers: use 1 to 1024, "cpus", "cpus-1", "cpus*2+1" or "50%"`},
		{"--workers 2000", server, `--workers: 2000 is too many: the most is 1024`},
		{"--listen x", server, `--listen: "x": the port is missing: ` + sockets.AddressForms},
		{"--drain-timeout 30", server, `--drain-timeout: "30" has no unit: write "30s" for seconds`},
		{"--env A", server, `--env: "A" has no value: write --env A=VALUE`},
		{"--env A={", server, "--env: a brace begins {fd}, {fd:NAME}, {port}, {port:NAME}, {slot} or {generation}, and there is no listener: write {{ for a brace"},
		{"--env FORKD_SLOT=1", server, "--env: forkd sets FORKD_SLOT for each worker itself"},
		{"--listen unix://x.sock", server, `--listen: "unix://x.sock": "x.sock" stands where a host's name would: write unix:///PATH, or unix:PATH for a relative one`},
		{"--listen ./x.sock --balance hash", server, `--balance: only mode "reuseport" has sockets to choose from, and no listener is of it: leave it out`},
		{"--listen ./x.sock", []string{"./x", "{port}"}, `command: argument 1: {port}: listener "x.sock" is a unix socket, and has no port`},
		{"--listen ./x.sock --env A={port:x.sock}", server, `--env: a brace begins {fd}, {fd:NAME}, {port}, {port:NAME}, {slot} or {generation}, and NAME is "x.sock", without a port where it is "x.sock": write {{ for a brace`},
		{"--listen ./x.sock --listen ./.x.sock.forkd", server, `--listen: listeners "x.sock" and "x.sock.forkd" overlap: both take ` + h.directory + `/.x.sock.forkd`},
		{"--balance hash", server, "--balance: there is no listener to balance: add --listen :8080"},
		{"--balance least --listen 1", server, `--balance: "least" is not built yet: use "hash" or "source"`},
		{"--order stop", server, `--order: "stop" is not valid: use "start-first" or "stop-first"`},
		{"--user nosuch", server, `--user: there is no user "nosuch": use a name or a number of /etc/passwd (getent passwd lists them)`},
		{"--name a/b", server, `--name: "a/b" is not a name: ` + control.NameRule},
		{"-c none.toml", server, "none.toml: cannot read it: no such file or directory"},
		{"-c .", server, ".: cannot read it: it is a directory"},
		{"-c /dev/null", server, "/dev/null: cannot read it: it is not a regular file"},
		{"", []string{"./x", "{fd}"}, "command: argument 1: {fd} needs a listener, and there is none"},
		{"--env-file none.env", server, `--env-file: cannot read "` + h.directory + `/none.env": no such file or directory`},
		{"--directory none", server, `--directory: cannot use "` + h.directory + `/none": no such file or directory`},
	} {
		_, err := h.load(typedFlags(t, strings.Fields(test.flags)...), "", test.command)
		if _, ok := errors.AsType[*Error](err); !ok || err.Error() != test.want {
			t.Errorf("%s: got  %v\nwant %s", test.flags, err, test.want)
		}
	}
}

// Which file it is, and what the app is called then.
func TestFind(t *testing.T) {
	h := newHost(t)
	load := func(app string, command ...string) string {
		config, err := h.load(&Flags{}, app, command)
		if err != nil {
			return strings.ReplaceAll(err.Error(), filepath.Dir(h.etc), "")
		}
		return config.Name + " of " + filepath.Base(filepath.Dir(config.File)) + "/" + filepath.Base(config.File)
	}
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	expect(load("shop"), `there is no configuration of "shop": looked for /etc/shop.toml, /home/shop.toml, forkd.toml: `+
		`write one, or say what to run: forkd run shop --listen :8080 -- ./server`)
	expect(load("shop", "x"), "shop of ./.")
	expect(load("", "bin/run.sh"), "run of ./.")
	expect(load("../shop"), `"../shop" is not the name of an app: `+control.NameRule)
	write(t, filepath.Join(h.directory, "forkd.toml"), "name = 'here'\ncommand = ['x']")
	expect(load(""), "here of work/forkd.toml")
	expect(load("here"), "here of work/forkd.toml")
	expect(load("shop"), `forkd.toml:1:8: name: this file is of "here", and "shop" was asked for: `+
		`forkd run -c FILE --name shop runs it under that name`)
	write(t, filepath.Join(h.home, "shop.toml"), "command = ['x']")
	expect(load("shop"), "shop of home/shop.toml")
	write(t, filepath.Join(h.etc, "shop.toml"), "command = ['x']")
	expect(load("shop"), "shop of etc/shop.toml")
	write(t, filepath.Join(h.etc, "shop.toml"), "")
	expect(load("shop"), `/etc/shop.toml: there is no command to run: add command = ["./server"], `+
		`or give one as in forkd run --listen :8080 -- ./server`)
}

// A relative program is looked for where it runs, or where it was typed.
func TestRelativeCommand(t *testing.T) {
	h := newHost(t)
	current := filepath.Join(h.etc, "current")
	if err := os.Mkdir(current, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(h.etc, "plain.toml"), "command = ['./x']")
	write(t, filepath.Join(h.etc, "moved.toml"), "command = ['./x']\ndirectory = 'current'")
	for _, test := range []struct {
		flags         []string
		app           string
		command       []string
		dir, resolved string
	}{
		{nil, "plain", nil, h.etc, "./x"},
		{nil, "moved", nil, current, "./x"},
		{nil, "plain", []string{"./y"}, h.etc, h.directory + "/y"},
		{nil, "moved", []string{"./y"}, current, h.directory + "/y"},
		{nil, "none", []string{"./y"}, h.directory, "./y"},
		{[]string{"--directory", current}, "none", []string{"./y"}, current, "./y"},
		{[]string{"--directory", current}, "plain", nil, current, "./x"},
		{nil, "moved", []string{"y"}, current, "y"},
		{nil, "moved", []string{"/bin/y"}, current, "/bin/y"},
	} {
		got, err := h.load(typedFlags(t, test.flags...), test.app, test.command)
		if err != nil {
			t.Fatal(err)
		}
		if got.Directory != test.dir || got.Command[0] != test.resolved {
			t.Errorf("%s %v: runs %q in %q, not %q in %q", test.app, test.command, got.Command[0], got.Directory, test.resolved, test.dir)
		}
	}
}

// A program that is given a socket by number gets no LISTEN_FDS beside it.
func TestProtocolsDefault(t *testing.T) {
	listen := "[[listen]]\naddress = ':80'\n"
	for content, want := range map[string]bool{
		"command = ['x', '{slot}']\n" + listen:                        true,
		"command = ['x', '--fd={fd}']\n" + listen:                     false,
		"command = ['x']\nenv.NGINX = '{fd:80};'\n" + listen:          false,
		"command = ['x', '{{fd}']\n" + listen:                         true,
		"command = ['x', '{fd}']\nprotocols = ['systemd']\n" + listen: true,
		"command = ['x']\nprotocols = []\n" + listen:                  false,
	} {
		got, _, err := loadFile(t, content)
		if err != nil {
			t.Fatal(err)
		}
		if systemd := slices.Contains(got.Protocols, "systemd"); systemd != want {
			t.Errorf("%s: systemd is %v", content, systemd)
		}
	}
}

func TestMetricsAddress(t *testing.T) {
	for text, want := range map[string]string{
		`"127.0.0.1:9640"`: "127.0.0.1:9640", `":9640"`: ":9640", `9640`: ":9640", `""`: "", `"tcp://[::1]:1"`: "[::1]:1",
	} {
		cfg, _, err := loadFile(t, "command = ['/bin/true']\n[metrics]\naddress = "+text+"\n")
		if err != nil || cfg.Metrics != want {
			t.Errorf("%s: %q, %v; want %q", text, cfg.Metrics, err, want)
		}
	}
	longest := "/run/" + strings.Repeat("x", 102) // of a socket
	for _, listen := range []string{"8081", "'127.0.0.2:8080'", "'" + longest + "'"} {
		if _, _, err := loadFile(t, "command = ['/bin/true']\nmetrics.address = '127.0.0.1:8080'\nlisten = [{ address = "+listen+" }]\n"); err != nil {
			t.Errorf("beside %s: %v", listen, err)
		}
	}
	const tcp = `write ":8080", "127.0.0.1:8080" or "tcp://[::1]:8080"`
	for address, want := range map[string]string{
		"unix:///x": "it must be a TCP address, not a unix socket: " + tcp,
		"unix:x":    "it must be a TCP address, not a unix socket: " + tcp,
		"/run/x":    "it must be a TCP address, not a unix socket: " + tcp,
		"http://:1": `"http" is no scheme: use tcp://, tcp4:// or tcp6://`,
		"udp://:1":  "udp is not built yet: use tcp://, tcp4:// or tcp6://",
		"x":         "the port is missing: " + tcp,
		"::1:80":    "not an address: " + tcp,
	} {
		for _, key := range []string{"metrics.address", "agent.address"} {
			_, _, err := loadFile(t, "command = ['/bin/true']\n"+key+" = '"+address+"'\n")
			if err == nil || !strings.HasSuffix(err.Error(), fmt.Sprintf("%s: %q: %s", key, address, want)) {
				t.Errorf("%s %s: %v", key, address, err)
			}
		}
	}
}
