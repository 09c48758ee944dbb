package ipc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The page is PageSize bytes of shared memory, little endian, each counter alone
// on a cache line so that cores which add to different ones do not disturb each
// other:
//
//	offset  size  what                        written by
//	     0     8  magic "FORKDPG1"            the master
//	     8     4  version, 1                  the master
//	    12     4  attached: 1                 the worker, when it begins to count
//	    64     8  open connections, signed    the worker
//	   128     8  accepts, unsigned           the worker
//	   192     8  requests, unsigned          the worker
//	   256     8  refused, unsigned           the worker
//	   320     8  limit of open, unsigned     the master, where it has changed
//
// The rest is zero. The worker adds with atomic instructions; the master reads.
// Accepts are all connections that the worker has taken from its sockets; refused
// are those of them that it has turned away because it had as many as it may
// have (EnvMaxConnections), and they are not among the open ones. A worker that
// knows of no refused leaves it zero, as all did at first. The limit is zero as
// long as EnvMaxConnections holds; the master sets another when the number of
// slots changes.
const (
	PageSize    = 4096
	PageVersion = 1

	pageMagic   = "FORKDPG1"
	offVersion  = 8
	offAttached = 12
	offOpen     = 64
	offAccepts  = 128
	offRequests = 192
	offRefused  = 256
	offLimit    = 320
	pageUsed    = offLimit // by the worker

	// MaxCount is what a counter is cut to when it is read: no worker gets
	// there, and sums of it stay far from overflow.
	MaxCount = 1 << 40
)

// Page is the worker's side. Its methods are for any number of goroutines, take
// no lock and make no system call.
type Page struct {
	magic    [8]byte
	version  uint32
	attached atomic.Uint32
	_        [offOpen - offAttached - 4]byte
	open     atomic.Int64
	_        [offAccepts - offOpen - 8]byte
	accepts  atomic.Uint64
	_        [offRequests - offAccepts - 8]byte
	requests atomic.Uint64
	_        [offRefused - offRequests - 8]byte
	refused  atomic.Uint64
	_        [offLimit - offRefused - 8]byte
	limit    atomic.Uint64
	_        [PageSize - offLimit - 8]byte
}

// NewPage makes the page of one worker: a memfd of PageSize, close-on-exec,
// sealed so that nobody can resize it or add seals (F_SEAL_SHRINK, GROW and
// SEAL, fcntl(2)). The master calls it for each worker it starts, passes the
// descriptor on and owns it: it closes it when the worker is gone.
func NewPage() (fd int, err error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err = unix.MemfdCreate("forkd-page", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("forkd-page", flags)
	}
	if err != nil {
		return -1, fmt.Errorf("cannot make page of counters: %w", err)
	}
	if err := preparePage(fd); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot make page of counters: %w", err)
	}
	return fd, nil
}

func preparePage(fd int) error {
	head := make([]byte, PageSize)
	copy(head, pageMagic)
	binary.LittleEndian.PutUint32(head[offVersion:], PageVersion)
	if n, err := unix.Pwrite(fd, head, 0); err != nil {
		return err
	} else if n != len(head) {
		return errors.New("short write")
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	return err
}

// OpenPage maps the page behind fd for the rest of the process's life. The
// worker calls it once; it may close fd afterwards. It counts only once Attach
// was called.
func OpenPage(fd int) (*Page, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("cannot open page of counters: %w", err)
	}
	// Touching a mapping beyond the end of its file is a fatal SIGBUS.
	if st.Size != PageSize {
		return nil, fmt.Errorf("cannot open page of counters: it has %d bytes, want %d", st.Size, PageSize)
	}
	mem, err := unix.Mmap(fd, 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot open page of counters: %w", err)
	}
	p := (*Page)(unsafe.Pointer(unsafe.SliceData(mem)))
	if string(p.magic[:]) != pageMagic || p.version != PageVersion {
		_ = unix.Munmap(mem)
		return nil, errors.New("cannot open page of counters: it is of another version")
	}
	return p, nil
}

