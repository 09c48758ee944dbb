package worker

import (
	"bytes"
	"os"
	"strconv"
)

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
