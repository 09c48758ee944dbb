package systemd

import (
	"cmp"
	"context"
	_ "embed" // forkd@.service
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Unit returns the name of the service whose main process this is: not a descendant that
// has inherited its variables (SYSTEMD_EXEC_PID in systemd.exec(5), since 248).
func Unit() (name string, ok bool) {
	if os.Getenv("SYSTEMD_EXEC_PID") != strconv.Itoa(os.Getpid()) {
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
	cmd.Env = []string{"LC_ALL=C"}
	for _, key := range []string{"PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} {
		if value, set := os.LookupEnv(key); set {
			cmd.Env = append(cmd.Env, key+"="+value)
		}
	}
	// Only the output counts: if the reaper has reaped systemctl, its status is unknown.
	out, err := cmd.Output()
	d, bad := parseSpan(strings.TrimSpace(string(out)))
	if bad == nil {
		return d, nil
	}
	return 0, fmt.Errorf("cannot ask systemctl for TimeoutStopSec= of %s: %w", name, cmp.Or(err, bad))
}

// Leftovers returns the other processes of this service's control group. Called at the
// start of the main process, before it has children, these are the left-over processes of
// an earlier one. nil if this is no service's main process, or the groups can't be read.
func Leftovers() []int {
	if _, ok := Unit(); !ok {
		return nil
	}
	// cgroup v2, its part of a hybrid hierarchy, and systemd's own of v1.
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		dir := filepath.Join(root, UnitGroup(ownGroup()))
		leaves, _ := filepath.Glob(filepath.Join(dir, "worker.*"))
		var all []byte
		for _, group := range append(leaves, dir, filepath.Join(dir, Subgroup)) {
			text, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
			all = append(all, text...)
		}
		if pids, self := others(string(all), os.Getpid()); self {
			return pids
		}
	}
	return nil
}

// Subgroup is the group of a unit's main process where the workers have groups of their own
// beside it, worker.*: DelegateSubgroup= of systemd 254.
const Subgroup = "forkd"

// UnitGroup is the group that a main process or one of its workers is in, without the part
// that is its own.
func UnitGroup(group string) string {
	if dir, last := filepath.Split(group); last == Subgroup || strings.HasPrefix(last, "worker.") {
		return filepath.Clean(dir)
	}
	return group
}

// others are the pids of cgroup.procs files without self, which must be among them:
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

// forever is systemd's "infinity".
const forever = time.Duration(math.MaxInt64)

// parseSpan parses a time of systemctl show ("1min 30s", "infinity"; systemd.time(7)), with
// the units of FORMAT_TIMESPAN in systemd's time-util.c.
func parseSpan(text string) (time.Duration, error) {
	switch text {
	case "infinity":
		return forever, nil
	case "0":
		return 0, nil
	}
	const day = 24 * time.Hour
	units := map[string]time.Duration{
		"us": time.Microsecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour,
		"d": day, "w": 7 * day, "month": 2629800 * time.Second, "y": 31557600 * time.Second,
	}
	bad := errors.New("not a time span: " + quote(text))
	var sum float64
	words := strings.Fields(text)
	for _, word := range words {
		at := strings.LastIndexAny(word, "0123456789") + 1
		number, err := strconv.ParseFloat(word[:at], 64)
		unit, known := units[word[at:]]
		if err != nil || !known || number < 0 {
			return 0, bad
		}
		sum += number * float64(unit)
	}
	switch {
	case len(words) == 0:
		return 0, bad
	case sum >= float64(forever):
		return forever, nil
	}
	return time.Duration(sum), nil
}

//go:embed forkd@.service
var template string

// installed is where the shipped unit expects forkd.
const installed = "/usr/bin/forkd"

// UnitFile returns the text of a unit that runs forkd from the file binary:
// forkd@.service, or with app a unit for that app alone. The app's name must be valid.
// The path must be absolute, without quotes, backslashes and control characters, which
// systemd does not allow.
func UnitFile(app, binary string) string {
	text := template
	if app != "" {
		text = strings.Replace(text, "# forkd@APP.service runs the app", "# It runs the app", 1)
		text = strings.NewReplacer("%i", app, "/APP.toml", "/"+app+".toml").Replace(text)
	}
	// Last: the path must not be changed by the replacements above.
	return strings.ReplaceAll(text, "="+installed+" ", "="+execPath(binary)+" ")
}

// execPath escapes a path as the first word of a command (systemd.service(5)).
func execPath(path string) string {
	return strings.NewReplacer("%", "%%", " ", `\x20`, ";", `\x3b`).Replace(path)
}
