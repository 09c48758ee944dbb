package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// started reports whether this process is the main one of a service, not a descendant
// that has inherited its variables (SYSTEMD_EXEC_PID in systemd.exec(5), since 248).
func started() bool { return os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid()) }

// Unit returns the name of the service whose main process this is.
func Unit() (name string, ok bool) {
	if !started() {
		return "", false
	}
	name, _ = unitIn(ownGroup())
	return name, name != ""
}

// StopTimeout returns the unit's TimeoutStopSec=; the longest Duration for "infinity". It
// runs systemctl, as a child process, for five seconds at most.
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
	// Only the output counts: if the reaper has reaped systemctl, its status is unknown.
	out, err := cmd.Output()
	if d, bad := parseSpan(strings.TrimSpace(string(out))); bad == nil {
		return d, nil
	}
	if err == nil {
		err = fmt.Errorf("it says %s", quote(strings.TrimSpace(string(out))))
	}
	return 0, fmt.Errorf("cannot ask systemctl for TimeoutStopSec= of %s: %w", name, err)
}

// Leftovers returns the other processes of this service's control group. Called at the
// start of the main process, before it has children, these are the left-over processes of
// an earlier one. nil if this is no service's main process, or the groups can't be read.
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
		text, err := os.ReadFile(filepath.Join(root, group, "cgroup.procs"))
		if err != nil {
			continue
		}
		if pids, self := others(string(text), os.Getpid()); self {
			return pids
		}
	}
	return nil
}

// others are the pids of a cgroup.procs file without self, which must be among them:
// else it is another group's.
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

// ownGroup is this process's control group in systemd's hierarchy; "" if unknown.
func ownGroup() string {
	text, _ := os.ReadFile("/proc/self/cgroup")
	return groupIn(string(text))
}

// groupIn finds the group of systemd's hierarchy in a cgroup file (cgroups(7)): of v2 if
// that is mounted alone, else of the v1 hierarchy with systemd's name.
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

// unitIn finds the innermost service in a control group's path, and whether it is a user
// manager's.
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
