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

const attachedAt, openAt = 12, 64 // offsets of the layout

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
	p.Attach(true)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				p.Elsewhere()
				p.Opened()
				p.Request()
				p.Closed()
			}
			p.Opened()
		})
	}
	all.Wait()
	want := Counters{Attached: true, Open: 4, Accepts: 4004, Passed: true, Elsewhere: 4000, Requests: 4001}
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
		"size":      {unsafe.Sizeof(p), 4096},
		"version":   {unsafe.Offsetof(p.version), 8},
		"attached":  {unsafe.Offsetof(p.attached), 12},
		"passed":    {unsafe.Offsetof(p.passed), 16},
		"held":      {unsafe.Offsetof(p.held), 64},
		"accepts":   {unsafe.Offsetof(p.accepts), 128},
		"elsewhere": {unsafe.Offsetof(p.elsewhere), 136},
		"requests":  {unsafe.Offsetof(p.requests), 192},
		"refused":   {unsafe.Offsetof(p.refused), 256},
		"limit":     {unsafe.Offsetof(p.limit), 320},
		"stopping":  {unsafe.Offsetof(p.stopping), pageStopping}, // nodedrain.cjs reads it
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

// The bytes that a worker of any language leaves behind, before there was a
// count of refused connections or of those elsewhere, and since.
func TestPageGolden(t *testing.T) {
	page := make([]byte, PageSize)
	copy(page, "FORKDPG1\x01\x00\x00\x00\x01\x00\x00\x00")
	copy(page[64:], "\x02\x01\x00\x00\x00\x00\x00\x00")
	copy(page[128:], "\x04\x03\x02\x00\x00\x00\x00\x00")
	copy(page[192:], "\x07\x06\x05\x00\x01\x00\x00\x00")
	fd := newPage(t)
	check := func(want Counters) {
		t.Helper()
		if _, err := unix.Pwrite(fd, page, 0); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, read(t, fd)); diff != "" {
			t.Error(diff)
		}
	}
	want := Counters{Attached: true, Open: 0x102, Accepts: 0x20304, Requests: 0x100050607}
	check(want)
	copy(page[256:], "\x09\x08\x00\x00\x00\x00\x00\x00")
	copy(page[16:], "\x01\x00\x00\x00")
	copy(page[136:], "\x03\x03\x02\x00\x00\x00\x00\x00")
	want.Refused, want.Passed, want.Elsewhere = 0x809, true, 0x20303
	check(want)
}

// However many come at a time, never more than the limit are admitted; and each
// that is not counts as refused and nothing else.
func TestPageLimit(t *testing.T) {
	fd := newPage(t)
	p, err := OpenPage(fd)
	if err != nil {
		t.Fatal(err)
	}
	p.Attach(false)
	const limit, comers, each = 3, 8, 2000
	var all sync.WaitGroup
	for i := range comers {
		all.Go(func() {
			for range each {
				switch {
				case i%2 == 0 && p.Admit(limit):
					if c := p.Counters(); c.Open > limit+comers {
						t.Errorf("%+v", c)
					}
					p.Closed()
				case i%2 == 1:
					p.Opened()
					if !p.Expel(limit) {
						p.Closed()
					}
				}
			}
		})
	}
	all.Wait()
	if c := read(t, fd); c.Open != 0 || c.Accepts != comers*each || c.Refused > c.Accepts {
		t.Errorf("%+v", c)
	}
	for i := range 5 {
		if admitted := p.Admit(limit); admitted != (i < limit) {
			t.Errorf("connection %d: admitted %v", i, admitted)
		}
	}
	p.Opened()
	if !p.Expel(limit) || p.Expel(limit) {
		t.Error("the one over the limit is let stay, or one within it expelled")
	}
	p.Closed()
	if !p.Admit(limit) {
		t.Error("one left, and the next is refused")
	}
}

// The master's limit reaches the worker; what a worker writes over it is its own
// harm, and within bounds.
func TestPageSetLimit(t *testing.T) {
	fd := newPage(t)
	p, err := OpenPage(fd)
	if err != nil {
		t.Fatal(err)
	}
	if n := p.Limit(); n != 0 {
		t.Errorf("a new page's is %d", n)
	}
	for _, want := range []int64{7, 1 << 30, 0} {
		if err := SetLimit(fd, want); err != nil || p.Limit() != want {
			t.Errorf("set to %d it is %d, %v", want, p.Limit(), err)
		}
	}
	p.limit.Store(1<<64 - 1)
	if n := p.Limit(); n != MaxCount {
		t.Errorf("absurd: %d", n)
	}
	if err := SetLimit(-1, 1); !errors.Is(err, unix.EBADF) {
		t.Error(err)
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
	write(attachedAt, []byte{1, 0, 0, 0})
	write(attachedAt+4, bytes.Repeat([]byte{0xff}, PageSize-attachedAt-4))
	if got, want := read(t, fd), (Counters{Attached: true, Open: 0, Accepts: MaxCount, Elsewhere: MaxCount, Requests: MaxCount, Refused: MaxCount, MovedIn: MaxCount, MovedOut: MaxCount}); got != want {
		t.Errorf("all ones: %+v, want %+v", got, want)
	}
	write(openAt, binary.LittleEndian.AppendUint64(nil, 1<<62))
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
	head[attachedAt] = 1
	f.Add(bytes.Clone(head))
	f.Add(append(bytes.Clone(head[:openAt]), bytes.Repeat([]byte{0xff}, pageUsed)...))
	f.Add(append(bytes.Clone(head[:openAt]), 0, 0, 0, 0, 0, 0, 0, 0x80))
	f.Add([]byte("FORKDPG2"))
	f.Fuzz(func(t *testing.T, written []byte) {
		page := make([]byte, PageSize)
		copy(page, written)
		if _, err := unix.Pwrite(fd, page, 0); err != nil {
			t.Fatal(err)
		}
		c := read(t, fd)
		if c.Open > MaxCount || c.Accepts > MaxCount || c.Elsewhere > MaxCount || c.Requests > MaxCount || c.Refused > MaxCount || !c.Attached && c != (Counters{}) {
			t.Errorf("%+v", c)
		}
	})
}
