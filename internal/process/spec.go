package process

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Spec is a worker to be: the program, and what it is given. It inherits what
// is not named here (limits, nice value, working directory where Dir
// is empty).
type Spec struct {
	Path string   // the program, as Resolve gives it
	File *os.File // run this open ELF file instead of what is at Path now; nil: run Path
	Args []string // with the program's name first
	Env  []string // all of it, "KEY=value"; LISTEN_PID is added by ListenPID

	Dir   string      // entered before the user changes
	Slot  int         // for the records
	Files []int       // become descriptors 0, 1, 2, ...; borrowed until Start returns
	User  *Credential // nil: the master's
	Umask int         // -1: the master's

	ParentDeath syscall.Signal // sent to the leader when Serve's thread ends, so when the master dies; 0: none
	ListenPID   bool           // set LISTEN_PID to the worker's own pid (sd_listen_fds(3))
}

// Credential is whom a worker runs as. All of it is set: no group of the
// master's stays.
type Credential struct {
	UID, GID uint32
	Groups   []uint32 // supplementary
}

// check finds what no kernel call would refuse in words.
func (s *Spec) check() error {
	if len(s.Args) == 0 {
		return fmt.Errorf("cannot start %s: it has no arguments, not even its name", s.Path)
	}
	if u := s.User; u != nil && (u.UID == math.MaxUint32 || u.GID == math.MaxUint32) {
		return fmt.Errorf("cannot start %s: user or group %d means \"unchanged\" to the kernel", s.Path, uint32(math.MaxUint32))
	}
	for _, fd := range s.Files {
		if fd < 0 {
			return fmt.Errorf("cannot start %s: %d is no descriptor", s.Path, fd)
		}
	}
	return nil
}

// plan is a Spec on its way to the shim. Its strings are bytes, because JSON
// keeps no string that is not UTF-8, and arguments may be anything.
type plan struct {
	Path, Dir []byte
	Args, Env [][]byte

	Files       int  // descriptors from 0 that the worker keeps
	FromFile    bool // run descriptor planFile
	User        *Credential
	Umask       int
	ParentDeath syscall.Signal
	ListenPID   bool
	Parent      int // the master's pid
}

// What the shim finds after the worker's own descriptors, in this order. None
// of it outlives the exec.
const (
	planStatus = iota // a pipe: how it failed; closed by the exec
	planText          // the plan
	planStderr        // the worker's: until then 2 is the pipe, for the runtime's last words
	planRecord        // the records, where it has a line of them
	planFile          // the program, where Spec.File was set
)

// memfd writes the plan for the shim and returns its descriptor.
func (s *Spec) memfd() (fd int, err error) {
	text, err := json.Marshal(plan{
		Path:        []byte(s.Path),
		Dir:         []byte(s.Dir),
		Args:        byteSlices(s.Args),
		Env:         byteSlices(s.Env),
		Files:       len(s.Files),
		FromFile:    s.File != nil,
		User:        s.User,
		Umask:       s.Umask,
		ParentDeath: s.ParentDeath,
		ListenPID:   s.ListenPID,
		Parent:      os.Getpid(),
	})
	if err != nil {
		return -1, err
	}
	fd, err = unix.MemfdCreate("forkd-plan", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	for len(text) > 0 {
		n, err := unix.Write(fd, text)
		if err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("write", err)
		}
		text = text[n:]
	}
	return fd, nil
}

// readPlan is memfd's other side.
func readPlan(fd int) (*plan, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, err
	}
	text := make([]byte, stat.Size)
	for at := 0; at < len(text); {
		n, err := unix.Pread(fd, text[at:], int64(at))
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return nil, unix.EIO
		}
		at += n
	}
	p := new(plan)
	return p, json.Unmarshal(text, p)
}

func byteSlices(all []string) [][]byte {
	out := make([][]byte, len(all))
	for i, s := range all {
		out[i] = []byte(s)
	}
	return out
}

func stringSlice(all [][]byte) []string {
	out := make([]string, len(all))
	for i, b := range all {
		out[i] = string(b)
	}
	return out
}
