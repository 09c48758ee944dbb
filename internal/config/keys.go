package config

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/redisconfig"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/supervisor"
)

// key is one setting: its name in the file, its flag, and its field.
type key struct {
	name  string // dotted
	flag  string // "" for none
	usage string // of the flag, the argument in backquotes
	field
}

// keys returns all settings of d except those of [[listen]] and of env.
func keys(d *draft) []key {
	c := &d.config
	return []key{
		{"name", "name", "what the app is called: `NAME`", newField(&c.Name, value.name)},
		{"command", "", "", field{d.setCommand, func() string { return CommandLine(d.config.Command) }}},
		{"directory", "directory", "run the workers in `DIR`", d.path(&c.Directory)},
		{"workers", "workers", "how many: `N`, cpus, cpus-1, cpus*2+1 or 50%", newField(&c.Workers, d.readWorkers).shown(d.showWorkers)},
		{"workers_max", "", "", whole(0, supervisor.MaxWorkers, &c.WorkersMax)},
		{"user", "user", "run the workers as `USER`", newField(&d.user, value.textOrNumber)},
		{"group", "group", "run the workers as `GROUP`", newField(&d.group, value.textOrNumber)},
		{"umask", "umask", "file mode mask of the workers: `OCTAL`", umask(&c.Umask)},
		{"env_file", "env-file", "read variables of the workers from `FILE`, which may be missing behind a - (repeatable)", field{d.setEnvFile, d.showEnvFile}},
		{"preset", "preset", "what is known of the program: `WHICH` is auto, none or a name of forkd help presets", newField(&d.preset, d.readPreset).shown(d.showPreset)},
		{"stop_signal", "stop-signal", "what asks a worker to end: `SIGNAL`", signal(&c.StopSignal)},
		{"channel", "channel", "message channel: `KIND` is forkd, node or none", choice(&c.Channel, "", ipc.ChannelForkd, ipc.ChannelNode, ipc.ChannelNone)},
		{"protocols", "protocols", "how sockets are handed over: `HOW` is systemd, server-starter or none", protocols(&c.Protocols, supervisor.ProtocolSystemd, supervisor.ProtocolServerStarter)},
		{"sockets", "sockets", "where a worker's sockets come from: `HOW` is auto, pass or capture", choice(&c.Sockets, "", supervisor.SocketsAuto, supervisor.SocketsPass, supervisor.SocketsCapture)},
		{"pid_file", "pid-file", "write the master's pid to `FILE`", d.path(&c.PIDFile)},

		{"ready.mode", "ready", "when a worker is ready: `MODE` is auto, listening, accepting, notify or delay", choice(&c.Ready.Mode, "", pool.ReadyAuto, pool.ReadyListening, pool.ReadyAccepting, pool.ReadyNotify, pool.ReadyDelay)},
		{"ready.delay", "ready-delay", "a worker alive for `TIME` is ready, without a notification", duration(0, &c.Ready.Delay)},
		{"ready.timeout", "ready-timeout", "a worker not ready within `TIME` has failed", duration(time.Millisecond, &c.Ready.Timeout)},

		{"restart.condition", "restart", "start again after `WHICH` ends: any, on-failure or none", choice(&c.Restart.Condition, "", pool.RestartAny, pool.RestartOnFailure, pool.RestartNone)},
		{"restart.delay", "", "", duration(time.Millisecond, &c.Restart.Delay)},
		{"restart.max_delay", "", "", duration(time.Millisecond, &c.Restart.MaxDelay)},
		{"restart.max_attempts", "max-attempts", "give a slot up after `N` restarts in a row, 0 for never", whole(0, 1_000_000, &c.Restart.MaxAttempts)},
		{"restart.window", "", "", duration(0, &c.Restart.Window)},
		{"restart.clean_resets", "", "", newField(&c.Restart.CleanResets, value.boolean)},
		{"restart.prevent", "", "", exitCodes(&c.Restart.Prevent)},

		{"update.parallelism", "parallelism", "roll `N` slots at a time, 0 for all", whole(0, supervisor.MaxWorkers, &c.Update.Parallelism)},
		{"update.delay", "update-delay", "wait `TIME` between the steps of a roll", duration(0, &c.Update.Delay)},
		{"update.order", "order", "of old and new in a roll: `ORDER` is start-first or stop-first", choice(&c.Update.Order, "", pool.StartFirst, pool.StopFirst)},
		{"update.monitor", "monitor", "a roll is done when all have been ready for `TIME`", duration(0, &c.Update.Monitor)},
		{"update.failure_action", "failure-action", "after a failed roll: `ACTION` is rollback or pause", choice(&c.Update.FailureAction, "", pool.Rollback, pool.Pause)},
		{"update.fallback", "no-fallback", "when no worker becomes ready at the start, do not run the release that served last", newField(&c.Update.Fallback, value.boolean)},

		{"drain.timeout", "drain-timeout", "kill a worker that has not finished after `TIME`", duration(0, &c.Drain.Timeout)},
		{"drain.idle", "drain-idle", "close idle connections `TIME` after a stop began", duration(0, &c.Drain.Idle)},
		{"drain.delay", "drain-delay", "at a stop, tell balancers for `TIME` before the workers drain", duration(0, &c.Drain.Delay)},
		{"drain.shed_per_second", "", "", whole(0, 1_000_000, &c.Drain.ShedPerSecond)},
		{"drain.handoff", "", "", newField(&c.Drain.Handoff, value.boolean)},

		{"recycle.max_age", "", "", duration(0, &c.Recycle.MaxAge)},
		{"recycle.max_requests", "", "", whole(0, 1_000_000_000_000, &c.Recycle.MaxRequests)},
		{"recycle.max_rss", "", "", size(&c.Recycle.MaxRSS)},
		{"recycle.jitter", "", "", percent(&c.Recycle.Jitter)},

		{"health.stall", "stall", "replace a worker that accepts none of its waiting connections for `TIME`, 0 for never", duration(0, &c.Health.Stall)},
		{"health.abort", "", "", newField(&c.Health.Abort, value.boolean)},
		{"health.watchdog", "", "", duration(0, &c.Health.Watchdog)},

		{"limits.memory_max", "", "", size(&c.Limits.MemoryMax)},
		{"limits.tasks_max", "", "", whole(0, 4<<20, &c.Limits.TasksMax)},
		{"limits.nofile", "nofile", "let a worker have `N` open files, 0 for as many as the master", whole(0, 1<<30, &c.Limits.NoFile)},
		{"limits.cpu_affinity", "", "", newField(&c.Limits.CPUAffinity, value.boolean)},

		{"count.mark_mask", "", "", mask(&c.MarkMask)},

		{"log.mode", "log", "the workers' output: `MODE` is capture or inherit", choice(&c.Log.Mode, "", "capture", "inherit")},
		{"log.directory", "log-directory", "keep the log in files in `DIR` too", d.path(&c.Log.Directory)},
		{"log.max_size", "", "", size(&c.Log.MaxSize)},
		{"log.max_files", "", "", whole(1, supervisor.MaxLogFiles, &c.Log.MaxFiles)},

		{"redis.url", "redis", "report to Redis at `URL`: redis://10.0.0.5:6379, or embedded, to try things out", newField(&c.Redis.URL, value.line).shown(func() string { return redisconfig.MaskURL(c.Redis.URL) })},
		{"redis.username", "", "", newField(&c.Redis.Username, value.line)},
		{"redis.password_file", "redis-password-file", "a `FILE` with the password of Redis, instead of in the URL", d.path(&c.Redis.PasswordFile)},
		{"redis.ca_file", "", "", d.path(&c.Redis.CAFile)},
		{"redis.interval", "", "", duration(redisconfig.MinInterval, &c.Redis.Interval)},
		{"redis.ttl", "", "", duration(0, &c.Redis.TTL).shown(func() string { return brief(c.Redis.Expiry()) })},
		{"redis.host_id", "", "", newField(&c.Redis.HostID, value.line)},
		{"redis.advertise", "", "", newField(&c.Redis.Advertise, value.strings)},
		{"redis.read_from", "", "", choice(&c.Redis.ReadFrom, "", redisconfig.FromPrimary, redisconfig.FromReplica)},
		{"redis.control", "", "", newField(&c.Redis.Control, value.boolean)},
		{"redis.connection_limit_per_host", "", "", whole(0, math.MaxInt32, &c.Redis.ConnectionLimit)},
		{"redis.max_connections_per_host", "", "", whole(0, math.MaxInt32, &c.Redis.MaxConnections)},

		{"metrics.address", "metrics", "answer GET /healthz and /metrics on `ADDRESS`: 127.0.0.1:9640", newField(&c.Metrics, value.tcp)},
		{"agent.address", "agent", "answer HAProxy's agent-check on `ADDRESS`: :9641", newField(&c.AgentCheck, value.tcp)},
		{"control.group", "", "", newField(&c.ControlGroup, d.readControlGroup).shown(func() string { return d.controlGroup })},
	}
}

