package supervisor

import (
	"io/fs"
	"syscall"
	"time"
)

// Config is one app, ready to run: every default filled in, every name looked
// up, every unit resolved. internal/config makes it from a file and flags; a
// program that embeds forkd may fill it in by hand, starting from Defaults.
// The keys are those of docs/contract.md, section 7, under the same names.
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
	Channel    bool           // give each worker the message channel and the page of counters
	Systemd    bool           // give each worker LISTEN_FDS and its companions (protocols = ["systemd"])
	PIDFile    string         // "": none
	Listeners  []Listener

	Ready   Ready
	Restart Restart
	Update  Update
	Drain   Drain
	Log     Log
	Redis   Redis

	Metrics      string // HOST:PORT that answers GET /healthz; "": none
	ControlGroup int    // gid that may use the control socket beside the user and root; -1: none

	File     string    // the file that this was read from, "" where there is none
	CPUs     int       // what "cpus" means on this machine
	Settings []Setting // every key with its value and where that came from, for describe
	Warnings []string  // what can be run, and is probably not meant, with its mend; said when it has been read

	// EmbeddedRedis is how this program is run, its name first, to serve a small
	// Redis on descriptor 3 (Redis.URL "embedded"). nil: it can't.
	EmbeddedRedis []string `json:"-"`

	// Reload reads the configuration again, from where this one came. It may
	// block. nil: it can't be read again.
	Reload func() (Config, error) `json:"-"`
}

// Setting is one key of the configuration as a person would want to see it.
// Values of the environment are not among them.
type Setting struct {
	Key    string // "drain.timeout", "listen.http.address"
	Value  string
	Source string // "default", "/etc/forkd/shop.toml:12", "--workers"
}

// MaxWorkers bounds Config.Workers: beyond it, a typing mistake is likelier
// than a machine.
const MaxWorkers = 1024

// User is whom the workers run as.
type User struct {
	Name   string
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Home   string
}

// Listener is one [[listen]] of the file.
type Listener struct {
	Name        string      // unique in the app
	Network     string      // "tcp" (dual-stack), "tcp4", "tcp6", "unix"
	Host        string      // "": every address
	Port        int         // 0: one that the kernel picks, the same for all slots; of mode each, slot 0's
	Path        string      // of unix: absolute
	Perm        fs.FileMode // of unix: the socket file's, 0 for what the umask leaves
	Mode        string      // "reuseport": a socket for each slot; "shared": one for all; "each": a port for each slot
	Balance     string      // "hash", "source"; of mode reuseport
	Backlog     int         // of each socket
	Nonblocking bool        // O_NONBLOCK at the start
	Freebind    bool        // of tcp: the host may get the address later
}

// Ready says when a worker counts as ready.
type Ready struct {
	Mode    string // "auto", "notify", "delay"
	Delay   time.Duration
	Timeout time.Duration
}

// Restart says what follows when a worker ends by itself.
type Restart struct {
	Condition   string // "any", "on-failure", "none"
	Delay       time.Duration
	MaxDelay    time.Duration
	MaxAttempts int // 0: never give up
	Window      time.Duration
	CleanResets bool  // an end with status 0 is no failure in a row
	Prevent     []int // exit codes after which a slot is not started again
}

// Update says how a roll goes.
type Update struct {
	Parallelism   int // 0: all slots at once
	Delay         time.Duration
	Order         string // "start-first", "stop-first"
	Monitor       time.Duration
	FailureAction string // "rollback", "pause"
}

// Drain bounds how long a worker may take to finish.
type Drain struct {
	Timeout       time.Duration
	Idle          time.Duration
	Delay         time.Duration // at a stop: how long the host is said to drain before the workers do
	ShedPerSecond int           // long-lived connections that a draining worker is asked to close each second; 0: none
}

// Log says where the workers' output goes.
type Log struct {
	Mode string // "capture", "inherit"
}

// Defaults is the Config of an empty file, but for Name, Command, Directory and
// Workers, which have no default without a place and a machine.
func Defaults() Config {
	return Config{
		Umask:        -1,
		ControlGroup: -1,
		StopSignal:   syscall.SIGTERM,
		Channel:      true,
		Systemd:      true,
		Ready:        Ready{Mode: "auto", Delay: time.Second, Timeout: 30 * time.Second},
		Restart: Restart{
			Condition:   "any",
			Delay:       100 * time.Millisecond,
			MaxDelay:    30 * time.Second,
			Window:      5 * time.Second,
			CleanResets: true,
		},
		Update: Update{
			Parallelism:   1,
			Order:         "start-first",
			Monitor:       5 * time.Second,
			FailureAction: "rollback",
		},
		Drain: Drain{Timeout: 30 * time.Second, Idle: time.Second},
		Log:   Log{Mode: "capture"},
		Redis: Redis{Interval: 2 * time.Second, ReadFrom: "primary"},
	}
}

// DefaultBacklog is what [[listen]] starts from; the kernel cuts it to
// net.core.somaxconn (listen(2)).
const DefaultBacklog = 4096
