package config

import (
	"slices"
	"strconv"
	"time"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/redisconfig"
	"github.com/forkd/forkd/supervisor"
)

// key is one setting: its name in the file, its flag if a one-liner needs it,
// and what it sets.
type key struct {
	name  string // dotted
	flag  string // "" for none
	usage string // of the flag, the argument in backquotes
	field
}

// field is how a setting gets into the draft and, once that is finished, how
// describe shows it.
type field struct {
	set  func(*draft, value) error
	show func(*draft) string
}

// keys are all settings but those of [[listen]], and but env's members.
func keys() []key {
	return []key{
		{"name", "name", "what the app is called: `NAME`", field{(*draft).setName, func(d *draft) string { return d.config.Name }}},
		{"command", "", "", field{(*draft).setCommand, (*draft).showCommand}},
		{"directory", "directory", "run the workers in `DIR`", field{(*draft).setDirectory, func(d *draft) string { return d.config.Directory }}},
		{"workers", "workers", "how many: `N`, cpus, cpus-1, cpus*2+1 or 50%", field{(*draft).setWorkers, (*draft).showWorkers}},
		{"workers_max", "", "", whole(supervisor.MaxWorkers, func(d *draft) *int { return &d.config.WorkersMax })},
		{"user", "user", "run the workers as `USER`", identity(func(d *draft) *string { return &d.user })},
		{"group", "group", "run the workers as `GROUP`", identity(func(d *draft) *string { return &d.group })},
		{"umask", "umask", "file mode mask of the workers: `OCTAL`", field{(*draft).setUmask, (*draft).showUmask}},
		{"env_file", "env-file", "read variables of the workers from `FILE`, which may be missing behind a - (repeatable)", field{(*draft).setEnvFile, (*draft).showEnvFile}},
		{"stop_signal", "stop-signal", "what asks a worker to end: `SIGNAL`", field{(*draft).setStopSignal, (*draft).showStopSignal}},
		{"channel", "channel", "message channel: `KIND` is forkd or none", field{(*draft).setChannel, (*draft).showChannel}},
		{"protocols", "protocols", "how sockets are handed over: `LIST` is systemd or none", field{(*draft).setProtocols, (*draft).showProtocols}},
		{"pid_file", "pid-file", "write the master's pid to `FILE`", path("pid_file", func(d *draft) *string { return &d.pidFile })},

		{
			"ready.mode", "ready", "when a worker is ready: `MODE` is auto, notify or delay",
			choice(func(d *draft) *pool.ReadyMode { return &d.config.Ready.Mode }, []pool.ReadyMode{pool.ReadyAuto, pool.ReadyNotify, pool.ReadyDelay}, "accepting"),
		},
		{
			"ready.delay", "ready-delay", "a worker alive for `TIME` is ready, without a notification",
			duration(0, func(d *draft) *time.Duration { return &d.config.Ready.Delay }),
		},
		{
			"ready.timeout", "ready-timeout", "a worker not ready within `TIME` has failed",
			duration(time.Millisecond, func(d *draft) *time.Duration { return &d.config.Ready.Timeout }),
		},

		{
			"restart.condition", "restart", "start again after `WHICH` ends: any, on-failure or none",
			choice(func(d *draft) *pool.Condition { return &d.config.Restart.Condition }, []pool.Condition{pool.RestartAny, pool.RestartOnFailure, pool.RestartNone}),
		},
		{"restart.delay", "", "", duration(time.Millisecond, func(d *draft) *time.Duration { return &d.config.Restart.Delay })},
		{"restart.max_delay", "", "", duration(time.Millisecond, func(d *draft) *time.Duration { return &d.config.Restart.MaxDelay })},
		{
			"restart.max_attempts", "max-attempts", "give a slot up after `N` restarts in a row, 0 for never",
			whole(1_000_000, func(d *draft) *int { return &d.config.Restart.MaxAttempts }),
		},
		{"restart.window", "", "", duration(0, func(d *draft) *time.Duration { return &d.config.Restart.Window })},
		{"restart.clean_resets", "", "", yesNo(func(d *draft) *bool { return &d.config.Restart.CleanResets })},
		{"restart.prevent", "", "", exitCodes(func(d *draft) *[]int { return &d.config.Restart.Prevent })},

		{
			"update.parallelism", "parallelism", "roll `N` slots at a time, 0 for all",
			whole(supervisor.MaxWorkers, func(d *draft) *int { return &d.config.Update.Parallelism }),
		},
		{
			"update.delay", "update-delay", "wait `TIME` between the steps of a roll",
			duration(0, func(d *draft) *time.Duration { return &d.config.Update.Delay }),
		},
		{
			"update.order", "order", "of old and new in a roll: `ORDER` is start-first or stop-first",
			choice(func(d *draft) *pool.Order { return &d.config.Update.Order }, []pool.Order{pool.StartFirst, pool.StopFirst}),
		},
		{
			"update.monitor", "monitor", "a roll is done when all have been ready for `TIME`",
			duration(0, func(d *draft) *time.Duration { return &d.config.Update.Monitor }),
		},
		{
			"update.failure_action", "failure-action", "after a failed roll: `ACTION` is rollback or pause",
			choice(func(d *draft) *pool.FailureAction { return &d.config.Update.FailureAction }, []pool.FailureAction{pool.Rollback, pool.Pause}),
		},

		{
			"drain.timeout", "drain-timeout", "kill a worker that has not finished after `TIME`",
			duration(0, func(d *draft) *time.Duration { return &d.config.Drain.Timeout }),
		},
		{
			"drain.idle", "drain-idle", "close idle connections `TIME` after a stop began",
			duration(0, func(d *draft) *time.Duration { return &d.config.Drain.Idle }),
		},
		{
			"drain.delay", "drain-delay", "at a stop, tell balancers for `TIME` before the workers drain",
			duration(0, func(d *draft) *time.Duration { return &d.config.Drain.Delay }),
		},
		{"drain.shed_per_second", "", "", whole(1_000_000, func(d *draft) *int { return &d.config.Drain.ShedPerSecond })},

		{
			"log.mode", "log", "the workers' output: `MODE` is capture or inherit",
			choice(func(d *draft) *string { return &d.config.Log.Mode }, []string{"capture", "inherit"}),
		},

		{
			"redis.url", "redis", "report to Redis at `URL`: redis://10.0.0.5:6379, or embedded, to try things out",
			field{word(func(d *draft) *string { return &d.config.Redis.URL }).set, func(d *draft) string { return redisconfig.MaskURL(d.config.Redis.URL) }},
		},
		{"redis.username", "", "", word(func(d *draft) *string { return &d.config.Redis.Username })},
		{"redis.password_file", "redis-password-file", "a `FILE` with the password of Redis, instead of in the URL", path("redis.password_file", func(d *draft) *string { return &d.redisPassword })},
		{"redis.ca_file", "", "", path("redis.ca_file", func(d *draft) *string { return &d.redisCA })},
		{
			"redis.interval", "", "",
			duration(redisconfig.MinInterval, func(d *draft) *time.Duration { return &d.config.Redis.Interval }),
		},
		{"redis.ttl", "", "", field{duration(0, func(d *draft) *time.Duration { return &d.config.Redis.TTL }).set, (*draft).showRedisTTL}},
		{"redis.host_id", "", "", word(func(d *draft) *string { return &d.config.Redis.HostID })},
		{"redis.advertise", "", "", field{(*draft).setAdvertise, (*draft).showAdvertise}},
		{
			"redis.read_from", "", "",
			choice(func(d *draft) *string { return &d.config.Redis.ReadFrom }, []string{redisconfig.FromPrimary, redisconfig.FromReplica}),
		},
		{"redis.control", "", "", yesNo(func(d *draft) *bool { return &d.config.Redis.Control })},
		{"redis.connection_limit_per_host", "", "", count(func(d *draft) *int64 { return &d.config.Redis.ConnectionLimit })},
		{"redis.max_connections_per_host", "", "", count(func(d *draft) *int64 { return &d.config.Redis.MaxConnections })},

		{
			"metrics.address", "metrics", "answer GET /healthz on `ADDRESS`: 127.0.0.1:9640",
			field{
				set:  (*draft).setMetrics,
				show: func(d *draft) string { return d.config.Metrics },
			},
		},
		{"control.group", "", "", identity(func(d *draft) *string { return &d.controlGroup })},
	}
}

