package supervisor

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// trimMemory returns the memory of a burst to the system: what the heap no longer
// needs, and the pages of the program's own file that were read meanwhile. A
// master sits still for days, on a few of them; the others come back from the
// page cache when they are wanted (madvise(2), MADV_DONTNEED).
func trimMemory() {
	debug.FreeOSMemory()
	self, serr := os.Readlink("/proc/self/exe")
	maps, err := os.ReadFile("/proc/self/maps")
	if serr != nil || err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var mode string
		if !strings.HasSuffix(line, " "+self+"\n") {
			continue
		}
		// Only what can't have been written to: the file has it unchanged.
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n == 3 && (mode == "r-xp" || mode == "r--p") {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // a refusal leaves them where they are
		}
	}
}

// reserveStack makes room on a goroutine's stack at once. A stack that grows further
// in is copied frame by frame, with tables of the program that are needed for nothing
// else: 1 MB of pages after each trimMemory.
//
//go:noinline
func reserveStack() byte {
	var stack [6 << 10]byte
	return stack[len(os.Args)]
}
