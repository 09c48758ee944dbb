package supervisor

import (
	"math/bits"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/internal/pool"
	"github.com/forkd/forkd/internal/redisconfig"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/ipc"
)

// Config is one app, ready to run: defaults are filled in, names looked up, units
// resolved. internal/config makes it from a file and flags; a program that embeds forkd
// starts from Defaults. The fields are the keys of docs/contract.md, Configuration.
type Config struct {
	Name       string            // [A-Za-z0-9][A-Za-z0-9._-]{0,47}
	Command    []string          // program and arguments, placeholders unreplaced
	Directory  string            // absolute; its symlinks are resolved once per generation
	Workers    int               // slots, 1..MaxWorkers
	WorkersMax int               // how many slots a scale may ask for; 0: MaxWorkers
	User       *User             // nil: the master's own
	Umask      int               // -1: the master's own
	Env        map[string]string // over the master's environment; placeholders unreplaced

	StopSignal syscall.Signal // asks a worker to drain
	Channel    string         // which message channel each worker gets, and the page of counters with it: ipc.ChannelForkd, ChannelNode or ChannelNone
	Protocols  []string       // how sockets are handed over beside {fd}
	PIDFile    string         // "": none
	Listeners  []Listener

	Ready   Ready
	Restart Restart
	Update  Update
	Drain   Drain
	Health  Health
	Recycle Recycle
	Limits  Limits
	Log     Log
	Redis   Redis

	Sockets  string // where a worker's sockets come from: SocketsAuto, SocketsPass, SocketsCapture
	Preset   Preset // what is known of the program
	MarkMask uint32 // adjoining bits of the socket mark that forkd may use to count connections, for MarkedSlots at most; 0: none

	Metrics      string // HOST:PORT that answers GET /healthz and /metrics; "": none
	AgentCheck   string // HOST:PORT that answers HAProxy's agent-check; "": none
	ControlGroup int    // gid that may use the control socket beside the user and root; -1: none

	File     string    // the file that this was read from, "" where there is none
	CPUs     int       // what "cpus" means on this machine
	Settings []Setting // every key with its value and where that came from, for describe
	Warnings []string  // about settings that work but are probably not meant; logged when the Config is used

	// FleetAgent is how /proc/self/exe is run, its name first, to be the fleet agent
	// (see internal/redisconfig). nil: it can't, and Redis.URL must be "".
	FleetAgent []string `json:"-"`

	// Reload reads the configuration again, from the same source. It may block. nil: it
	// can't be read again.
	Reload func() (Config, error) `json:"-"`
}

// The values of Config.Protocols.
const (
	ProtocolSystemd       = "systemd"        // LISTEN_FDS and its companions (sd_listen_fds(3))
	ProtocolServerStarter = "server-starter" // SERVER_STARTER_PORT (start_server(1) of Perl's Server::Starter)
)

func (c Config) core() pool.Settings {
	return pool.Settings{Ready: c.Ready, Restart: c.Restart, Update: c.Update, Drain: c.Drain, Health: c.Health}
}

// MarkedSlots is how many slots the bits of a mark tell apart: 0 marks none.
func MarkedSlots(mask uint32) int { return 1<<bits.OnesCount32(mask) - 1 }

// MaxWorkers bounds Config.Workers.
const MaxWorkers = control.MaxWorkers

// User is the user of the workers.
type User struct {
	Name   string
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Home   string
}

type (
	// Listener is a listening address, its mode and options.
	Listener = sockets.Listener
	// Ready is when a worker counts as ready.
	Ready = pool.Ready
	// Restart is what follows when a worker ends by itself.
	Restart = pool.Restart
	// Update is how a roll proceeds.
	Update = pool.Update
	// Drain is how long workers have to finish what they have.
	Drain = pool.Drain
	// Health is when a worker that runs is ill.
	Health = pool.Health
	// Redis is how the app is reported.
	Redis = redisconfig.Settings
	// Setting is one key of the configuration, for describe. Variables of env are left out.
	Setting = control.Setting
)

// The values of Config.Sockets (docs/contract.md, Data path).
const (
	SocketsAuto    = "auto"    // both of the others, where the second is possible
	SocketsPass    = "pass"    // as inherited descriptors
	SocketsCapture = "capture" // in answer to the worker's own bind(2) and listen(2)
)

// Preset is what is known of a program by its name, where the configuration does not say
// otherwise.
type Preset struct {
	Name     string // "gunicorn", "node"; "" : none
	Notifies bool   // it sends READY=1 when it can serve
	Drains   string // how forkd makes it drain: DrainsNode, DrainsPython; "": it does so itself, or not at all
}

// The values of Preset.Drains: what loads the file that makes the program drain.
const (
	DrainsNode   = "node"   // nodedrain.cjs
	DrainsPython = "python" // pydrain.py
)

// Recycle says when a worker is replaced before it ails. 0: not for this.
type Recycle struct {
	MaxAge      time.Duration
	MaxRequests int64
	MaxRSS      int64   // bytes
	Jitter      float64 // of each, 0..1
}

// Limits bound one worker. 0: no limit of forkd's.
type Limits struct {
	MemoryMax   int64 // bytes; needs a cgroup v2 that the master may divide up
	TasksMax    int   // processes and threads; the same
	NoFile      int   // RLIMIT_NOFILE
	CPUAffinity bool  // one CPU for each slot
}

// Log is what becomes of the workers' output.
type Log struct {
	Mode      string // "capture", "inherit"
	Directory string // of files; "": none
	MaxSize   int64  // of a file, in bytes
	MaxFiles  int    // the newest among them
}

// Bounds of Log.
const (
	MaxLogFiles = output.MaxFiles
	MinLogSize  = output.MinSize
)

// Captured reports whether forkd reads the output of workers.
func (l Log) Captured() bool { return l.Mode != "inherit" }

// Defaults returns the Config of an empty file, without Name, Command, Directory and
// Workers: their defaults depend on the file and the machine.
func Defaults() Config {
	core := pool.Defaults()
	return Config{
		Umask:        -1,
		ControlGroup: -1,
		StopSignal:   syscall.SIGTERM,
		Channel:      ipc.ChannelForkd,
		Protocols:    []string{ProtocolSystemd},
		Ready:        core.Ready,
		Restart:      core.Restart,
		Update:       core.Update,
		Drain:        core.Drain,
		Health:       core.Health,
		Recycle:      Recycle{Jitter: 0.1},
		Sockets:      SocketsAuto,
		Log:          Log{Mode: "capture", MaxSize: 10 << 20, MaxFiles: 5},
		Redis:        Redis{Interval: redisconfig.DefaultInterval, ReadFrom: redisconfig.FromPrimary},
	}
}
