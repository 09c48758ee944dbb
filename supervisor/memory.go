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
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		fields := strings.Fields(line)
		// Only what can't have been written to: the file has it unchanged.
		if len(fields) < 6 || fields[5] != self || fields[1] != "r-xp" && fields[1] != "r--p" {
			continue
		}
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil {
			continue
		}
		// It can't harm: a refusal leaves the pages where they are.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
	}
}
