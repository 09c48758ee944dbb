package config

import (
	"time"

	"github.com/forkd/forkd/supervisor"
)

// key is one setting: its name in the file, its flag if a one-liner needs it,
// and how it is set.
type key struct {
	name  string // dotted
	flag  string // "" for none
	usage string // of the flag, the argument in backquotes
	set   func(*draft, value) error
}

// keys are all settings but those of [[listen]], and but env's members.
func keys() []key {
	return []key{
		{"name", "name", "what the app is called: `NAME`", word(func(d *draft) *string { return &d.name })},
		{"command", "", "", (*draft).setCommand},
		{"directory", "directory", "run the workers in `DIR`", word(func(d *draft) *string { return &d.directory })},
		{"workers", "workers", "how many: `N`, cpus, cpus-1 or 50%", (*draft).setWorkers},
		{"user", "user", "run the workers as `USER`", identity(func(d *draft) *string { return &d.user })},
		{"group", "group", "run the workers as `GROUP`", identity(func(d *draft) *string { return &d.group })},
		{"umask", "umask", "file mode mask of the workers: `OCTAL`", (*draft).setUmask},
		{"env_file", "env-file", "read variables of the workers from `FILE`", word(func(d *draft) *string { return &d.envFile })},
		{"stop_signal", "stop-signal", "what asks a worker to end: `SIGNAL`", (*draft).setStopSignal},
		{"channel", "channel", "message channel: `KIND` is forkd or none", (*draft).setChannel},
		{"protocols", "protocols", "how sockets are handed over: `LIST` is systemd or none", (*draft).setProtocols},
		{"pid_file", "pid-file", "write the master's pid to `FILE`", word(func(d *draft) *string { return &d.pidFile })},

		{
			"ready.mode", "ready", "when a worker is ready: `MODE` is auto, notify or delay",
			choice(func(d *draft) *string { return &d.config.Ready.Mode }, []string{"auto", "notify", "delay"}, "accepting"),
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
			choice(func(d *draft) *string { return &d.config.Restart.Condition }, []string{"any", "on-failure", "none"}),
		},
		{"restart.delay", "", "", duration(time.Millisecond, func(d *draft) *time.Duration { return &d.config.Restart.Delay })},
		{"restart.max_delay", "", "", duration(time.Millisecond, func(d *draft) *time.Duration { return &d.config.Restart.MaxDelay })},
		{
			"restart.max_attempts", "max-attempts", "give a slot up after `N` restarts in a row, 0 for never",
			whole(0, 1_000_000, func(d *draft) *int { return &d.config.Restart.MaxAttempts }),
		},
		{"restart.window", "", "", duration(0, func(d *draft) *time.Duration { return &d.config.Restart.Window })},

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
			choice(func(d *draft) *string { return &d.config.Update.Order }, []string{"start-first", "stop-first"}),
		},
		{
			"update.monitor", "monitor", "a new worker that ends within `TIME` of ready fails the roll",
			duration(0, func(d *draft) *time.Duration { return &d.config.Update.Monitor }),
		},
		{
			"update.failure_action", "failure-action", "after a failed roll: `ACTION` is rollback or pause",
			choice(func(d *draft) *string { return &d.config.Update.FailureAction }, []string{"rollback", "pause"}),
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
			"log.mode", "log", "the workers' output: `MODE` is capture or inherit",
			choice(func(d *draft) *string { return &d.config.Log.Mode }, []string{"capture", "inherit"}),
		},
	}
}

// listenKey is a key of one [[listen]].
type listenKey struct {
	name string
	set  func(*listener, value) error
}

func listenKeys() []listenKey {
	return []listenKey{
		{"name", (*listener).setName},
		{"address", (*listener).setAddress},
		{"mode", (*listener).setMode},
		{"balance", (*listener).setBalance},
		{"backlog", (*listener).setBacklog},
		{"nonblocking", (*listener).setNonblocking},
	}
}

// later are the keys that the contract promises and that are not built yet.
func later() []string {
	return []string{
		"preset",
		"drain.delay", "drain.shed_per_second",
		"recycle.max_age", "recycle.max_requests", "recycle.max_rss", "recycle.jitter",
		"health.watchdog",
		"limits.memory_max", "limits.tasks_max", "limits.nofile", "limits.cpu_affinity",
		"count.mark_mask",
		"log.directory", "log.max_size", "log.max_files",
		"redis.url", "redis.username", "redis.password_file", "redis.ca_file", "redis.interval", "redis.ttl",
		"redis.host_id", "redis.advertise", "redis.read_from", "redis.control",
		"redis.connection_limit_per_host", "redis.max_connections_per_host",
		"metrics.address",
		"agent.address",
		"control.group",
	}
}

// The makers of setters. A setter checks the value and stores it; what needs
// several settings at once is left to draft.finish.

func word(field func(*draft) *string) func(*draft, value) error {
	return func(d *draft, v value) (err error) {
		*field(d), err = v.string()
		return err
	}
}

// identity is a name or a number of a user or group.
func identity(field func(*draft) *string) func(*draft, value) error {
	return func(d *draft, v value) (err error) {
		if v.kind == integer {
			v.kind = text
		}
		*field(d), err = v.string()
		return err
	}
}

func duration(least time.Duration, field func(*draft) *time.Duration) func(*draft, value) error {
	return func(d *draft, v value) error {
		set, err := v.duration(least)
		if err == nil {
			*field(d) = set
		}
		return err
	}
}

func whole(least, most int, field func(*draft) *int) func(*draft, value) error {
	return func(d *draft, v value) error {
		set, err := v.whole(least, most)
		if err == nil {
			*field(d) = set
		}
		return err
	}
}

func choice(field func(*draft) *string, built []string, later ...string) func(*draft, value) error {
	return func(d *draft, v value) error {
		set, err := v.choice(built, later)
		if err == nil {
			*field(d) = set
		}
		return err
	}
}
