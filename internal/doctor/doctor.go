// Package doctor says what this kernel, this container and these privileges allow a
// master here, what forkd does instead, and what to change.
//
// It only looks: it makes sockets of its own, binds no port, starts nothing and
// changes nothing. What it asks is what the master asks, by the same functions
// wherever there is one.
package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/capture"
	"github.com/forkd/forkd/internal/cgroup"
	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/process"
	"github.com/forkd/forkd/internal/procfs"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/internal/state"
)

// Result is what became of a check.
type Result string

// The results of a check.
const (
	Allowed  Result = "ok"
	Fallback Result = "fallback" // forkd does something else instead, which Text says
	Missing  Result = "missing"  // what needs it is refused
)

// Finding is one thing that a master may do here, or not.
type Finding struct {
	Check  string `json:"check"`
	Result Result `json:"result"`
	Text   string `json:"text"`             // what follows, one line
	Change string `json:"change,omitempty"` // why not, and what to change
}

// Look returns what a master of this process's user and privileges, with workers of
// user uid, could do here.
func Look(uid int) []Finding {
	return []Finding{
		kernel(),
		found("capture", "any program that listens by itself gets its slot's sockets", capture.Forbidden(uid),
			Fallback, "workers get sockets as descriptors only (LISTEN_FDS, {fd}); a program that binds by itself runs once, not once per CPU"),
		found("ready", "a worker is ready when it accepts, seen from outside", process.CanSee(uid),
			Fallback, "whether a worker accepts is not seen: it is ready when it listens, says so, or after ready.delay"),
		found("steering", "new connections go to the slots that are ready", said(sockets.CanSteer()),
			Fallback, "the kernel alone picks the slot: those of a slot that restarts wait for it"),
		counting(),
		ports(),
		users(),
		// Of a group that systemd manages and has not delegated this can't tell.
		found("limits", "limits.memory_max and tasks_max, where the master is alone in its control group", said(cgroup.Check("/")),
			Missing, "limits.memory_max and limits.tasks_max are refused"),
		backlog(),
		files(),
		ipv6(),
		found("directory", "the control sockets are in "+control.Dir(), said(cmp.Or(control.CheckDir(), Writable(control.Dir(), "FORKD_RUNTIME_DIR"))), Missing, "no app can run"),
		history(),
	}
}

// Stops reports whether no app can run here.
func Stops(all []Finding) bool {
	return slices.ContainsFunc(all, func(f Finding) bool {
		return f.Result == Missing && (f.Check == "kernel" || f.Check == "directory")
	})
}

// found is ok where there is no why, else the other result with it.
func found(check, text, why string, otherwise Result, instead string) Finding {
	if why == "" {
		return Finding{Check: check, Result: Allowed, Text: text}
	}
	return Finding{Check: check, Result: otherwise, Text: instead, Change: why}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func kernel() Finding {
	var name unix.Utsname
	_ = unix.Uname(&name) // fails for no pointer of Go's
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		unix.Close(fd)
	}
	err = os.NewSyscallError("pidfd_open", err)
	if err == nil { // of no descriptor
		err = os.NewSyscallError("close_range", unix.CloseRange(math.MaxUint32, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC))
	}
	return found("kernel", "Linux "+unix.ByteSliceToString(name.Release[:]), said(err),
		Missing, "forkd cannot start workers: it needs Linux 5.11 or later, and a seccomp profile that allows pidfd_open and close_range")
}

func counting() Finding {
	if err := sockets.CanCount(); err != nil {
		return found("counting", "", said(err), Fallback, "connections are known of programs that use the Go package only; CONNS of others is -")
	}
	return found("counting", "connections of any program are counted, by count.mark_mask at least cost", said(sockets.CanMark()),
		Fallback, "connections of any program are counted, over /proc/PID/fd; count.mark_mask is refused")
}

// ports says who may bind below 1024 (ip(7), ip_unprivileged_port_start).
func ports() Finding {
	text, _ := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	from, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		from = 1024
	}
	why := ""
	if from > 0 && !procfs.Holds(unix.CAP_NET_BIND_SERVICE) {
		why = "CAP_NET_BIND_SERVICE is missing: AmbientCapabilities= in a unit, setcap cap_net_bind_service+ep on forkd, a socket unit, or sysctl net.ipv4.ip_unprivileged_port_start"
	}
	return found("ports", "every port can be bound", why, Missing, fmt.Sprintf("ports below %d can't be bound", from))
}

func users() Finding {
	why := ""
	if os.Geteuid() != 0 {
		why = "only root can: run the master as root"
	}
	return found("users", "workers can run as another user", why, Missing, "user and group are refused: workers run as the master does")
}

func backlog() Finding {
	most, why := sockets.MaxBacklog(), ""
	if most > 0 && most < sockets.DefaultBacklog {
		why = fmt.Sprintf("sysctl -w net.core.somaxconn=%d", sockets.DefaultBacklog)
	}
	return found("backlog", fmt.Sprintf("%d connections can wait in a slot's queue", sockets.DefaultBacklog), why,
		Fallback, fmt.Sprintf("%d connections can wait in a slot's queue", most))
}

// files looks at the limit that workers inherit: one descriptor per connection.
func files() Finding {
	const enough = 65536
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return found("files", "", said(err), Missing, "the limit of open files can't be read")
	}
	why := ""
	if limit.Max < enough && !procfs.Holds(unix.CAP_SYS_RESOURCE) {
		why = "LimitNOFILE= in a unit, nofile in /etc/security/limits.conf, --ulimit in Docker"
	}
	return found("files", fmt.Sprintf("limits.nofile can be raised beyond %d open files per worker", limit.Max), why,
		Fallback, fmt.Sprintf("a worker can have %d open files at most, and so many connections", limit.Max))
}

func ipv6() Finding {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return found("ipv6", "tcp:// serves IPv4 and IPv6", said(os.NewSyscallError("socket", err)), Fallback, "tcp:// serves IPv4 alone")
}

func history() Finding {
	dir, why := state.Root(), "set FORKD_STATE_DIR, or HOME"
	if dir != "" {
		why = said(Writable(dir, "FORKD_STATE_DIR"))
	}
	return found("history", "what happens, and the log of forkd start, are kept in "+dir, why,
		Fallback, "events, describe and logs show what the living master remembers, and a start knows no release that served before")
}

// Writable returns why a directory, or the first of its parents that exists, can't be
// written, and by which variable another one is named.
func Writable(dir, variable string) error {
	for at := dir; ; at = filepath.Dir(at) {
		err := unix.Access(at, unix.W_OK|unix.X_OK)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOENT) || at == "/" || at == "." {
			return fmt.Errorf("%s: %w: set %s to one that can be written", at, err, variable)
		}
	}
}
