package procfs

import (
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOwnProcess(t *testing.T) {
	pid := os.Getpid()
	if !slices.Contains(PIDs(), pid) {
		t.Error("this process is not listed")
	}
	stat, err := ReadStat(pid)
	group, session := unix.Getpgrp(), 0
	if err == nil {
		session, err = unix.Getsid(pid)
	}
	if err != nil || stat.Parent != os.Getppid() || stat.Group != group || stat.Session != session || stat.Start == 0 || stat.Exits {
		t.Errorf("stat %+v, %v", stat, err)
	}
	before := len(Sockets(pid))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if after := len(Sockets(pid)); after != before+1 {
		t.Errorf("%d sockets, then %d", before, after)
	}
	if _, err := ReadStat(-1); err == nil || Files(-1) != nil || Sockets(-1) != nil {
		t.Error("what is not there is read")
	}
}

func TestSocketsOf(t *testing.T) {
	var pair [2]int
	for range 3 {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		pair = p
		t.Cleanup(func() { unix.Close(p[0]); unix.Close(p[1]) })
	}
	var stat unix.Stat_t
	if err := unix.Fstat(pair[1], &stat); err != nil {
		t.Fatal(err)
	}
	seen := func(pid, most int) (inodes []uint64, why error) {
		for inode, err := range SocketsOf(pid, &most) {
			if why = err; err == nil {
				inodes = append(inodes, inode)
			}
		}
		return inodes, why
	}
	inodes, err := seen(os.Getpid(), 1000)
	slices.Sort(inodes)
	if err != nil || len(inodes) < 6 || !slices.Contains(inodes, stat.Ino) || !slices.Equal(inodes, slices.Sorted(slices.Values(Sockets(os.Getpid())))) {
		t.Errorf("%v, %v, want %d among them", inodes, err, stat.Ino)
	}
	if inodes, err := seen(os.Getpid(), 5); !errors.Is(err, unix.E2BIG) || len(inodes) > 5 {
		t.Errorf("of five: %v, %v", inodes, err)
	}
	if inodes, err := seen(1<<30, 5); !errors.Is(err, unix.ENOENT) || len(inodes) > 0 {
		t.Errorf("of nobody: %v, %v", inodes, err)
	}
}

func TestSocketInode(t *testing.T) {
	for target, want := range map[string]uint64{
		"socket:[4294967295]": 4294967295, "socket:[12": 0, "socket:[1x]": 0, "pipe:[12]": 0, "/socket:[1]": 0, "": 0,
	} {
		if got, isSocket := SocketInode([]byte(target)); got != want || isSocket != (want != 0) {
			t.Errorf("%q: %d, %t", target, got, isSocket)
		}
	}
}

// A directory that takes several calls is listed as a whole, a file read as far as asked.
func TestDirectoriesAndFiles(t *testing.T) {
	path, want := t.TempDir(), map[string]bool{".": true, "..": true}
	for i := range 2000 {
		name := "a rather long name " + strconv.Itoa(i)
		want[name] = true
		if err := os.WriteFile(path+"/"+name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	for name := range Entries(dir) {
		delete(want, string(name))
	}
	if len(want) != 0 {
		t.Errorf("not seen: %v", want)
	}
	long := strings.Repeat("0123456789", 1000)
	if err := os.WriteFile(path+"/long", []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, most := range []int{1, 512, 513, 9999, 10000, 20000} {
		if text, err := Read(dir, "long", most, nil); err != nil || string(text) != long[:min(most, len(long))] {
			t.Errorf("%d bytes: %d, %v", most, len(text), err)
		}
	}
	if text, err := Read(dir, "none", 10, []byte("before")); !errors.Is(err, unix.ENOENT) || string(text) != "before" {
		t.Errorf("%q, %v", text, err)
	}
}
