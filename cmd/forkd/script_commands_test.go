package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/control"
)

// expand writes a file of the script with its variables replaced, in one step, as
// an editor does.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: expand FILE TEMPLATE")
	}
	text := os.Expand(ts.ReadFile(args[1]), ts.Getenv)
	path := ts.MkAbs(args[0])
	ts.Check(os.WriteFile(path+".new", []byte(text), 0o644))
	ts.Check(os.Rename(path+".new", path))
}

// happened is what forkd events shows of an app, a line each.
func happened(ts *testscript.TestScript, app string) (string, error) {
	client, err := found(ts, app)
	if err != nil {
		return "", err
	}
	defer client.Close()
	var text strings.Builder
	err = client.Events(context.Background(), "", false, func(_ string, e control.Event) error {
		fmt.Fprintf(&text, "%s %s\n", e.Type, e.Reason)
		return nil
	})
	return text.String(), err
}

// storm sends an app's master so many signals, as fast as it can.
func storm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: storm APP COUNT SIGNAL...")
	}
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	var signals []unix.Signal
	for _, name := range args[2:] {
		sig := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG"))
		signals = append(signals, sig)
	}
	if slices.Contains(signals, 0) {
		ts.Fatalf("there is no such signal among %s", strings.Join(args[2:], " "))
	}
	client, err := found(ts, args[0])
	ts.Check(err)
	defer client.Close()
	pidfd, err := unix.PidfdOpen(client.PID(), 0)
	ts.Check(err)
	defer unix.Close(pidfd)
	for i := range count {
		ts.Check(unix.PidfdSendSignal(pidfd, signals[i%len(signals)], nil, 0))
	}
}

// pong reports whether a Redis answers, if only that it wants a password.
func pong(address string) (bool, string) {
	conn, err := net.DialTimeout("tcp", address, scriptTimeout)
	if err != nil {
		return false, err.Error()
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(scriptTimeout)); err != nil {
		return false, err.Error()
	}
	if _, err := io.WriteString(conn, "*1\r\n$4\r\nPING\r\n"); err != nil {
		return false, err.Error()
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.HasPrefix(line, "+PONG") || strings.HasPrefix(line, "-NOAUTH"), fmt.Sprint(line, err)
}