// flagKeys returns the keys with a flag, and --balance, the default of all listeners.
func flagKeys(d *draft) []key {
	all := slices.DeleteFunc(keys(d), func(k key) bool { return k.flag == "" })
	return append(all, key{"balance", "balance", "how connections find a worker: `HOW` is hash or source", choice(&d.balance, "least", sockets.BalanceHash, sockets.BalanceSource)})
}

func listenKeys(l *listener) []key {
	return []key{
		{name: "name", field: newField(&l.Name, value.name)},
		{name: "address", field: field{l.setAddress, l.Address}},
		{name: "mode", field: choice(&l.Mode, "", sockets.Modes()...)},
		{name: "balance", field: choice(&l.Balance, "least", sockets.BalanceHash, sockets.BalanceSource)},
		{name: "backlog", field: whole(1, 1<<31-1, &l.Backlog)},
		{name: "nonblocking", field: newField(&l.Nonblocking, value.boolean)},
		{name: "freebind", field: newField(&l.Freebind, value.boolean)},
	}
}

// negated reports whether a key's flag turns it off.
func negated(k key) bool { return strings.HasPrefix(k.flag, "no-") }

// Flags holds the settings of the command line by key, without flags that were not
// given. The zero value can be registered, or loaded without flags.
type Flags struct {
	file  string             // -c
	given map[string][]value // by key, in the order given
}

// Register declares the flags on fs. Load checks their values.
func (f *Flags) Register(fs *pflag.FlagSet) {
	fs.StringVarP(&f.file, "config", "c", "", "read the settings from `FILE`; - is standard input")
	f.given = map[string][]value{}
	declare := func(key, flag, usage string) {
		fs.Func(flag, usage, func(word string) error {
			f.given[key] = append(f.given[key], value{kind: typed, text: word, at: origin{label: "--" + flag}})
			return nil
		})
	}
	for _, k := range flagKeys(new(draft)) {
		if !negated(k) {
			declare(k.name, k.flag, k.usage)
			continue
		}
		fs.BoolFunc(k.flag, k.usage, func(word string) error {
			f.given[k.name] = []value{{kind: typed, text: strconv.FormatBool(word == "false"), at: origin{label: "--" + k.flag}}}
			return nil
		})
	}
	declare("listen", "listen", "take connections on `ADDRESS`: 8080, tcp6://[::1]:8080, unix:///run/shop.sock (repeatable)")
	declare("env", "env", "set `NAME=VALUE` for the workers (repeatable)")
}
