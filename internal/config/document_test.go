package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
)

// What is no TOML hides nothing else: the file is read on behind it, with no word of what may
// be missing for it.
func TestBrokenFiles(t *testing.T) {
	for _, test := range []struct{ content, want string }{
		{"name = 'sh\nworkers = -1\n[redy]", `1:11: not valid TOML: |2:11: workers: |3:2: unknown table "redy"`},
		{"workers == 1\nname 'shop'\nworker = 2\n", `1:10: not valid TOML: |2:6: not valid TOML: |3:1: unknown key "worker"`},
		// In lists and texts that are not closed, and ones of several lines.
		{"command = ['a',\nworker = 2\nname = 7", `2:1: not valid TOML: |2:1: unknown key "worker"|3:8: name: `},
		{"command = ['a'\n  'b'\n]\nworker = 2", `2:3: not valid TOML: |4:1: unknown key "worker"`},
		{"command = [\n'a',\n'b']\nname = \"\"\"a\nworker = 2", `5:1: unknown key "worker"|5:10: not valid TOML: `},
		// What stands below a broken header is of no other table.
		{"[ready\ntimeout = 1\nmod = 2\n[drain]\nidel = 3", `1:7: not valid TOML: |5:1: unknown key "drain.idel"`},
		{"ready.mode = 'auto'\n[ready]\nx = 1\n[drain]\nidel = 3", `2:2: not valid TOML: |5:1: unknown key "drain.idel"`},
		// No end of it.
		{strings.Repeat("a = =\n", 100), strings.TrimSuffix(strings.Repeat("not valid TOML: |", maxFailures), "|")},
		{"name: shop\ncommand: x\n", "1:5: not valid TOML: "},
	} {
		_, _, err := loadFile(t, test.content)
		wrong, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%q: %v", test.content, err)
			continue
		}
		all, want := append([]*Error{wrong}, wrong.Others...), strings.Split(test.want, "|")
		for i := range all {
			if len(all) != len(want) || !strings.Contains(all[i].OneLine(), ":"+want[i]) && !strings.Contains(all[i].Text, want[i]) {
				t.Errorf("%q: error %d of %d: %s; want %d: %q", test.content, i, len(all), all[i].OneLine(), len(want), want)
			}
		}
	}
}

