package systemd

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// IsJournal reports whether a file is the stream to the journal that the service manager has
// given this process (systemd.exec(5), JOURNAL_STREAM).
func IsJournal(f *os.File) bool {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return false
	}
	return os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}
