package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// pids sets variables to the pids of an app's newest workers, by slot.
func pids(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: pids APP VAR...")
	}
	app, err := observe(ts, args[0])
	ts.Check(err)
	for slot, name := range args[1:] {
		if slot >= len(app.Slots) || len(app.Slots[slot].Workers) == 0 {
			ts.Fatalf("%s has no worker in slot %d", args[0], slot)
		}
		workers := app.Slots[slot].Workers
		ts.Setenv(name, strconv.Itoa(workers[len(workers)-1].PID))
	}
}

// memory fails if an app's master has had more resident memory than so many MiB
// at any time (VmHWM, proc(5)).
func memory(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: memory APP MIB")
	}
	most, err := strconv.Atoi(args[1])
	ts.Check(err)
	client, err := found(ts, args[0])
	ts.Check(err)
	defer client.Close()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", client.PID()))
	ts.Check(err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if words[0] != "VmHWM:" {
			continue
		}
		kib, err := strconv.Atoi(words[1])
		ts.Check(err)
		ts.Logf("the master's peak: %d MiB", kib>>10)
		if kib>>10 > most {
			ts.Fatalf("the master has used %d MiB, more than %d", kib>>10, most)
		}
		return
	}
	ts.Fatalf("the kernel does not tell the peak of memory")
}

// tinyFS mounts a tmpfs for the rest of the script.
func tinyFS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: tinyfs DIR OPTION...")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(unix.Mount("tiny", dir, "tmpfs", 0, strings.Join(args[1:], ",")))
	// Detached, as the script may have failed with a master on it.
	ts.Defer(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// reaped reports whether no child of an app's master is a zombie.
func reaped(ts *testscript.TestScript, app string) (bool, string) {
	client, err := found(ts, app)
	if err != nil {
		return false, err.Error()
	}
	defer client.Close()
	for _, p := range census() {
		if p.zombie && p.parent == client.PID() {
			return false, fmt.Sprintf("zombie %d (%s)", p.pid, p.name)
		}
	}
	return true, ""
}
