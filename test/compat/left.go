package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// sweep ends what a stage has left, by pid, and says what it was: what outlives its
// parent is this process's child (PR_SET_CHILD_SUBREAPER). To be called when nothing
// runs that was started here, but for keep.
func sweep(keep ...int) (left []string) {
	for deadline := time.Now().Add(endTime); time.Now().Before(deadline); {
		pids := slices.DeleteFunc(children(os.Getpid()), func(pid int) bool { return slices.Contains(keep, pid) })
		if len(pids) == 0 {
			return left
		}
		for _, pid := range pids {
			name, ended := nameOf(pid)
			if !ended {
				left = append(left, name)
				_ = syscall.Kill(pid, syscall.SIGKILL) // a child that nobody else reaps: never a stranger's pid
			}
			_, _ = unix.Wait4(pid, nil, 0, nil)
		}
	}
	return append(left, "more than could be killed")
}

// children lists the children of a process (proc_pid_task(5)).
func children(pid int) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// nameOf returns what a process runs, and whether it has ended and was not waited for.
func nameOf(pid int) (name string, ended bool) {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	stat, err := procfs.ReadStat(pid)
	return string(bytes.TrimSpace(comm)), err != nil || stat.State == 'Z'
}

// socketFiles lists the sockets that are left in the file system below dir.
func socketFiles(dir string) (left []string) {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type()&fs.ModeSocket != 0 {
			left = append(left, filepath.Base(path))
		}
		return nil
	})
	return left
}
