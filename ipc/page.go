package ipc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// PageSize is the size of a page in bytes.
	PageSize = 4096

	// PageVersion is the version of its layout.
	PageVersion = 1

	// MaxCount limits every counter that is read, so that sums cannot overflow.
	MaxCount = 1 << 40

	pageMagic    = "FORKDPG1"
	pageLimit    = 320
	pageStopping = 328
	pageUsed     = 456 // bytes of it, from the beginning
)

// Page is the counters page, as Apache's scoreboard for one worker: PageSize bytes of
// memory that the worker and the master share, in the byte order of the machine
// (little endian on amd64 and arm64). Each counter has a cache line of its own.
//
//	offset  size  what                        written by
//	     0     8  magic "FORKDPG1"            the master
//	     8     4  version, 1                  the master
//	    12     4  attached: 1                 the worker, when it begins to count
//	    16     4  passed: 1                   the worker, before that, if it counts elsewhere
//	    64     8  admitted - closed, signed   the worker
//	   128     8  accepts, unsigned           the worker
//	   136     8  elsewhere, unsigned         the worker
//	   192     8  requests, unsigned          the worker
//	   256     8  refused, unsigned           the worker
//	   320     8  limit of open, unsigned     the master, when it has changed
//	   328     4  stopping: 1                 the master, before it asks for a drain because the app stops
//	   384     8  moved in, unsigned          the worker
//	   448     8  moved out, unsigned         the worker
//
// The rest is zero. The worker adds with atomic instructions. Accepts are all accepted
// connections. Elsewhere are those among them of other sockets than the worker was passed, as
// its own metrics port: they are added before the accepts. A worker that was passed none
// can't tell, and neither can one of an older release. Refused are those accepts that were
// over the limit; the others are admitted. Moved connections were taken over from another worker (in) or handed to one
// (out). Open connections are admitted - closed + moved in - moved out: so a connection
// moves by one addition in each page. The limit is zero as long as EnvMaxConnections holds; the
// master sets another when the number of slots changes.
//
// The methods are the worker's. They are safe for concurrent use and neither lock nor
// make a system call.
type Page struct {
	magic     [8]byte
	version   uint32
	attached  atomic.Uint32
	passed    atomic.Uint32
	_         [44]byte
	held      atomic.Int64
	_         [56]byte
	accepts   atomic.Uint64
	elsewhere atomic.Uint64
	_         [48]byte
	requests  atomic.Uint64
	_         [56]byte
	refused   atomic.Uint64
	_         [56]byte
	limit     atomic.Uint64
	stopping  atomic.Uint32
	_         [52]byte
	movedIn   atomic.Uint64
	_         [56]byte
	movedOut  atomic.Uint64
	_         [PageSize - pageUsed]byte
}

// bytes returns the memory of p.
func (p *Page) bytes() []byte { return (*[PageSize]byte)(unsafe.Pointer(p))[:] }

// NewPage makes the page of one worker: a memfd of PageSize, close-on-exec, sealed so
// that nobody can resize it or add seals (F_SEAL_SHRINK, GROW and SEAL, fcntl(2)). The
// caller owns the descriptor.
func NewPage() (fd int, err error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err = unix.MemfdCreate("forkd-page", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("forkd-page", flags)
	}
	if err == nil {
		if err = preparePage(fd); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("cannot make counters page: %w", err)
	}
	return fd, nil
}

