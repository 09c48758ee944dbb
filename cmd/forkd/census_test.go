package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// process is one line of the census.
type process struct {
	pid, parent     int
	name            string
	zombie, stopped bool
}

// census reads /proc/*/stat (proc(5)); what ends meanwhile is left out.
func census() []process {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good: no error
	var all []process
	for _, path := range stats {
		data, err := os.ReadFile(path)
		open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
		if err != nil || open < 0 || end < 0 {
			continue
		}
		fields := strings.Fields(string(data[end+1:]))
		pid, _ := strconv.Atoi(string(bytes.TrimSpace(data[:open])))
		parent, _ := strconv.Atoi(fields[1])
		all = append(all, process{pid: pid, parent: parent, name: string(data[open+1 : end]), zombie: fields[0] == "Z", stopped: fields[0] == "T"})
	}
	return all
}

// of returns the living processes of a script: they have the directory above dir
// as WORK in their environment.
func of(dir string) []process {
	var found []process
	for _, p := range census() {
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid)) // a zombie has none
		if bytes.Contains(append([]byte{0}, environ...), []byte("\x00WORK="+filepath.Dir(dir)+"\x00")) {
			found = append(found, p)
		}
	}
	return found
}

// adopt has the test reap the masters that forkd start has left running.
func (h *harness) adopt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: adopt")
	}
	h.noteOrphans(ts, func([]process) bool { return true })
}

// noteOrphans notes every process of a script, as soon as they are all that there will be.
func (h *harness) noteOrphans(ts *testscript.TestScript, are func([]process) bool) {
	dir := filepath.Join(ts.Getenv("WORK"), "run")
	all := of(dir)
	for end := time.Now().Add(scriptTimeout); !are(all) && time.Now().Before(end); {
		all = of(dir)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range all {
		h.orphans[p.pid] = dir
	}
	for _, p := range census() { // one that has ended has no environment: a worker that its master has not reaped yet
		if h.orphans[p.parent] == dir {
			h.orphans[p.pid] = dir
		}
	}
}

// leftBehind fails a script after which something is left. What a script that
// has failed already leaves is killed, and not complained about.
func (h *harness) leftBehind(env *testscript.Env, dir string) {
	if t, ok := env.T().(interface{ Failed() bool }); ok && t.Failed() {
		h.failed.Store(true)
		for _, p := range of(dir) {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		return
	}
	var left []string
	for deadline := time.Now().Add(scriptTimeout); time.Now().Before(deadline); time.Sleep(25 * time.Millisecond) {
		if left = h.remains(dir); len(left) == 0 {
			return
		}
	}
	h.failed.Store(true)
	for _, p := range of(dir) {
		_ = unix.Kill(p.pid, unix.SIGKILL)
	}
	env.T().Fatal("left behind:\n" + strings.Join(left, "\n"))
}

// remains lists what is left of a script. A command of another script is a
// zombie too, but only for as long as it takes os/exec to reap it. After a
// script has failed nothing tells its zombies from those of the others.
func (h *harness) remains(dir string) []string {
	var left []string
	for _, p := range of(dir) {
		left = append(left, fmt.Sprintf("process %d (%s)", p.pid, p.name))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range census() {
		if h.failed.Load() || !p.zombie || p.parent != os.Getpid() {
			continue
		}
		switch owner, known := h.orphans[p.pid]; {
		case !known:
			left = append(left, fmt.Sprintf("zombie %d (%s)", p.pid, p.name))
		case owner == dir:
			if _, err := unix.Wait4(p.pid, nil, unix.WNOHANG, nil); err == nil {
				delete(h.orphans, p.pid)
			}
		}
	}
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != dir {
			left = append(left, "file "+path)
		}
		return nil
	})
	return left
}