// Attach says that somebody counts. Until then the master takes the figures for
// unknown.
func (p *Page) Attach() { p.attached.Store(1) }

// Opened counts an accepted connection.
func (p *Page) Opened() {
	p.accepts.Add(1)
	p.open.Add(1)
}

// Admit is Opened, unless limit connections are open already: then the
// connection counts as refused, Admit returns false, and Closed must not follow.
func (p *Page) Admit(limit int64) bool {
	p.accepts.Add(1)
	for n := p.open.Load(); n < limit; n = p.open.Load() {
		if p.open.CompareAndSwap(n, n+1) {
			return true
		}
	}
	p.refused.Add(1)
	return false
}

// Expel takes back that a connection was Opened, where more than limit are open
// with it: then the connection counts as refused, Expel returns true, and Closed
// must not follow.
func (p *Page) Expel(limit int64) bool {
	for n := p.open.Load(); n > limit; n = p.open.Load() {
		if p.open.CompareAndSwap(n, n-1) {
			p.refused.Add(1)
			return true
		}
	}
	return false
}

// Closed counts the end of a connection that was counted by Opened or Admit.
func (p *Page) Closed() { p.open.Add(-1) }

// Request counts a request.
func (p *Page) Request() { p.requests.Add(1) }

// Limit is how many connections the worker may have open, where the master has
// set another number than EnvMaxConnections; 0 where it has not.
func (p *Page) Limit() int64 { return int64(min(p.limit.Load(), MaxCount)) }

// SetLimit sets the Limit of the page behind fd. The master calls it when the
// worker's share has changed; a worker that has more connections keeps them.
func SetLimit(fd int, connections int64) error {
	_, err := unix.Pwrite(fd, binary.LittleEndian.AppendUint64(nil, uint64(max(0, connections))), offLimit)
	if err != nil {
		return fmt.Errorf("cannot write to page of counters: %w", err)
	}
	return nil
}

// Counters is what a page held at one time.
type Counters struct {
	Attached bool   // false: nobody counts, and the rest is not known
	Open     uint64 // connections open now
	Accepts  uint64 // connections accepted since the worker started
	Requests uint64 // requests since the worker started
	Refused  uint64 // of Accepts, those turned away
}

// Counters reads a page from within the worker.
func (p *Page) Counters() Counters {
	return Counters{
		Attached: p.attached.Load() == 1,
		Open:     signed(p.open.Load()),
		Accepts:  min(p.accepts.Load(), MaxCount),
		Requests: min(p.requests.Load(), MaxCount),
		Refused:  min(p.refused.Load(), MaxCount),
	}
}

// ReadPage reads the page behind fd by pread(2), as the master does: whatever a
// worker does to a page that it may write to, this returns figures within
// bounds or an error.
func ReadPage(fd int) (Counters, error) {
	var buf [pageUsed]byte
	n, err := unix.Pread(fd, buf[:], 0)
	if err != nil {
		return Counters{}, fmt.Errorf("cannot read page of counters: %w", err)
	}
	if n != len(buf) {
		return Counters{}, fmt.Errorf("cannot read page of counters: got %d bytes, want %d", n, len(buf))
	}
	le := binary.LittleEndian
	if string(buf[:len(pageMagic)]) != pageMagic || le.Uint32(buf[offAttached:]) != 1 {
		return Counters{}, nil
	}
	return Counters{
		Attached: true,
		Open:     signed(int64(le.Uint64(buf[offOpen:]))),
		Accepts:  min(le.Uint64(buf[offAccepts:]), MaxCount),
		Requests: min(le.Uint64(buf[offRequests:]), MaxCount),
		Refused:  min(le.Uint64(buf[offRefused:]), MaxCount),
	}, nil
}

// signed is a signed count as it is reported: a negative one is 0.
func signed(n int64) uint64 { return uint64(max(0, min(n, MaxCount))) }
