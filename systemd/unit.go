package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxProc bounds what is read of a file that the kernel makes up.
const maxProc = 1 << 20

// started reports whether this process is the main one of a service, not some
// descendant of it that has inherited its variables (SYSTEMD_EXEC_PID in
// systemd.exec(5), since 248).
func started() bool { return os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid()) }

// Unit returns the name of the service that this process is the main one of.
func Unit() (name string, ok bool) {
	if !started() {
		return "", false
	}
	name, _ = unitIn(ownGroup())
	return name, name != ""
}

// StopTimeout asks the service manager for the unit's TimeoutStopSec=;
// forever is the longest Duration. It starts systemctl: call it where a child
// process is welcome. It takes five seconds at most.
func StopTimeout(ctx context.Context) (time.Duration, error) {
	name, ok := Unit()
	if !ok {
		return 0, errors.New("cannot ask for TimeoutStopSec=: this process is not the main one of a systemd service")
	}
	args := []string{"show", "--property=TimeoutStopUSec", "--value", "--", name}
	if _, user := unitIn(ownGroup()); user {
		args = append([]string{"--user"}, args...)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	cmd.WaitDelay = time.Second
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	for _, key := range []string{"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} { // of --user
		if value, set := os.LookupEnv(key); set {
			cmd.Env = append(cmd.Env, key+"="+value)
		}
	}
	// What it says is what counts: another part of this process may have reaped
	// it, and then its exit status is not known here.
	out, err := cmd.Output()
	if d, bad := parseSpan(strings.TrimSpace(string(out))); bad == nil {
		return d, nil
	}
	if err == nil {
		err = fmt.Errorf("it says %s", quote(strings.TrimSpace(string(out))))
	}
	return 0, fmt.Errorf("cannot ask systemctl for TimeoutStopSec= of %s: %w", name, err)
}

// Leftovers returns the other processes of this service's control group. At
// the very start of the main process, before it has children of its own, they
// are what a main process before it has left behind. Their pids may be out of
// date at once. nil where this is no service's main process, or where the
// groups can't be seen.
func Leftovers() []int {
	if !started() {
		return nil
	}
	group := ownGroup()
	if name, _ := unitIn(group); name == "" {
		return nil
	}
	// cgroup v2, its part of a hybrid hierarchy, and systemd's own of v1.
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		text, err := readBounded(filepath.Join(root, group, "cgroup.procs"))
		if err != nil {
			continue
		}
		if pids, self := others(text, os.Getpid()); self {
			return pids
		}
	}
	return nil
}

// others are the pids of a cgroup.procs file beside one that must be among
// them: else it is another group's.
func others(procs string, self int) (pids []int, found bool) {
	for line := range strings.Lines(procs) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		switch {
		case err != nil || pid <= 0: // 0: of another pid namespace
		case pid == self:
			found = true
		default:
			pids = append(pids, pid)
		}
	}
	return pids, found
}

// ownGroup is this process's control group as systemd counts them, "" where it
// can't be read.
func ownGroup() string {
	text, err := readBounded("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	return groupIn(text)
}

// groupIn finds systemd's hierarchy in a cgroup file of proc (cgroups(7)): v2
// where that is mounted alone, else the v1 one with its name.
func groupIn(text string) string {
	unified := ""
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(parts) != 3:
		case parts[0] == "0" && parts[1] == "":
			unified = parts[2]
		case parts[1] == "name=systemd" && parts[2] != "/":
			return parts[2]
		}
	}
	return unified
}

// unitIn finds the innermost service in a control group's path, and whether it
// belongs to a user's manager.
func unitIn(group string) (name string, user bool) {
	for part := range strings.SplitSeq(group, "/") {
		if !strings.HasSuffix(part, ".service") {
			continue
		}
		user = strings.HasPrefix(name, "user@")
		name = strings.TrimPrefix(part, "_") // cg_escape in systemd
	}
	return name, user
}

func readBounded(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxProc))
	return string(data), err
}
