package output

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	journald, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	j, err := NewJournal(path, "shop")
	if err != nil {
		t.Fatal(err)
	}
	l := new(Log)
	l.JournalTo(j)
	next := func() string {
		t.Helper()
		message := make([]byte, 1<<16)
		if err := journald.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := journald.Read(message)
		if err != nil {
			t.Fatal(err)
		}
		return string(message[:n])
	}
	const worker = "\nFORKD_APP=shop\nFORKD_SLOT=1\nFORKD_GENERATION=2\nFORKD_PID=77\n"
	write(l, Source{1, 2, 77, Stdout}, "hello\n<3>broken\n<9>")
	l.Add(Source{1, 2, 77, LevelWarning}, []byte("gone slot 1: exit status 1"))
	l.Add(Source{-1, -1, -1, LevelError}, []byte("overloaded"))
	for _, want := range []string{
		"MESSAGE=hello\nPRIORITY=6\nSYSLOG_IDENTIFIER=shop.1" + worker,
		"MESSAGE=broken\nPRIORITY=3\nSYSLOG_IDENTIFIER=shop.1" + worker,
		"MESSAGE=<9>\nPRIORITY=6\nSYSLOG_IDENTIFIER=shop.1" + worker,
		"MESSAGE=gone slot 1: exit status 1\nPRIORITY=4\nSYSLOG_IDENTIFIER=forkd" + worker,
		"MESSAGE=overloaded\nPRIORITY=3\nSYSLOG_IDENTIFIER=forkd\nFORKD_APP=shop\n",
	} {
		if diff := cmp.Diff(want, next()); diff != "" {
			t.Error(diff)
		}
	}

	l.Close()

	// A journal that was away is found again, and told what it has missed.
	if j, err = NewJournal(path, "shop"); err != nil {
		t.Fatal(err)
	}
	journald.Close()
	if _, err := j.Write(l.record("lost")); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(filepath.Dir(path), "again")
	if journald, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: again, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	defer journald.Close()
	j.socket = again
	if _, err := j.Write(l.record("back")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("MESSAGE=(1 lines before this one were not taken by the journal) back\nPRIORITY=6\nSYSLOG_IDENTIFIER=forkd\nFORKD_APP=shop\n", next()); diff != "" {
		t.Error(diff)
	}
}

// record is a line of the master's.
func (l *Log) record(text string) []byte {
	return appendRecord(nil, &l.clock, time.Now(), Source{-1, -1, -1, LevelInfo}.header(), []byte(text))
}