// Each bad file has one line that says where and what.
func TestBadFiles(t *testing.T) {
	for _, test := range []struct{ content, want string }{
		// No TOML, or no text.
		{"workers = \n", `1:11: not valid TOML: unexpected character U+000A at start of value`},
		{"# é\nname = \"é\" x\n", `2:12: not valid TOML: expected newline but got U+0078 'x'`},
		{"workers = 4\rumask = '1'", `1:12: not valid TOML: expected newline but got U+000D`},
		{"a = 1\n\xff\xfe", `2:1: the file is not text: byte 0xff is not valid in UTF-8 TOML`},
		{"\xff\xfen\x00", `1:1: the file is UTF-16: save it as UTF-8`},
		{"\x7fELF\x02\x01\x01\x00", `1:8: the file is not text: byte 0x00 is not valid in UTF-8 TOML`},
		{"", `there is no command to run: add command = ["./server"], or give one as in forkd run --listen :8080 -- ./server`},
		{"command = []", `1:11: there is no command to run: add command = ["./server"], or give one as in forkd run --listen :8080 -- ./server`},

		// Twice.
		{"workers = 1\n\nworkers = 2", `3:1: "workers" is written twice: it is in line 1 already`},
		{"ready.mode = 'auto'\nready.mode = 'auto'", `2:7: "ready.mode" is written twice: it is in line 1 already`},
		{"[ready]\n[drain]\n[ready]", `3:2: "ready" is written twice: it is in line 1 already`},
		{"env = { A = '1', A = '2' }", `1:18: "env.A" is written twice: it is in line 1 already`},
		{"ready.mode = 'auto'\n[ready]", `2:2: not valid TOML: table ready already exists as defined by a dotted key`},

		// Unknown.
		{"worker = 4", `1:1: unknown key "worker": did you mean "workers"?`},
		{"stop-signal = 'TERM'", `1:1: unknown key "stop-signal": did you mean "stop_signal"?`},
		{"timeout = '1s'", `1:1: unknown key "timeout": did you mean "ready.timeout" or "drain.timeout"?`},
		{"instances = 4", `1:1: unknown key "instances": did you mean "workers"?`},
		{"timeuot = '1s'", `1:1: unknown key "timeuot": did you mean "ready.timeout" or "drain.timeout"?`},
		{"[redy]\nmode = 'auto'", `1:2: unknown table "redy": did you mean "ready"?`},
		{"redy.mode = 'auto'", `1:1: unknown table "redy": did you mean "ready"?`},
		{"[ready]\ntimout = '1s'", `2:1: unknown key "ready.timout": did you mean "ready.timeout"?`},
		{"[ready]\nidle = '1s'", `2:1: unknown key "ready.idle": did you mean "drain.idle"?`},
		{"[ready]\nqqqqqq = 1", `2:1: unknown key "ready.qqqqqq": ready has mode, delay, timeout`},
		{"[[listen]]\nbaklog = 80", `2:1: unknown key "listen.baklog": did you mean "listen.backlog"?`},
		{"[[listen]]\naddress = ':80'\n[listen.tls]\ncert = 'x'", `3:9: unknown table "listen.tls": listen has name, address, mode, balance, backlog, nonblocking, freebind`},
		{"qqqqqq = 1", `1:1: unknown key "qqqqqq": there are name, command, directory, workers, workers_max, user, group, umask, env_file, preset, stop_signal, channel, protocols, sockets, pid_file, and the tables env, listen, ready, restart, update, drain, recycle, health, limits, count, log, redis, metrics, agent, control`},
		{"\"ready.mode\" = 'auto'", `1:1: unknown key "\"ready.mode\"": did you mean "ready.mode"?`},

		{"\n[log]\n# where\nmode = 'inherit'\ndirectory = 'x'", `5:13: log.directory: needs log.mode = "capture": forkd does not see what workers write`},
		{"log = { max_size = '63KiB' }", `1:20: log.max_size: must be at least 64KiB`},
		{"[log]\nmax_files = 0", `2:13: log.max_files: must be a number from 1 to 1000, not 0`},
		{"[[listen]]\naddress = 'udp://:53'", `2:11: listen.address: "udp://:53": udp is not built yet: use tcp://, tcp4://, tcp6:// or unix://`},

		// A table for a value, and the other way round.
		{"ready = 'auto'", `1:1: "ready" is a table: write [ready] and its settings below`},
		{"[[ready]]\nmode = 'auto'", `1:3: there is one ready only: write [ready]`},
		{"[listen]\naddress = ':80'", `1:2: there can be several listeners: write [[listen]]`},
		{"listen = ':80'", `1:1: there can be several listeners: write [[listen]]`},
		{"[workers]\nmax = 3", `1:2: "workers" is one value, not a table`},
		{"workers.max = 3", `1:9: "workers" is one value, not a table`},
		{"[env]\nA.B = 'x'", `2:3: env.A: must be text, not a table`},

		// Values.
		{"preset = 'ngin'", `1:10: preset: "ngin" is not valid: did you mean "nginx"? valid: "auto", "none", "apache", "celery", "gunicorn", "haproxy", "lighttpd", "nginx", "node", "php-fpm", "unicorn", "uvicorn" or "uwsgi"`},
		{"channel = 'ndoe'", `1:11: channel: "ndoe" is not valid: use "forkd", "node" or "none"`},
		{"sockets = 'captured'", `1:11: sockets: "captured" is not valid: did you mean "capture"? valid: "auto", "pass" or "capture"`},
		{"protocols = ['systemd', 'einhorn']", `1:25: protocols: "einhorn" is for programs that report to einhorn's own socket, which forkd is not: use "systemd" or "server-starter"`},
		{"ready.mode = 'accept'", `1:14: ready.mode: "accept" is not valid: use "auto", "listening", "accepting", "notify" or "delay"`},
		{"health.stall = -1", `1:16: health.stall: -1 has no unit: write "-1s" for seconds`},
		{"health.abort = 'yes'", `1:16: health.abort: must be true or false, not "yes"`},
		{"recycle.max_rss = 512", `1:19: recycle.max_rss: 512 is not a size: write "512MiB" or "2GiB"`},
		{"recycle.max_rss = '512MB'", `1:19: recycle.max_rss: "512MB" is not a size: write "512MiB" or "2GiB"`},
		{"recycle.max_rss = '-1MiB'", `1:19: recycle.max_rss: "-1MiB" is not a size: write "512MiB" or "2GiB"`},
		{"recycle.max_rss = 'MiB'", `1:19: recycle.max_rss: "MiB" is not a size: write "512MiB" or "2GiB"`},
		{"recycle.max_rss = '8388608TiB'", `1:19: recycle.max_rss: "8388608TiB" is too large`},
		{"recycle.max_rss = '99999999999999999999B'", `1:19: recycle.max_rss: "99999999999999999999B" is too large`},
		{"recycle.jitter = 0.1", `1:18: recycle.jitter: 0.1 is not a share: write "0%" to "100%"`},
		{"recycle.jitter = '101%'", `1:18: recycle.jitter: "101%" is not a share: write "0%" to "100%"`},
		{"command = ['gunicorn', 'a:b']\nrecycle.max_requests = 9", `2:24: recycle.max_requests: forkd does not see the requests of gunicorn, only those of programs with Go's package: use max_age or max_rss`},
		{"recycle.max_requests = -1", `1:24: recycle.max_requests: must be a number from 0 to 1000000000000, not -1`},
		{"limits.nofile = -1", `1:17: limits.nofile: must be a number from 0 to 1073741824, not -1`},
		{"limits.cpu_affinity = 1", `1:23: limits.cpu_affinity: must be true or false, not 1`},
		{"count.mark_mask = 'ff'", `1:19: count.mark_mask: "ff" is no mask of 32 bits: write "0x0000ff00", or "0" for none`},
		{"count.mark_mask = 0x100000000", `1:19: count.mark_mask: 0x100000000 is no mask of 32 bits: write "0x0000ff00", or "0" for none`},
		{"count.mark_mask = '0x0f0f'", `1:19: count.mark_mask: "0x0f0f" has a gap: its bits must adjoin, as those of 0x0000ff00`},
		{"command = ['x']\nworkers = 4\ncount.mark_mask = 0x300", `3:19: count.mark_mask: its bits tell 3 workers apart, and there are 4: add some`},
		{"name = '-x'", `1:8: name: "-x" is not a name: ` + control.NameRule},
		{"name = 5", `1:8: name: must be text: write "5"`},
		{"command = './shop --port 80'", `1:11: command: must be a list, not "./shop --port 80": write ["./shop", "--port", "80"]`},
		{"command = ['./shop',\n  80]", `2:3: command: must be text: write "80"`},
		{"command = ['']", `1:11: command: the program has no name`},
		{"command = ['x', \"a\\u0000\"]", `1:17: command: must not hold a NUL character`},
		{"command = ['x', '{fs}']", `1:11: command: argument 1: unknown placeholder {fs}: there are {fd}, {fd:NAME}, {port}, {port:NAME}, {slot}, {generation}; write {{ for a brace`},
		{"workers = 'max'", `1:11: workers: "max" is no number of workers: use 1 to 1024, "cpus", "cpus-1", "cpus*2+1" or "50%"`},
		{"workers = -1", `1:11: workers: -1 is no number of workers: use 1 to 1024, "cpus", "cpus-1", "cpus*2+1" or "50%"`},
		{"workers = 1.5", `1:11: workers: 1.5 is no number of workers: use 1 to 1024, "cpus", "cpus-1", "cpus*2+1" or "50%"`},
		{"umask = 22", `1:9: umask: 22 is not a umask: write octal digits in quotes, "0022"`},
		{"umask = '0888'", `1:9: umask: "0888" is not a umask: write octal digits in quotes, "0022"`},
		{"stop_signal = 'KILL'", `1:15: stop_signal: "KILL" is no signal that asks a program to end: use "TERM", "INT", "QUIT", "HUP", "USR1", "USR2" or "WINCH"`},
		{"user = 'nosuch'", `1:8: user: there is no user "nosuch": use a name or a number of /etc/passwd (getent passwd lists them)`},
		{"user = 12345", `1:8: user: no user has the number 12345: set group too, or use a name of /etc/passwd`},
		{"group = 'nosuch'", `1:9: group: there is no group "nosuch": use a name of /etc/group (getent group lists them) or a number`},
		{"env.PORT = 8080", `1:12: env.PORT: must be text: write the value in quotes`},
		{"env.LISTEN_FDS = '1'", `1:18: env.LISTEN_FDS: forkd sets LISTEN_FDS for each worker itself`},
		{"env.A = 'secret {'", `1:9: env.A: a brace begins {fd}, {fd:NAME}, {port}, {port:NAME}, {slot} or {generation}, and there is no listener: write {{ for a brace`},
		{"drain.timeout = 30", `1:17: drain.timeout: 30 has no unit: write "30s" for seconds`},
		{"drain.timeout = '30 s'", `1:17: drain.timeout: "30 s" is not a duration: write "500ms", "30s", "5m" or "1h30m"`},
		{"drain.timeout = '-1s'", `1:17: drain.timeout: "-1s" is too short: the least is "0s"`},
		{"drain.timeout = '100000h'", `1:17: drain.timeout: "100000h" is too long: the most is ten years`},
		{"ready.timeout = '0s'", `1:17: ready.timeout: "0s" is too short: the least is "1ms"`},
		{"restart.delay = '0s'", `1:17: restart.delay: "0s" is too short: the least is "1ms"`},
		{"restart.delay = '1m'", `1:17: restart.delay: restart.max_delay (30s) must not be less than restart.delay (1m0s)`},
		{"restart.condition = 'on_failure'", `1:21: restart.condition: "on_failure" is not valid: did you mean "on-failure"? valid: "any", "on-failure" or "none"`},
		{"update.parallelism = '1'", `1:22: update.parallelism: must be a number from 0 to 1024, not "1" in quotes`},
		{"update.parallelism = -1", `1:22: update.parallelism: must be a number from 0 to 1024, not -1`},
		{"log.mode = true", `1:12: log.mode: true is not valid: use "capture" or "inherit"`},
		{"directory = 'none\\x1b'", "1:13: directory: cannot use \"DIR/none\\\\x1b\": no such file or directory"},
		{"directory = 'forkd.toml'", `1:13: directory: "DIR/forkd.toml" is not a directory`},

		// Listeners.
		{"[[listen]]\nname = 'x'", `1:3: listen: it has no address: add address = ":8080"`},
		{"[[listen]]\naddress = ':80'\nname = 'x'\n[[listen]]\naddress = ':81'\nname = 'x'", `4:3: listen: two listeners are called "x": their names must differ`},
		{"[[listen]]\naddress = ':80'\n[[listen]]\naddress = 'tcp4://127.0.0.1:80'", `3:3: listen: listeners "80" and "80-2" overlap: both take port 80 of an address`},
		{"[[listen]]\naddress = ':99999'", `2:11: listen.address: ":99999": the port must be a number from 0 to 65535, not "99999"`},
		{"[[listen]]\naddress = 'host:80'", `2:11: listen.address: "host:80": "host" is not an IP address: use one of this machine, or none for every one`},
		{"[[listen]]\naddress = 'tcp6://127.0.0.1:80'", `2:11: listen.address: "tcp6://127.0.0.1:80": tcp6:// needs an IPv6 address`},
		{"[[listen]]\naddress = 'http://:80'", `2:11: listen.address: "http://:80": "http" is no scheme: use tcp://, tcp4://, tcp6:// or unix://`},
		{"[[listen]]\naddress = '::1:80'", `2:11: listen.address: "::1:80": not an address: write ":8080", "127.0.0.1:8080", "tcp://[::1]:8080" or "unix:///run/shop.sock"`},
		{"[[listen]]\nbacklog = 0", `2:11: listen.backlog: must be a number from 1 to 2147483647, not 0`},
		{"[[listen]]\nfreebind = true\naddress = '/run/x'", `2:12: listen.freebind: a unix socket has no address that could come later: leave it out`},
		{"[[listen]]\nnonblocking = 'yes'", `2:15: listen.nonblocking: must be true or false, not "yes"`},

		// Modes.
		{"[[listen]]\nmode = 'one'\naddress = 80", `2:8: listen.mode: "one" is not valid: use "reuseport", "shared" or "each"`},
		{"[[listen]]\nmode = 'reuseport'\naddress = '/run/x'", `2:8: listen.mode: "reuseport" is for tcp: a unix socket is always "shared"`},
		{"[[listen]]\naddress = 'unix:x'\nmode = 'each'", `3:8: listen.mode: "each" is for tcp: a unix socket is always "shared"`},
		{"[[listen]]\nmode = 'each'\naddress = ':0'", `2:8: listen.mode: "each" counts the slots' ports from the address's: write one that is not 0`},
		{"[[listen]]\nmode = 'each'\naddress = 'x'", `3:11: listen.address: "x": the port is missing: write ":8080", "127.0.0.1:8080", "tcp://[::1]:8080" or "unix:///run/shop.sock"`},
		{"workers = 9\n[[listen]]\nmode = 'each'\naddress = ':65528'", `4:11: listen.address: 9 workers with a port each would take 65528 to 65536: the highest port is 65535`},
		{"[[listen]]\nmode = 'shared'\nbalance = 'hash'\naddress = 80", `3:11: listen.balance: only mode "reuseport" has sockets to choose from, and this listener is "shared": leave it out`},
		{"[[listen]]\nmode = 'each'\nbalance = 'source'\naddress = 80", `3:11: listen.balance: only mode "reuseport" has sockets to choose from, and this listener is "each": leave it out`},
		{"[[listen]]\nbalance = 'hash'\naddress = '/run/x'", `2:11: listen.balance: only mode "reuseport" has sockets to choose from, and this listener is "shared": leave it out`},
		{"workers = 3\n[[listen]]\nmode = 'each'\naddress = 8000\n[[listen]]\naddress = '127.0.0.1:8002'", `5:3: listen: listeners "8000" and "8002" overlap: both take port 8002 of an address`},

		// Unix sockets.
		{"[[listen]]\naddress = '/run/x?mod=0660'", `2:11: listen.address: "/run/x?mod=0660": "mod" is not known after the question mark: there is mode, as in ?mode=0660`},
		{"[[listen]]\naddress = '/run/x?mode=0888'", `2:11: listen.address: "/run/x?mode=0888": mode: "0888" is not an access mode: write octal digits up to 0777, as in ?mode=0660`},
		{"[[listen]]\naddress = '/run/" + strings.Repeat("x", 103) + "'", `2:11: listen.address: "/run/` + strings.Repeat("x", 103) + `" is 1 bytes too long: a unix socket's path has at most 107`},
		{"metrics.address = ':9000'\nworkers = 4\n[[listen]]\naddress = '127.0.0.1:8997'\nmode = 'each'", `1:19: metrics.address: it overlaps with listener "8997": both take port 9000 of an address: give it another port`},
		{"agent.address = ':8080'\n[[listen]]\naddress = '127.0.0.1:8080'", `1:17: agent.address: it overlaps with listener "8080": both take port 8080 of an address: give it another port`},
		{"metrics.address = ':9000'\nagent.address = '127.0.0.1:9000'", `2:17: agent.address: it overlaps with metrics.address: both take port 9000 of an address: give it another port`},
		{"[[listen]]\naddress = '/run/x'\n[[listen]]\naddress = 'unix:///run/../run/x?mode=0600'", `3:3: listen: listeners "x" and "x-2" overlap: both take /run/x`},
		{"[control]\ngroup = 'nosuch'", `2:9: control.group: there is no group "nosuch": use a name of /etc/group (getent group lists them) or a number`},
		{"restart.prevent = 78", `1:19: restart.prevent: must be a list of exit codes, not 78: write [78]`},
		{"restart.prevent = [78, 256]", `1:24: restart.prevent: must be a number from 0 to 255, not 256`},
		{"drain.shed_per_second = -1", `1:25: drain.shed_per_second: must be a number from 0 to 1000000, not -1`},

		// The first of several is told, and how many there are.
		{"user = 'nosuch'\nworkers = 0\nfoo = 1", `1:8: user: there is no user "nosuch": use a name or a number of /etc/passwd (getent passwd lists them) (and 2 more errors: forkd check shows them)`},
	} {
		_, h, err := loadFile(t, test.content)
		separator := ":"
		if test.content == "" {
			separator = ": "
		}
		want := "forkd.toml" + separator + strings.ReplaceAll(test.want, "DIR", h.directory)
		if err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", test.content, err, want)
		}
	}
}

