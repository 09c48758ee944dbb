package procfs

import (
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
)

func TestOwnProcess(t *testing.T) {
	pid := os.Getpid()
	if !slices.Contains(PIDs(), pid) {
		t.Error("this process is not listed")
	}
	fields, err := Stat(pid)
	if err != nil || len(fields) < 50 || string(fields[1]) != strconv.Itoa(os.Getppid()) {
		t.Errorf("stat %q, %v", fields, err)
	}
	before := len(Sockets(Files(pid)))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if after := len(Sockets(Files(pid))); after != before+1 {
		t.Errorf("%d sockets, then %d", before, after)
	}
	if _, err := Stat(-1); err == nil || Files(-1) != nil || Sockets([]string{"socket:[x]", "/socket:[1]"}) != nil {
		t.Error("what is not there is read")
	}
}
