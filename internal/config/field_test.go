package config

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Each setting is shown once, with the value that holds and where it was
// written; a variable's value nowhere.
func TestSettings(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.etc, "shop.toml")
	write(t, filepath.Join(h.etc, "shop.env"), "TOKEN=secret\n")
	write(t, file, `workers = "cpus-1"
command = ["./shop", "a b", ""]
env_file = "shop.env"
env.PASSWORD = "secret"
umask = "27"
drain.timeout = "90s"
redis.url = "redis://:secret@10.0.0.6"
redis.username = "shop"
redis.interval = "500ms"
redis.advertise = ["10.0.0.5:8080"]
redis.max_connections_per_host = 1_000
[[listen]]
address = "*:8080"
[[listen]]
name = "local"
address = "./s?mode=660"
`)
	cfg, err := h.load(typedFlags(t, "--balance=source", "--ready-timeout=60s", "--env=KEY=secret", "--redis=rediss://shop:secret@10.0.0.5:6380/1"), "shop", []string{"server", "--port", "{port}"})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, s := range cfg.Settings {
		got.WriteString(s.Key + " = " + s.Value + " (" + strings.ReplaceAll(s.Source, file, "FILE") + ")\n")
	}
	want := strings.ReplaceAll(`name = shop (command line)
command = server --port {port} (command line)
directory = ETC (default)
workers = cpus-1 (3) (FILE:1)
workers_max = 0 (default)
user =  (default)
group =  (default)
umask = 0027 (FILE:5)
env_file = ETC/shop.env (FILE:3)
preset = auto (none) (default)
stop_signal = TERM (default)
channel = forkd (default)
protocols = systemd (default)
sockets = auto (default)
pid_file =  (default)
listen.8080.name = 8080 (default)
listen.8080.address = tcp://:8080 (FILE:13)
listen.8080.mode = reuseport (default)
listen.8080.balance = source (--balance)
listen.8080.backlog = 4096 (default)
listen.8080.nonblocking = true (default)
listen.8080.freebind = false (default)
listen.local.name = local (FILE:15)
listen.local.address = unix://ETC/s?mode=0660 (FILE:16)
listen.local.mode = shared (default)
listen.local.backlog = 4096 (default)
listen.local.nonblocking = true (default)
ready.mode = auto (default)
ready.delay = 1s (default)
ready.timeout = 1m (--ready-timeout)
restart.condition = any (default)
restart.delay = 100ms (default)
restart.max_delay = 30s (default)
restart.max_attempts = 0 (default)
restart.window = 5s (default)
restart.clean_resets = true (default)
restart.prevent =  (default)
update.parallelism = 1 (default)
update.delay = 0s (default)
update.order = start-first (default)
update.monitor = 5s (default)
update.failure_action = rollback (default)
update.fallback = true (default)
drain.timeout = 1m30s (FILE:6)
drain.idle = 1s (default)
drain.delay = 0s (default)
drain.shed_per_second = 0 (default)
drain.handoff = true (default)
recycle.max_age = 0s (default)
recycle.max_requests = 0 (default)
recycle.max_rss = 0 (default)
recycle.jitter = 10% (default)
health.stall = 10s (default)
health.abort = false (default)
health.watchdog = 0s (default)
limits.memory_max = 0 (default)
limits.tasks_max = 0 (default)
limits.nofile = 0 (default)
limits.cpu_affinity = false (default)
count.mark_mask = 0 (default)
log.mode = capture (default)
log.directory =  (default)
log.max_size = 10MiB (default)
log.max_files = 5 (default)
redis.url = rediss://shop:***@10.0.0.5:6380/1 (--redis)
redis.username = shop (FILE:8)
redis.password_file =  (default)
redis.ca_file =  (default)
redis.interval = 500ms (FILE:9)
redis.ttl = 2s (default)
redis.host_id =  (default)
redis.advertise = 10.0.0.5:8080 (FILE:10)
redis.read_from = primary (default)
redis.control = false (default)
redis.connection_limit_per_host = 0 (default)
redis.max_connections_per_host = 1000 (FILE:11)
metrics.address =  (default)
agent.address =  (default)
control.group =  (default)
`, "ETC", h.etc)
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(got.String(), "secret") {
		t.Error("a variable's value is shown")
	}
}

func TestShownValues(t *testing.T) {
	for content, want := range map[string]string{
		"command = ['./shop', 'a b', '', '\"', '{fd}']\nlisten=[{address=80}]": `command ./shop "a b" "" "\"" {fd}`,
		"command = [\"\\u001b[2J\"]":                                 `command "\x1b[2J"`,
		"command = ['x', '{fd}']\nlisten=[{address=80}]":             "protocols none",
		"command = ['x']\nprotocols = []":                            "protocols none",
		"command = ['x']\nchannel = 'none'":                          "channel none",
		"command = ['x']\nworkers = 7":                               "workers 7",
		"command = ['x']\nworkers = '7'":                             "workers 7",
		"command = ['x']\nworkers = '50%'":                           "workers 50% (2)",
		"command = ['x']\nworkers = 0x10":                            "workers 0x10 (16)",
		"command = ['x']\nstop_signal = 'sigint'":                    "stop_signal INT",
		"command = ['x']\npid_file = ''":                             "pid_file ",
		"command = ['x']\ncontrol.group = 0":                         "control.group 0",
		"command = ['x']\nrecycle.max_rss = '1024KiB'":               "recycle.max_rss 1MiB",
		"command = ['x']\nrecycle.max_rss = '2T'":                    "recycle.max_rss 2TiB",
		"command = ['x']\nrecycle.max_rss = '1000B'":                 "recycle.max_rss 1000B",
		"command = ['x']\nrecycle.max_rss = 0":                       "recycle.max_rss 0",
		"command = ['x']\nrecycle.jitter = '7%'":                     "recycle.jitter 7%",
		"command = ['x']\ncount.mark_mask = 65_280":                  "count.mark_mask 0x0000ff00",
		"command = ['x']\ncount.mark_mask = 0x80000000\nworkers = 1": "count.mark_mask 0x80000000",
	} {
		cfg, _, err := loadFile(t, content)
		if err != nil {
			t.Errorf("%s: %v", content, err)
			continue
		}
		key, value, _ := strings.Cut(want, " ")
		for _, s := range cfg.Settings {
			if s.Key == key && s.Value != value {
				t.Errorf("%s: %s is shown as %s, not %s", content, key, s.Value, value)
			}
		}
	}
}

func TestBrief(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                            "0s",
		10 * time.Second:             "10s",
		time.Minute:                  "1m",
		10 * time.Minute:             "10m",
		time.Hour:                    "1h",
		10 * time.Hour:               "10h",
		time.Hour + 30*time.Minute:   "1h30m",
		time.Hour + time.Second:      "1h0m1s",
		1500 * time.Millisecond:      "1.5s",
		time.Minute + 30*time.Second: "1m30s",
	} {
		if got := brief(d); got != want {
			t.Errorf("%d is %s, not %s", d, got, want)
		}
	}
}
