package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

const howReady = "Programs that know nothing of forkd, one worker each, started again and again. Each takes the time (CLOCK_MONOTONIC) as soon as its own listen(2) has returned; " +
	"`ready_at` of the status, less that. Go makes its socket by hand; the others are `python3 -m http.server` and node's `http`."

// readyWithin is the bound, from listen(2).
const readyWithin = 50 * time.Millisecond

const pythonServer = `import os, runpy, socket, sys, time
stamp, listen = sys.argv.pop(), socket.socket.listen
def stamped(*args):
    listen(*args)
    at = time.monotonic_ns()
    with open(stamp, "w") as f:
        f.write(str(at))
socket.socket.listen = stamped
runpy.run_module("http.server", run_name="__main__", alter_sys=True)
`

const nodeServer = `const [port, stamp] = process.argv.slice(2)
require('http').createServer((_, res) => res.end('hello\n')).listen(port)
const at = process.hrtime.bigint()
require('fs').writeFileSync(stamp, String(at))
`

func (b *bench) ready(ctx context.Context) ([]row, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	python, node := filepath.Join(b.dir, "server.py"), filepath.Join(b.dir, "server.js")
	err = errors.Join(os.WriteFile(python, []byte(pythonServer), 0o600), os.WriteFile(node, []byte(nodeServer), 0o600))
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, p := range []struct {
		name    string
		command []string
	}{
		{"python3 -m http.server", []string{"python3", python}},
		{"node", []string{"node", node}},
		{"Go", []string{self, plainFlag}},
	} {
		var after []time.Duration
		for range b.plan.starts {
			took, err := b.readyAfterListen(ctx, p.command)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			after = append(after, took)
		}
		low, mid, high := quartiles(after)
		first, last := slices.Min(after), slices.Max(after)
		rows = append(rows, promise("ready after listen(2), "+p.name, fmt.Sprintf("0 to %v", readyWithin), first >= 0 && last <= readyWithin,
			"%.1f ms [%.1f .. %.1f], %.1f at least, %.1f at most", milliseconds(mid), milliseconds(low), milliseconds(high), milliseconds(first), milliseconds(last)))
	}
	return rows, nil
}

// readyAfterListen starts a program once, and returns how long after its listen(2) it was
// seen to be ready.
func (b *bench) readyAfterListen(ctx context.Context, command []string) (time.Duration, error) {
	stamp := filepath.Join(b.dir, "listening")
	a, err := b.runApp(ctx, "ready", 1, append(slices.Clone(command), "{port}", stamp), "")
	if err != nil {
		return 0, err
	}
	defer a.stop()
	status, err := a.client.Status(ctx)
	if err != nil {
		return 0, err
	}
	sinceReady := time.Since(*status.Slots[0].Workers[0].ReadyAt)
	now := monotonic()
	text, err := os.ReadFile(stamp)
	if err != nil {
		return 0, err
	}
	listening, err := strconv.ParseInt(string(text), 10, 64)
	return now - sinceReady - time.Duration(listening), errors.Join(err, os.Remove(stamp))
}
