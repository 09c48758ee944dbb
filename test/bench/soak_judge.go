package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/test/load"
)

// soakMemory is what the master may have resident at most, in bytes.
const soakMemory = 64 << 20

// judgeApp compares the status with what /proc shows: nil when the app is whole
// and nothing is left of what happened before.
func (s *soak) judgeApp(ctx context.Context) error {
	status, err := s.status(ctx)
	if err != nil {
		return err
	}
	s.slots = status.Totals.Wanted
	master := s.app.cmd.Process.Pid
	switch {
	case status.PID != master:
		return fmt.Errorf("the status is of master %d, which is not %d", status.PID, master)
	case !status.AllReady() || status.State != control.StateReady:
		return fmt.Errorf("%s: %d of %d ready", status.State, status.Totals.Ready, status.Totals.Wanted)
	case status.Roll != nil:
		return fmt.Errorf("a roll is %s", status.Roll.Phase)
	case len(status.Leftovers) > 0:
		return fmt.Errorf("%d leftovers", len(status.Leftovers))
	case len(status.Slots) != status.Totals.Wanted:
		return fmt.Errorf("%d slots, wanted %d", len(status.Slots), status.Totals.Wanted)
	}
	var pids []int
	for _, slot := range status.Slots {
		if len(slot.Workers) != 1 {
			return fmt.Errorf("slot %d has %d workers", slot.Slot, len(slot.Workers))
		}
		w := slot.Workers[0]
		if w.Generation != status.Generation && !s.mixed {
			return fmt.Errorf("slot %d runs generation %d, the app %d", slot.Slot, w.Generation, status.Generation)
		}
		if w.PID == s.gone {
			return fmt.Errorf("worker %d is still there", w.PID)
		}
		pids = append(pids, w.PID)
	}
	children, err := childrenOf(master)
	if err != nil {
		return err
	}
	slices.Sort(pids)
	if !slices.Equal(pids, children) {
		return fmt.Errorf("the status shows the workers %v, the master's children are %v", pids, children)
	}
	return s.judgeMaster(master, len(status.Slots))
}

// judgeMaster looks for what the master may have leaked: it has as many files
// open as it had when it first had so many slots.
func (s *soak) judgeMaster(master, slots int) error {
	dir := filepath.Join("/proc", strconv.Itoa(master))
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return err
	}
	threads, err := os.ReadDir(filepath.Join(dir, "task"))
	if err != nil {
		return err
	}
	resident, err := rollup(master, "Rss:")
	if err != nil {
		return err
	}
	s.most.files = max(s.most.files, len(files))
	s.most.threads = max(s.most.threads, len(threads))
	s.most.rss = max(s.most.rss, int(resident))
	if resident > soakMemory {
		return fmt.Errorf("the master has %d bytes resident", resident)
	}
	// The connection that asked for the status may still be there or not.
	base, known := s.base[slots]
	if !known || len(files) < base {
		s.base[slots] = len(files)
		return nil
	}
	if len(files) > base+1 {
		return fmt.Errorf("the master has %d files open, %d when it first had %d slots", len(files), base, slots)
	}
	return nil
}

// childrenOf lists a process's children, dead ones too: a zombie is in no status.
func childrenOf(pid int) ([]int, error) {
	lists, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task/*/children"))
	if err != nil {
		return nil, err
	}
	var children []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that has ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			children = append(children, child)
		}
	}
	slices.Sort(children)
	return children, nil
}

// nothingLeft waits until no process runs the app's programs, dead or alive.
func (s *soak) nothingLeft(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, soakDrain+settleTime)
	defer cancel()
	for {
		left, err := s.left()
		if err != nil || len(left) == 0 {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the app has stopped, and these live: %s", strings.Join(left, ", "))
		}
		load.Pause(ctx, 20*time.Millisecond)
	}
}

// left lists the processes that run a program of the app's, as pid and path.
func (s *soak) left() (left []string, err error) {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		program, err := os.Readlink(link)
		if errors.Is(err, os.ErrNotExist) || err != nil {
			continue // gone, or another's
		}
		if program == s.bench.example()[0] || program == s.bench.program("forkd") {
			left = append(left, strings.Split(link, "/")[2]+" "+program)
		}
	}
	return left, nil
}

func newAddress(port int) *net.TCPAddr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port} }

// tail is the end of what the master has logged, for a report. It stops it.
func (a *app) tail() string {
	a.stop()
	lines := strings.Split(strings.TrimSpace(a.said.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}
