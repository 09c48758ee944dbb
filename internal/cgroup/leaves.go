package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Leaves makes groups of v2 for workers, with limits of their own. A group with controllers
// for those below it has no processes itself (cgroups(7), "no internal processes"): this
// process is in one beside them.
type Leaves struct {
	Old []*Leaf // of an earlier process
	dir string
}

// Limits are those of a leaf. 0: none.
type Limits struct {
	Memory int64 // bytes: memory.max
	Tasks  int   // processes and threads: pids.max
}

const advice = ": in a unit Delegate=yes gives it (forkd@.service.d/limits.conf); else systemd-run --scope -p Delegate=yes forkd run ... does"

// NewLeaves moves this process into the subgroup of its group of v2, unless it is there
// already. An error says what to do. root is "/", except in tests.
func NewLeaves(root, subgroup string) (l *Leaves, err error) {
	l, there, err := ownLeaves(root, subgroup)
	if err != nil {
		return nil, err
	}
	if !there {
		if err := l.move(subgroup); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(l.dir, controlFile), []byte("+memory +pids"), 0); err != nil {
		return nil, l.failed(err)
	}
	old, _ := filepath.Glob(filepath.Join(l.dir, "worker.*"))
	for _, dir := range old {
		l.Old = append(l.Old, &Leaf{dir})
	}
	return l, nil
}

// Check says why NewLeaves would fail, as far as can be seen without changing anything, and
// what to do.
func Check(root string) error {
	l, _, err := ownLeaves(root, "")
	if err != nil {
		return err
	}
	if err := unix.Access(filepath.Join(l.dir, controlFile), unix.W_OK); err != nil {
		return l.failed(err)
	}
	return nil
}

// controlFile has the controllers of the groups below.
const controlFile = "cgroup.subtree_control"

// ownLeaves finds this process's group of v2, or the one above if it is there already, and
// whether its controllers can be had.
func ownLeaves(root, subgroup string) (l *Leaves, there bool, err error) {
	own := slices.DeleteFunc(Own(root, "memory"), func(g Group) bool { return !g.V2 })
	if len(own) == 0 {
		return nil, false, errors.New("there is no cgroup v2 here")
	}
	l = &Leaves{dir: own[0].Dir}
	if there = filepath.Base(l.dir) == subgroup; there {
		l.dir = filepath.Dir(l.dir)
	}
	had, err := l.words("cgroup.controllers")
	if err != nil {
		return nil, false, l.failed(err)
	}
	for _, controller := range []string{"memory", "pids"} {
		if !slices.Contains(had, controller) {
			return nil, false, fmt.Errorf("the control group %s has no controller %s%s", l.dir, controller, advice)
		}
	}
	return l, there, nil
}

func (l *Leaves) failed(err error) error {
	return fmt.Errorf("cannot make control groups below %s: %w%s", l.dir, err, advice)
}

// move moves this process, which must be alone in its group, into a subgroup.
func (l *Leaves) move(subgroup string) error {
	self := strconv.Itoa(os.Getpid())
	all, err := l.words("cgroup.procs")
	if others := slices.DeleteFunc(all, func(pid string) bool { return pid == self }); err == nil && len(others) > 0 {
		return fmt.Errorf("the control group %s has other processes than this (%s)%s", l.dir, strings.Join(others[:min(3, len(others))], ", "), advice)
	}
	sub := filepath.Join(l.dir, subgroup)
	if err == nil {
		err = os.Mkdir(sub, 0o755)
	}
	if err == nil || errors.Is(err, os.ErrExist) {
		err = os.WriteFile(filepath.Join(sub, "cgroup.procs"), []byte(self), 0)
	}
	if err != nil {
		_ = os.Remove(sub)
		return fmt.Errorf("cannot enter a control group below %s: %w%s", l.dir, err, advice)
	}
	return nil
}

func (l *Leaves) words(file string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(l.dir, file))
	return strings.Fields(string(text)), err
}

// Leaf is a worker's group; nil: it has none.
type Leaf struct{ dir string }

// Make makes a leaf.
func (l *Leaves) Make(slot int, limits Limits) (*Leaf, error) {
	dir, err := os.MkdirTemp(l.dir, fmt.Sprintf("worker.%d.", slot))
	if err != nil {
		return nil, fmt.Errorf("cannot make the worker's control group: %w", err)
	}
	set := map[string]string{}
	if limits.Memory > 0 {
		set["memory.max"], set["memory.oom.group"] = strconv.FormatInt(limits.Memory, 10), "1"
	}
	if limits.Tasks > 0 {
		set["pids.max"] = strconv.Itoa(limits.Tasks)
	}
	for file, value := range set {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
			_ = os.Remove(dir)
			return nil, fmt.Errorf("cannot limit the worker: %w", err)
		}
	}
	return &Leaf{dir}, nil
}

// Procs is the file to which a process that enters the leaf writes 0.
func (l *Leaf) Procs() string {
	if l == nil {
		return ""
	}
	return filepath.Join(l.dir, "cgroup.procs")
}

// OutOfMemory reports whether the kernel has killed a process of the leaf for want of
// memory, and whether that was because of its own limit.
func (l *Leaf) OutOfMemory() (killed, own bool) {
	text, _ := os.ReadFile(filepath.Join(l.dir, "memory.events"))
	count := func(name string) bool {
		_, after, found := strings.Cut("\n"+string(text), "\n"+name+" ")
		return found && !strings.HasPrefix(after, "0\n")
	}
	return count("oom_kill"), count("oom")
}

// Remove removes the leaf. It fails while a process is in it.
func (l *Leaf) Remove() error { return os.Remove(l.dir) }
