package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	mostOutput   = 8 << 10  // bytes of a hook's output that are shown: the last
	mostVariable = 64 << 10 // bytes of a variable: the kernel allows 128 KiB (execve(2))
	hookGrace    = time.Second
)

type hook struct {
	command string
	within  time.Duration
	out     io.Writer // gets its output, when it has ended
}

// run runs the command with an advice in its environment and on its stdin, in a process
// group of its own, which is killed when the time is over, ctx ends, or this process is
// killed: another one leads then, and runs its own. The error says how it failed.
func (h *hook) run(ctx context.Context, v *adviceView) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	timed, cancel := context.WithTimeout(ctx, h.within)
	defer cancel()
	group, release, err := ownGroup()
	if err != nil {
		return err
	}
	defer release()
	var said tail
	cmd := exec.CommandContext(timed, "/bin/sh", "-c", h.command)
	cmd.Env = append(os.Environ(), v.variables()...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(append(text, '\n')), &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: group}
	cmd.Cancel = func() error { return syscall.Kill(-group, syscall.SIGKILL) }
	cmd.WaitDelay = hookGrace // for what it has started and left behind with its output
	err = cmd.Run()
	said.show(h.out)
	switch {
	case timed.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("it took longer than %s, and was killed", h.within)
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrWaitDelay):
		return nil
	default:
		return err
	}
}

// ownGroup makes a process group that is killed with this process, however that ends: its
// leader waits for the end of a pipe that only this process holds. release ends the leader
// alone.
func ownGroup() (group int, release func(), err error) {
	leader := exec.Command("/bin/sh", "-c", "read -r _; kill -9 0") //nolint:noctx // it ends by release
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	held, err := leader.StdinPipe()
	if err != nil {
		return 0, nil, err
	}
	if err := leader.Start(); err != nil {
		return 0, nil, err
	}
	return leader.Process.Pid, func() {
		_ = leader.Process.Kill() // first: it must not see the end of the pipe
		_ = leader.Wait()
		_ = held.Close()
	}, nil
}

// variables are the environment of a hook. What is not known is empty.
func (v *adviceView) variables() []string {
	number := func(n *int64) string {
		if n == nil {
			return ""
		}
		return strconv.FormatInt(*n, 10)
	}
	utilization := ""
	if v.Utilization != nil {
		utilization = strconv.FormatFloat(*v.Utilization, 'f', 1, 64)
	}
	var all []string
	for _, of := range [][2]string{
		{"APP", v.App},
		{"TOKEN", v.Token},
		{"DIRECTION", v.Direction},
		{"HOSTS", strconv.Itoa(v.Hosts)},
		{"HOSTS_WANTED", strconv.Itoa(v.HostsWanted)},
		{"COMING", strconv.Itoa(v.Coming)},
		{"ADD", strconv.Itoa(v.Add)},
		{"DRAIN", joined(v.Drain)},
		{"RESUME", joined(v.Resume)},
		{"REMOVE", joined(v.Remove)},
		{"CONNECTIONS", strconv.FormatInt(v.Connections, 10)},
		{"CAPACITY", number(v.Capacity)},
		{"UTILIZATION", utilization},
		{"REASON", sanitize(v.Reason)},
	} {
		all = append(all, "FORKD_ADVICE_"+of[0]+"="+of[1])
	}
	return all
}

// joined are names with spaces between, as many as fit into a variable: JSON has all.
func joined(names []string) string {
	size := 0
	for i, name := range names {
		if size += len(name) + 1; size > mostVariable {
			names = names[:i]
			break
		}
	}
	return strings.Join(names, " ")
}

// tail keeps the end of what is written to it.
type tail struct {
	kept []byte
	left int // bytes that are not kept
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p[max(0, len(p)-mostOutput):]...)
	t.left += max(0, len(p)-mostOutput)
	if over := len(t.kept) - mostOutput; over > 0 {
		t.left += over
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) show(to io.Writer) {
	if t.left > 0 {
		fmt.Fprintf(to, "forkd: --exec: %d bytes of its output are not shown\n", t.left)
	}
	for line := range strings.Lines(string(t.kept)) {
		fmt.Fprintln(to, "forkd: --exec: "+sanitize(strings.TrimRight(line, "\r\n")))
	}
}
