package config

import (
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/redisconfig"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/supervisor"
)

// key is one setting: its name in the file, its flag if a one-liner needs it,
// and what it sets.
type key struct {
	name  string // dotted
	flag  string // "" for none
	usage string // of the flag, the argument in backquotes
	field[*draft]
}

// keys are all settings but those of [[listen]], and but env's members.
func keys() []key {
	return []key{
		{"name", "name", "what the app is called: `NAME`", of(func(d *draft) *string { return &d.config.Name }, value.string, itself)},
		{"command", "", "", field[*draft]{(*draft).setCommand, (*draft).showCommand}},
		{"directory", "directory", "run the workers in `DIR`", path(func(d *draft) *string { return &d.config.Directory })},
		{"workers", "workers", "how many: `N`, cpus, cpus-1, cpus*2+1 or 50%", field[*draft]{(*draft).setWorkers, (*draft).showWorkers}},
		{"workers_max", "", "", whole(0, supervisor.MaxWorkers, func(d *draft) *int { return &d.config.WorkersMax })},
		{"user", "user", "run the workers as `USER`", identity(func(d *draft) *string { return &d.user })},
		{"group", "group", "run the workers as `GROUP`", identity(func(d *draft) *string { return &d.group })},
		{"umask", "umask", "file mode mask of the workers: `OCTAL`", umask(func(d *draft) *int { return &d.config.Umask })},
		{"env_file", "env-file", "read variables of the workers from `FILE`, which may be missing behind a - (repeatable)", field[*draft]{(*draft).setEnvFile, (*draft).showEnvFile}},
		{"stop_signal", "stop-signal", "what asks a worker to end: `SIGNAL`", signal(func(d *draft) *syscall.Signal { return &d.config.StopSignal })},
		{"channel", "channel", "message channel: `KIND` is forkd or none", channel(func(d *draft) *bool { return &d.config.Channel })},
		{"protocols", "protocols", "how sockets are handed over: `LIST` is systemd or none", protocols(func(d *draft) *[]string { return &d.config.Protocols })},
		{"pid_file", "pid-file", "write the master's pid to `FILE`", path(func(d *draft) *string { return &d.config.PIDFile })},

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
			whole(0, 1_000_000, func(d *draft) *int { return &d.config.Restart.MaxAttempts }),
		},
		{"restart.window", "", "", duration(0, func(d *draft) *time.Duration { return &d.config.Restart.Window })},
		{"restart.clean_resets", "", "", yesNo(func(d *draft) *bool { return &d.config.Restart.CleanResets })},
		{"restart.prevent", "", "", several(func(d *draft) *[]int { return &d.config.Restart.Prevent }, value.exitCodes)},

		{
			"update.parallelism", "parallelism", "roll `N` slots at a time, 0 for all",
			whole(0, supervisor.MaxWorkers, func(d *draft) *int { return &d.config.Update.Parallelism }),
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
		{"drain.shed_per_second", "", "", whole(0, 1_000_000, func(d *draft) *int { return &d.config.Drain.ShedPerSecond })},

		{
			"log.mode", "log", "the workers' output: `MODE` is capture or inherit",
			choice(func(d *draft) *string { return &d.config.Log.Mode }, []string{"capture", "inherit"}),
		},

		{
			"redis.url", "redis", "report to Redis at `URL`: redis://10.0.0.5:6379, or embedded, to try things out",
			of(func(d *draft) *string { return &d.config.Redis.URL }, value.line, redisconfig.MaskURL),
		},
		{"redis.username", "", "", word(func(d *draft) *string { return &d.config.Redis.Username })},
		{"redis.password_file", "redis-password-file", "a `FILE` with the password of Redis, instead of in the URL", path(func(d *draft) *string { return &d.config.Redis.PasswordFile })},
		{"redis.ca_file", "", "", path(func(d *draft) *string { return &d.config.Redis.CAFile })},
		{
			"redis.interval", "", "",
			duration(redisconfig.MinInterval, func(d *draft) *time.Duration { return &d.config.Redis.Interval }),
		},
		{"redis.ttl", "", "", duration(0, func(d *draft) *time.Duration { return &d.config.Redis.TTL }).shown((*draft).showRedisTTL)},
		{"redis.host_id", "", "", word(func(d *draft) *string { return &d.config.Redis.HostID })},
		{"redis.advertise", "", "", several(func(d *draft) *[]string { return &d.config.Redis.Advertise }, value.strings)},
		{
			"redis.read_from", "", "",
			choice(func(d *draft) *string { return &d.config.Redis.ReadFrom }, []string{redisconfig.FromPrimary, redisconfig.FromReplica}),
		},
		{"redis.control", "", "", yesNo(func(d *draft) *bool { return &d.config.Redis.Control })},
		{"redis.connection_limit_per_host", "", "", count(func(d *draft) *int64 { return &d.config.Redis.ConnectionLimit })},
		{"redis.max_connections_per_host", "", "", count(func(d *draft) *int64 { return &d.config.Redis.MaxConnections })},

		{
			"metrics.address", "metrics", "answer GET /healthz on `ADDRESS`: 127.0.0.1:9640",
			of(func(d *draft) *string { return &d.config.Metrics }, value.metrics, itself),
		},
		{"control.group", "", "", identity(func(d *draft) *string { return &d.controlGroup })},
	}
}

// balanceFlag sets the balance of all listeners. It has no key.
func balanceFlag() key {
	return key{"balance", "balance", "how connections find a worker: `HOW` is hash or source", of(func(d *draft) *string { return &d.balance }, value.balance, itself)}
}

// listenKey is a key of one [[listen]].
type listenKey struct {
	name string
	field[*listener]
}

func listenKeys() []listenKey {
	return []listenKey{
		{"name", of(func(l *listener) *string { return &l.Name }, value.name, itself)},
		{"address", field[*listener]{(*listener).setAddress, func(l *listener) string { return l.Address() }}},
		{"mode", choice(func(l *listener) *string { return &l.Mode }, []string{sockets.ModeReuseport, sockets.ModeShared, sockets.ModeEach})},
		{"balance", of(func(l *listener) *string { return &l.Balance }, value.balance, itself)},
		{"backlog", whole(1, 1<<31-1, func(l *listener) *int { return &l.Backlog })},
		{"nonblocking", yesNo(func(l *listener) *bool { return &l.Nonblocking })},
		{"freebind", yesNo(func(l *listener) *bool { return &l.Freebind })},
	}
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
