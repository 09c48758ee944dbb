package worker

import (
	"bytes"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// messageTimeout is how long a signal waits for its drain message. The master
	// writes the message first, so only this process's own reader can be late.
	messageTimeout = 100 * time.Millisecond

	// masterDeathWindow is how long after the master's death signals are taken for
	// parent-death signals: there is one for each thread of the master's that ends.
	masterDeathWindow = 5 * time.Second

	// repeatWindow is how long after the first signal others count as the same
	// request: a service manager may signal all processes of a unit, and the master
	// then signals its workers too.
	repeatWindow = 500 * time.Millisecond
)

// listenSignals takes over the signals that start a drain: TERM, INT, and the
// one that the master is configured to send (FORKD_STOP_SIGNAL).
func listenSignals(configured string) <-chan os.Signal {
	stop := []os.Signal{syscall.SIGTERM, syscall.SIGINT}
	if s := unix.SignalNum("SIG" + configured); s != 0 {
		stop = append(stop, s)
	}
	signals := make(chan os.Signal, 4)
	for _, s := range stop {
		if !signal.Ignored(s) { // as under nohup and in a shell's background jobs
			signal.Notify(signals, s)
		}
	}
	return signals
}

// handleSignals runs for the life of the process. parent is the pid of the
// process that started this one.
//
// A signal that follows a drain message belongs to it. The first other signal
// drains, a second one after repeatWindow ends the process. Parent-death signals
// (PR_SET_PDEATHSIG, prctl(2)) do not count: they must not cut a drain. The kernel
// sends one for each ending thread of the master that hands this process on to
// another thread, so the first may come while the parent is still the old one.
func (w *Worker) handleSignals(signals <-chan os.Signal, parent int) {
	var first, died time.Time
	for s := range signals {
		now := time.Now()
		expected := w.takeDrainMessage()
		if died.IsZero() && w.channel != nil && (w.channel.closed.Err() != nil || os.Getppid() != parent || exiting(parent)) {
			died = time.Now()
		}
		masterDying := !died.IsZero() && time.Since(died) < masterDeathWindow
		if isSecond(first, now) && !expected && !masterDying {
			exitBy(s)
		}
		if first.IsZero() {
			first = now
		}
		w.drain.begin()
	}
}

// isSecond reports whether a signal at now is a new request after the one at first;
// zero: there was none.
func isSecond(first, now time.Time) bool { return !first.IsZero() && now.Sub(first) >= repeatWindow }

// takeDrainMessage reports whether there is a drain message that has not had its
// signal yet.
func (w *Worker) takeDrainMessage() bool {
	if w.channel == nil {
		return false
	}
	select {
	case <-w.drain.messages:
		return true
	case <-w.channel.closed.Done():
	case <-time.After(messageTimeout):
	}
	return false
}

// exitBy ends the process by the default action of a signal.
func exitBy(s os.Signal) {
	signal.Reset(s)
	_ = unix.Kill(os.Getpid(), s.(syscall.Signal))
	select {}
}

// flagExiting is PF_EXITING of include/linux/sched.h: a thread has begun to end, and
// has not yet handed on its children.
const flagExiting = 0x4

// exiting reports whether the first thread of a process has begun to end. In a killed
// process that is long before the last thread ends and descriptors are closed. It is
// false if /proc hides the process (hidepid).
func exiting(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	// pid (comm) state ppid pgrp session tty_nr tpgid flags ...: proc(5). comm may
	// contain parentheses.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 32)
	return err == nil && flags&flagExiting != 0
}
