package process

import (
	"encoding/json"
	"io"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
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

	ParentDeath syscall.Signal // sent to the leader when Serve's thread ends, so when the master dies; 0: none
	PIDIn       []string       // names of variables to set to the worker's own pid: LISTEN_PID (sd_listen_fds(3))
	Capture     bool           // see Process.Capture
}

// Credential is the user of a worker. No group of the master's stays.
type Credential struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
}

// plan is a Spec for the shim, of which Files counts: the worker keeps descriptors from 0.
// Its strings are bytes here: arguments need not be UTF-8, JSON strings must.
type plan struct {
	Spec

	Path, Dir []byte
	Args, Env [][]byte
	FromFile  bool // run descriptor planFile
	Parent    int  // the master's pid
	Line      int  // of the records; 0: none
}

// The shim's descriptors after the worker's own, in this order. The exec closes them.
const (
	planStatus = iota // a socket for the listener of its calls and for the failure
	planText          // the plan
	planStderr        // the worker's: until then 2 is the socket, for the runtime's messages
	planRecord        // the records, if there are any
	planFile          // the program, if Spec.File is set
)

// write makes a memfd with the plan.
func (s *Spec) write(line int) (*os.File, error) {
	fd, err := unix.MemfdCreate("forkd-plan", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "plan")
	err = json.NewEncoder(file).Encode(plan{
		Spec: *s, Path: []byte(s.Path), Dir: []byte(s.Dir), Args: convert[[]byte](s.Args), Env: convert[[]byte](s.Env),
		FromFile: s.File != nil, Parent: os.Getpid(), Line: line,
	})
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func readPlan(fd int) (*plan, error) {
	file := os.NewFile(uintptr(fd), "plan")
	p := new(plan)
	return p, json.NewDecoder(io.NewSectionReader(file, 0, math.MaxInt64)).Decode(p)
}

func convert[To, From string | []byte](all []From) []To {
	out := make([]To, len(all))
	for i, v := range all {
		out[i] = To(v)
	}
	return out
}