func preparePage(fd int) error {
	p := Page{version: PageVersion}
	copy(p.magic[:], pageMagic)
	n, err := unix.Pwrite(fd, p.bytes(), 0)
	if err == nil && n != PageSize {
		err = io.ErrShortWrite
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	return err
}

// OpenPage maps the page behind fd for the rest of the process's life. The worker may
// close fd afterwards. It counts only after Attach.
func OpenPage(fd int) (*Page, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && st.Size != PageSize { // touching a mapping beyond the end of its file is a fatal SIGBUS
		err = fmt.Errorf("it has %d bytes, want %d", st.Size, PageSize)
	}
	var mem []byte
	if err == nil {
		mem, err = unix.Mmap(fd, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open counters page: %w", err)
	}
	p := (*Page)(unsafe.Pointer(unsafe.SliceData(mem)))
	if string(p.magic[:]) != pageMagic || p.version != PageVersion {
		_ = unix.Munmap(mem)
		return nil, errors.New("cannot open counters page: it is of another version")
	}
	return p, nil
}

// Attach says that the worker counts, and whether it was passed sockets, so that it knows
// which accepts are elsewhere. Until then its counters are unknown.
func (p *Page) Attach(passed bool) {
	if passed {
		p.passed.Store(1)
	}
	p.attached.Store(1)
}

// Opened counts an accepted connection.
func (p *Page) Opened() {
	p.accepts.Add(1)
	p.held.Add(1)
}

// open is how many connections are open.
func (p *Page) open() int64 {
	return p.held.Load() + int64(p.movedIn.Load()-p.movedOut.Load())
}

// Admit counts an accepted connection. If limit connections are open already it counts
// as refused, Admit returns false, and Closed must not follow.
func (p *Page) Admit(limit int64) bool {
	p.accepts.Add(1)
	for n := p.held.Load(); p.open() < limit; n = p.held.Load() {
		if p.held.CompareAndSwap(n, n+1) {
			return true
		}
	}
	p.refused.Add(1)
	return false
}

// Expel makes an open connection a refused one if more than limit are open. Then it
// returns true, and Closed must not follow.
func (p *Page) Expel(limit int64) bool {
	for n := p.held.Load(); p.open() > limit; n = p.held.Load() {
		if p.held.CompareAndSwap(n, n-1) {
			p.refused.Add(1)
			return true
		}
	}
	return false
}

// Elsewhere counts an accepted connection of another socket than the worker was passed. It
// comes before Opened or Admit.
func (p *Page) Elsewhere() { p.elsewhere.Add(1) }

// Closed counts the end of an open connection.
func (p *Page) Closed() { p.held.Add(-1) }

// TookOver counts a connection that another worker has handed over, GaveBack one that the
// other has kept after all, and HandedOver one that another worker has taken.
func (p *Page) TookOver() { p.movedIn.Add(1) }

// GaveBack is described at TookOver.
func (p *Page) GaveBack() { p.movedIn.Add(^uint64(0)) }

// HandedOver is described at TookOver.
func (p *Page) HandedOver() { p.movedOut.Add(1) }

// Request counts a request.
func (p *Page) Request() { p.requests.Add(1) }

// Limit is how many connections the worker may have open; 0: as many as
// EnvMaxConnections says.
func (p *Page) Limit() int64 { return int64(min(p.limit.Load(), MaxCount)) }

// SetLimit sets the Limit of the page behind fd, for the master. A worker that has more
// connections keeps them.
func SetLimit(fd int, connections int64) error {
	_, err := unix.Pwrite(fd, binary.NativeEndian.AppendUint64(nil, uint64(max(0, connections))), pageLimit)
	if err != nil {
		return fmt.Errorf("cannot write to counters page: %w", err)
	}
	return nil
}

// SetStopping writes to the page behind fd that the app stops, for the master.
func SetStopping(fd int) error {
	if _, err := unix.Pwrite(fd, binary.NativeEndian.AppendUint32(nil, 1), pageStopping); err != nil {
		return fmt.Errorf("cannot write to counters page: %w", err)
	}
	return nil
}

// Counters is what a page held at one time.
type Counters struct {
	Attached  bool   // false: the worker does not count, and the rest is unknown
	Open      uint64 // connections open now
	Accepts   uint64 // connections accepted since the worker started
	Passed    bool   // it was passed sockets, and counts Elsewhere
	Elsewhere uint64 // those of Accepts of other sockets
	Requests  uint64 // requests since the worker started
	Refused   uint64 // those of Accepts that were over the limit
	MovedIn   uint64 // connections taken over from other workers
	MovedOut  uint64 // connections handed to other workers
}

// Own is how many connections the worker has accepted of the app's sockets, as far as it knows.
func (c Counters) Own() uint64 { return c.Accepts - min(c.Elsewhere, c.Accepts) }

// Counters reads a page from within the worker.
func (p *Page) Counters() Counters {
	return Counters{
		Attached:  p.attached.Load() == 1,
		Open:      uint64(max(0, min(p.open(), MaxCount))),
		Accepts:   min(p.accepts.Load(), MaxCount),
		Passed:    p.passed.Load() == 1,
		Elsewhere: min(p.elsewhere.Load(), MaxCount),
		Requests:  min(p.requests.Load(), MaxCount),
		Refused:   min(p.refused.Load(), MaxCount),
		MovedIn:   min(p.movedIn.Load(), MaxCount),
		MovedOut:  min(p.movedOut.Load(), MaxCount),
	}
}

// ReadPage reads the page behind fd by pread(2), for the master: the result is an error
// or within bounds, whatever a worker has written.
func ReadPage(fd int) (Counters, error) {
	var p Page
	n, err := unix.Pread(fd, p.bytes()[:pageUsed], 0)
	if err != nil {
		return Counters{}, fmt.Errorf("cannot read counters page: %w", err)
	}
	if n != pageUsed {
		return Counters{}, fmt.Errorf("cannot read counters page: got %d bytes, want %d", n, pageUsed)
	}
	if c := p.Counters(); c.Attached && string(p.magic[:]) == pageMagic {
		return c, nil
	}
	return Counters{}, nil
}
