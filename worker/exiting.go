package worker

import (
	"bytes"
	"os"
	"strconv"
)

// flagExiting is PF_EXITING of the kernel's flags word (include/linux/sched.h):
// set when a thread begins to end, before it hands on its children.
const flagExiting = 0x4

// exiting reports whether the first thread of a process is ending or has ended:
// of a process that was killed it may be gone long before the last one is, and
// with that the process's descriptors. Where /proc hides the process (hidepid),
// that is not known, and false.
func exiting(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	// pid (comm) state ppid pgrp session tty_nr tpgid flags ...: proc(5). The name
	// may hold anything, a parenthesis too.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 32)
	return err == nil && flags&flagExiting != 0
}
