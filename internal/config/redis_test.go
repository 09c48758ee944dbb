package config

import (
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writeSecrets writes redis.password and ca.pem.
func writeSecrets(t *testing.T, directory string) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	write(t, filepath.Join(directory, "redis.password"), "secret\n")
	write(t, filepath.Join(directory, "ca.pem"), string(ca))
}

// What can't be a setting of Redis is refused where it stands, in words that
// hold no password.
func TestBadRedis(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.directory, "forkd.toml")
	write(t, filepath.Join(h.directory, "empty"), "\nhunter2\n")
	writeSecrets(t, h.directory)
	const hostIDs = "is no host id: 1 to 128 of A-Z a-z 0-9 . _ : -, a letter or digit first"
	const schemes = "is no URL of Redis: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// and a host"
	for _, test := range []struct{ redis, want string }{
		{"url = 'redis://:hunter2@h'\nurls = 1", `4:1: unknown key "redis.urls": did you mean "redis.url"?`},
		{"url = \"redis://:hunter2@h\\n\"", `3:7: redis.url: must not hold a control character`},
		{"url = ['redis://:hunter2@h']", `3:7: redis.url: must be text in quotes, not a list`},
		{"url = 6379", `3:7: redis.url: must be text: write "6379"`},
		{"url = redis://:hunter2@h", `3:7: not valid TOML: `},
		{"[redis.url]\nx = 'redis://:hunter2@h'", `3:8: "redis.url" is one value, not a table`},
		{"url = '127.0.0.1:6379'", `3:7: redis.url: ` + schemes},
		{"url = 'http://:hunter2@h'", `3:7: redis.url: ` + schemes},
		{"url = 'redis://:hunter2'", `3:7: redis.url: names a host that is no HOST or HOST:PORT`},
		{"url = 'redis://:hunter2/x@h'", `3:7: redis.url: has a / or ? in the user or password, or an @ after the host: write it as %2F, %3F or %40`},
		{"url = 'redis://:hunter2?x@h'", `3:7: redis.url: has a / or ? in the user or password, or an @ after the host: write it as %2F, %3F or %40`},
		{"url = 'redis://:hunter2@h:x'", `3:7: redis.url: names a host that is no HOST or HOST:PORT`},
		{"url = 'redis://:hunter2%@h'", `3:7: redis.url: has a % in the user or password that begins no %XX: write it as %25`},
		{"url = 'redis+sentinel://:hunter2@a,b:1'", `3:7: redis.url: names no primary: redis+sentinel://HOST:26379/NAME, as it is called in sentinel.conf`},
		{"url = 'redis://a:hunter2@h'\nusername = 'b'", `4:12: redis.username: is "b", and the url has "a"`},
		{"password_file = 'none'", `3:17: redis.password_file: stat DIR/none: no such file or directory`},
		{"password_file = '.'", `3:17: redis.password_file: DIR is not a plain file`},
		{"password_file = 'empty'", `3:17: redis.password_file: DIR/empty: its first line is empty`},
		{"url = 'redis://:hunter2@h'\npassword_file = 'redis.password'", `4:17: redis.password_file: the url has a password too: leave one of them out`},
		{"url = 'rediss://h'\nca_file = 'redis.password'", `4:11: redis.ca_file: DIR/redis.password holds no certificate in PEM form`},
		{"url = 'redis://h'\nca_file = 'ca.pem'", `4:11: redis.ca_file: is of use with rediss:// only, and the url is without TLS`},
		{"ca_file = 'none'", `3:11: redis.ca_file: stat DIR/none: no such file or directory`},
		{"hostid = 'a'", `3:1: unknown key "redis.hostid": did you mean "redis.host_id"?`},
		{"interval = '50ms'", `3:12: redis.interval: "50ms" is too short: the least is "100ms"`},
		{"interval = '2h'", `3:12: redis.interval: is 2h0m0s: must be 100ms to 1h0m0s`},
		{"interval = 2", `3:12: redis.interval: 2 has no unit: write "2s" for seconds`},
		{"interval = '10s'\nttl = '10s'", `4:7: redis.ttl: is 10s: must be more than the interval of 10s, and at most 30 days`},
		{"ttl = '1s'", `3:7: redis.ttl: is 1s: must be more than the interval of 2s, and at most 30 days`},
		{"host_id = '-a'", `3:11: redis.host_id: "-a" ` + hostIDs},
		{"host_id = 'a b'", `3:11: redis.host_id: "a b" ` + hostIDs},
		{"host_id = 'ä'", `3:11: redis.host_id: "ä" ` + hostIDs},
		{"host_id = '" + strings.Repeat("a", 129) + "'", `3:11: redis.host_id: "` + strings.Repeat("a", 129) + `" ` + hostIDs},
		{"username = \"a\\u0007\"", `3:12: redis.username: must not hold a control character`},
		{"advertise = '10.0.0.5:80'", `3:13: redis.advertise: must be a list, not "10.0.0.5:80": write ["10.0.0.5:80"]`},
		{"advertise = ['a', \"\\u001b[2J\"]", `3:13: redis.advertise: "\x1b[2J" is no address: 1 to 256 bytes without spaces`},
		{"advertise = ['a', '']", `3:13: redis.advertise: "" is no address: 1 to 256 bytes without spaces`},
		{"advertise = [" + strings.Repeat("'a',", 65) + "]", `3:13: redis.advertise: has more than 64 addresses`},
		{"read_from = 'master'", `3:13: redis.read_from: "master" is not valid: use "primary" or "replica"`},
		{"control = 'yes'", `3:11: redis.control: must be true or false, not "yes"`},
		{"connection_limit_per_host = -1", `3:29: redis.connection_limit_per_host: must be a number from 0 to 2147483647, not -1`},
		{"max_connections_per_host = '9'", `3:28: redis.max_connections_per_host: must be a number from 0 to 2147483647, not "9" in quotes`},
		{"max_connections_per_host = 3", `3:28: redis.max_connections_per_host: 3 is fewer than there are workers (4): each needs one at least`},
	} {
		write(t, file, "command = ['x']\n[redis]\n"+test.redis+"\n")
		_, err := h.load(&Flags{}, "", nil)
		want := "forkd.toml:" + strings.ReplaceAll(test.want, "DIR", h.directory)
		if _, ok := errors.AsType[*Error](err); !ok || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s:\ngot  %v\nwant %s", test.redis, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a password is in an error: %v", err)
		}
	}
}