// listenKey is a key of one [[listen]].
type listenKey struct {
	name string
	set  func(*listener, value) error
	show func(*listener) string
}

func listenKeys() []listenKey {
	return []listenKey{
		{"name", (*listener).setName, func(l *listener) string { return l.Name }},
		{"address", (*listener).setAddress, func(l *listener) string { return l.Address() }},
		{"mode", (*listener).setMode, func(l *listener) string { return l.Mode }},
		{"balance", (*listener).setBalance, func(l *listener) string { return l.Balance }},
		{"backlog", (*listener).setBacklog, func(l *listener) string { return strconv.Itoa(l.Backlog) }},
		{"nonblocking", (*listener).setNonblocking, func(l *listener) string { return strconv.FormatBool(l.Nonblocking) }},
		{"freebind", (*listener).setFreebind, func(l *listener) string { return strconv.FormatBool(l.Freebind) }},
	}
}

// addressKey is the key that --listen stands for.
func addressKey() listenKey {
	all := listenKeys()
	return all[slices.IndexFunc(all, func(k listenKey) bool { return k.name == "address" })]
}

// later are the keys that the contract promises and that are not built yet.
func later() []string {
	return []string{
		"preset",
		"recycle.max_age", "recycle.max_requests", "recycle.max_rss", "recycle.jitter",
		"health.watchdog",
		"limits.memory_max", "limits.tasks_max", "limits.nofile", "limits.cpu_affinity",
		"count.mark_mask",
		"log.directory", "log.max_size", "log.max_files",
		"agent.address",
	}
}
