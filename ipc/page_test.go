package ipc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func newPage(t *testing.T) int {
	t.Helper()
	fd, err := NewPage()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func read(t *testing.T, fd int) Counters {
	t.Helper()
	c, err := ReadPage(fd)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPageCounts(t *testing.T) {
	fd := newPage(t)
	p, err := OpenPage(fd)
	if err != nil {
		t.Fatal(err)
	}
	p.Request()
	if got := read(t, fd); got != (Counters{}) {
		t.Fatalf("before Attach: %+v", got)
	}
	p.Attach()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				p.Opened()
				p.Request()
				p.Closed()
			}
			p.Opened()
		})
	}
	all.Wait()
	want := Counters{Attached: true, Open: 4, Accepts: 4004, Requests: 4001}
	if diff := cmp.Diff(want, read(t, fd)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, p.Counters()); diff != "" {
		t.Error(diff)
	}
}

// The struct is the documented layout, to the byte: workers in other languages
// write it.
func TestPageLayout(t *testing.T) {
	var p Page
	for name, c := range map[string][2]uintptr{
		"size":     {unsafe.Sizeof(p), 4096},
		"version":  {unsafe.Offsetof(p.version), 8},
		"attached": {unsafe.Offsetof(p.attached), 12},
		"open":     {unsafe.Offsetof(p.open), 64},
		"accepts":  {unsafe.Offsetof(p.accepts), 128},
		"requests": {unsafe.Offsetof(p.requests), 192},
	} {
		if c[0] != c[1] {
			t.Errorf("%s is %d, want %d", name, c[0], c[1])
		}
	}
	head := make([]byte, 16)
	if _, err := unix.Pread(newPage(t), head, 0); err != nil || string(head) != "FORKDPG1\x01\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("a new page begins with %q, %v", head, err)
	}
}

// A worker has the descriptor and may try anything: it can't take the memory
// away, and what it writes comes out within bounds.
func TestPageHostileWorker(t *testing.T) {
	fd := newPage(t)
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the descriptor leaks to every child: flags %x, %v", flags, err)
	}
	for what, try := range map[string]func() error{
		"shrink":   func() error { return unix.Ftruncate(fd, 0) },
		"grow":     func() error { return unix.Ftruncate(fd, 1<<30) },
		"write on": func() error { _, err := unix.Pwrite(fd, []byte{1}, PageSize); return err },
		"seal": func() error {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
			return err
		},
	} {
		if err := try(); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}

	write := func(at int64, b []byte) {
		if _, err := unix.Pwrite(fd, b, at); err != nil {
			t.Fatal(err)
		}
	}
	write(offAttached, []byte{1, 0, 0, 0})
	write(offAttached+4, bytes.Repeat([]byte{0xff}, PageSize-offAttached-4))
	if got, want := read(t, fd), (Counters{Attached: true, Open: 0, Accepts: MaxCount, Requests: MaxCount}); got != want {
		t.Errorf("all ones: %+v, want %+v", got, want)
	}
	write(offOpen, binary.LittleEndian.AppendUint64(nil, 1<<62))
	if got := read(t, fd); got.Open != MaxCount {
		t.Errorf("absurd: %+v", got)
	}
	write(0, bytes.Repeat([]byte{0xff}, PageSize))
	if got := read(t, fd); got != (Counters{}) {
		t.Errorf("no page any more: %+v", got)
	}
	if _, err := OpenPage(fd); err == nil {
		t.Error("opened a page of another version")
	}
}

func TestPageOfTheWrongSize(t *testing.T) {
	fd, err := unix.MemfdCreate("short", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 100); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadPage(fd); err == nil || !strings.Contains(err.Error(), "got 100 bytes") {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := OpenPage(fd); err == nil || !strings.Contains(err.Error(), "100 bytes") {
		t.Error(err)
	}
	if _, err := ReadPage(-1); !errors.Is(err, unix.EBADF) {
		t.Error(err)
	}
}

// Whatever a worker writes to its page, what the master reads is within bounds.
func FuzzPage(f *testing.F) {
	fd, err := NewPage()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { unix.Close(fd) })
	head := make([]byte, pageUsed)
	if _, err := unix.Pread(fd, head, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(head))
	head[offAttached] = 1
	f.Add(bytes.Clone(head))
	f.Add(append(bytes.Clone(head[:offOpen]), bytes.Repeat([]byte{0xff}, pageUsed)...))
	f.Add(append(bytes.Clone(head[:offOpen]), 0, 0, 0, 0, 0, 0, 0, 0x80))
	f.Add([]byte("FORKDPG2"))
	f.Fuzz(func(t *testing.T, written []byte) {
		page := make([]byte, PageSize)
		copy(page, written)
		if _, err := unix.Pwrite(fd, page, 0); err != nil {
			t.Fatal(err)
		}
		c := read(t, fd)
		if c.Open > MaxCount || c.Accepts > MaxCount || c.Requests > MaxCount || !c.Attached && c != (Counters{}) {
			t.Errorf("%+v", c)
		}
	})
}
