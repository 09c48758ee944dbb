package supervisor

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dropFilePages returns the pages of the program's own file. A master sits still for days,
// on a few of them; those come back from the page cache when they are wanted, each with
// the 15 around it (madvise(2), MADV_DONTNEED).
func dropFilePages() {
	self, serr := os.Readlink("/proc/self/exe")
	maps, err := os.ReadFile("/proc/self/maps")
	if serr != nil || err != nil {
		return
	}
	var unwritten [][2]uintptr // the file has them unchanged
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var mode string
		if !strings.HasSuffix(line, " "+self+"\n") {
			continue
		}
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n == 3 && (mode == "r-xp" || mode == "r--p") {
			unwritten = append(unwritten, [2]uintptr{from, to})
		}
	}
	for _, r := range unwritten { // last: what runs after it comes back
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, r[0], r[1]-r[0], unix.MADV_DONTNEED) // a refusal leaves them where they are
	}
}

// reserveStack makes room on a goroutine's stack at once, for what it does later and not
// every time: a stack that grows then is copied frame by frame, with tables of the program
// that are needed for nothing else.
//
//go:noinline
func reserveStack() byte {
	var stack [6 << 10]byte
	return stack[len(os.Args)]
}
