package process

import (
	"os"
	"syscall"
)

// Spec is the program of a worker and what it is given. The worker inherits from the
// master what is not named here (limits, nice value, working directory if Dir is empty).
type Spec struct {
	Path string   // the program, from Resolve
	File *os.File `json:"-"` // run this open ELF file instead of the one at Path; nil: run Path
	Args []string // the program's name first; at least that
	Env  []string // all of it, "KEY=value"; PIDIn adds more

	Dir   string      // entered before the user changes
	Slot  int         // for the records
	Files []int       // become descriptors 0, 1, 2, ...; must stay open until Start returns
	User  *Credential // nil: the master's
	Umask int         // -1: the master's

	Group  string // cgroup.procs of the control group that it enters; "": the master's
	NoFile int    // RLIMIT_NOFILE (getrlimit(2)), soft and hard; 0: the master's. CheckNoFile says whether it can be had
	Pin    bool   // run on one of the master's CPUs, by Slot
	Light  bool   // start at a low weight, until Process.Weigh

	ParentDeath syscall.Signal // sent to the leader when Serve's thread ends, so when the master dies; 0: none
	PIDIn       []string       // names of variables to set to the worker's own pid: LISTEN_PID (sd_listen_fds(3))
	Capture     bool           // see Process.Capture
}

// Credential is the user of a worker. No group of the master's stays.
type Credential struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
}