// What a file within the limit can cost at worst is bounded.
func TestHostileFiles(t *testing.T) {
	for name, content := range map[string]string{
		"nested":         "x = " + strings.Repeat("{a=", 9_000) + "1" + strings.Repeat("}", 9_000),
		"long key":       strings.Repeat("a.", 100_000) + "a = 1",
		"long header":    "[" + strings.Repeat("a.", 100_000) + "a]\n" + strings.Repeat("b = 1\n", 50_000),
		"many unknown":   manyKeys(50_000),
		"many variables": "env = {" + strings.ReplaceAll(strings.TrimSpace(manyKeys(maxSettings-100)), "\n", ", ") + "}",
		"one list":       "command = [" + strings.Repeat("1,", 100_000) + "]",
		"listeners":      "command = ['x']\n" + strings.Repeat("[[listen]]\naddress=0\n", 40_000),
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, _, err := loadFile(t, content)
			if took := time.Since(began); took > 5*time.Minute { // a second or two on a machine that does nothing else
				t.Errorf("took %s", took)
			}
			if wrong, ok := errors.AsType[*Error](err); !ok || wrong.Line < 1 {
				t.Errorf("%v", err)
			}
		})
	}
}

func manyKeys(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "k%d=1\n", i)
	}
	return out.String()
}

func TestFileTooLarge(t *testing.T) {
	_, _, err := loadFile(t, strings.Repeat("#\n", maxFile/2)+"#")
	if err == nil || err.Error() != "forkd.toml: cannot read it: it is over 1 MiB: is it the right file?" {
		t.Error(err)
	}
}