// A URL of a flag is checked and masked as one of the file. Without a URL, and
// with that of the embedded Redis, the other settings may stand.
func TestRedisURL(t *testing.T) {
	h := newHost(t)
	writeSecrets(t, h.directory)
	write(t, filepath.Join(h.directory, "forkd.toml"), "command = ['x']\n[redis]\nusername = 'a'\npassword_file = 'redis.password'\nca_file = 'ca.pem'\n")
	for url, want := range map[string]string{
		"":                              "",
		"embedded":                      "embedded",
		"rediss://h":                    "rediss://h",
		"rediss://a@h:1/2":              "rediss://a@h:1/2",
		"rediss+sentinel://h,i:2/shop":  "rediss+sentinel://h,i:2/shop",
		"rediss+cluster://h:1,[::1]:2":  "rediss+cluster://h:1,[::1]:2",
		"rediss://a:hunter2@h":          `forkd.toml:4:17: redis.password_file: the url has a password too: leave one of them out`,
		"hunter2":                       `--redis: is no URL of Redis: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// and a host`,
		"unix://a:hunter2@/run/r.s?d=1": `--redis: has options after a ?: only db=N is known`,
	} {
		cfg, err := h.load(typedFlags(t, "--redis", url), "", nil)
		got := cfg.Redis.URL
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", url, got, want)
		}
	}
}

// Whoever is on the machine can write to the embedded Redis: nobody is given orders
// there.
func TestEmbeddedIsNotObeyed(t *testing.T) {
	_, _, err := loadFile(t, "command = ['x']\nredis.url = 'embedded'\nredis.control = true\n")
	if err == nil || !strings.Contains(err.Error(), ":3:17: redis.control: is not to be had with the embedded Redis") {
		t.Errorf("got %v", err)
	}
}

// What describe and check show of a URL.
func TestRedisMasked(t *testing.T) {
	for url, want := range map[string]string{
		"redis://a:hunter2@h:1/2":                 "redis://a:***@h:1/2",
		"rediss+sentinel://:hunter2@h,i:2/shop/1": "rediss+sentinel://:***@h,i:2/shop/1",
		"redis+cluster://a:hunter2@h":             "redis+cluster://a:***@h",
		"unix://a:hunter2@/run/redis.sock?db=1":   "unix://a:***@/run/redis.sock?db=1",
		"redis://a:hunter%40%2F2@h":               "redis://a:***@h",
		"redis://a:hunter2@hunter2@h":             "redis://a:***@h",
		"embedded":                                "embedded",
	} {
		cfg, _, err := loadFile(t, "command = ['x']\nredis.url = '"+url+"'\n")
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		for _, s := range cfg.Settings {
			if s.Key == "redis.url" && s.Value != want {
				t.Errorf("%s is shown as %s, not %s", url, s.Value, want)
			}
		}
	}
}

// A password that every user of the machine can read on the command line is warned
// of.
func TestPublicPassword(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.directory, "forkd.toml")
	const warning = "--redis: every user of this machine can read the password on the command line: leave it out of the URL, and give --redis-password-file FILE"
	for _, c := range []struct {
		flag, url string
		want      []string
	}{
		{"redis://:hunter2@h", "redis://h", []string{warning}},
		{"redis://h", "redis://:hunter2@h", nil},
		{"", "redis://:hunter2@h", nil},
	} {
		write(t, file, "command = ['x']\nredis.url = '"+c.url+"'\n")
		f := &Flags{}
		if c.flag != "" {
			f = typedFlags(t, "--redis", c.flag)
		}
		cfg, err := h.load(f, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, cfg.Warnings); diff != "" {
			t.Errorf("%+v: %s", c, diff)
		}
	}
}

// Settings of Redis may change with a reload; a bad one changes nothing.
func TestRedisReload(t *testing.T) {
	cfg, _, file := started(t, "command = ['x']\nredis.url = 'redis://a'\n")
	write(t, file, "command = ['x']\nredis.url = 'redis://b'\nredis.control = true\n")
	again, err := cfg.Reload()
	if err != nil || again.Redis.URL != "redis://b" || !again.Redis.Control {
		t.Errorf("%+v, %v", again.Redis, err)
	}
	write(t, file, "command = ['x']\nredis.url = 'b'\n")
	if _, err := again.Reload(); err == nil || !strings.HasPrefix(err.Error(), file+":2:13: redis.url: ") {
		t.Errorf("got %v", err)
	}
}
