package capture

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxName is the size of the longest address (struct sockaddr_storage).
const maxName = 128

// Sizes of addresses: the shortest that bind(2) takes for AF_INET6 has no scope
// (RFC 2133).
const (
	sizeInet4  = unix.SizeofSockaddrInet4
	sizeInet6  = unix.SizeofSockaddrInet6
	leastInet6 = sizeInet6 - 4
)

// name is an address with a port, or a path.
type name struct {
	family  int
	address netip.AddrPort
	path    string // as the program has written it
}

// nameFrom reads the address at a pointer in a thread's memory. !ok: it is none that a
// Call has, or can't be read.
func nameFrom(tid int, pointer, size uint64) (at name, ok bool) {
	length := int32(size)
	if length < 2 || length > maxName {
		return name{}, false
	}
	var text [maxName]byte
	local := []unix.Iovec{{Base: &text[0], Len: uint64(length)}}
	remote := []unix.RemoteIovec{{Base: uintptr(pointer), Len: int(length)}}
	if n, err := unix.ProcessVMReadv(tid, local, remote, 0); err != nil || n != int(length) {
		return name{}, false
	}
	return parseName(text[:length])
}

func nameOf(socket int) (at name, ok bool) {
	var text [maxName]byte
	size := uint32(len(text))
	_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(socket), uintptr(unsafe.Pointer(&text[0])), uintptr(unsafe.Pointer(&size)))
	if errno != 0 || size > maxName {
		return name{}, false
	}
	return parseName(text[:size])
}

func parseName(text []byte) (at name, ok bool) {
	if len(text) < 2 {
		return name{}, false
	}
	at.family = int(binary.NativeEndian.Uint16(text))
	switch {
	case at.family == unix.AF_INET && len(text) >= sizeInet4:
		at.address = netip.AddrPortFrom(netip.AddrFrom4([4]byte(text[4:8])), port(text))
	case at.family == unix.AF_INET6 && len(text) >= leastInet6:
		addr := netip.AddrFrom16([16]byte(text[8:24]))
		if len(text) >= sizeInet6 && addr.IsLinkLocalUnicast() {
			if scope := binary.NativeEndian.Uint32(text[24:]); scope != 0 {
				addr = addr.WithZone(strconv.FormatUint(uint64(scope), 10))
			}
		}
		at.address = netip.AddrPortFrom(addr, port(text))
	case at.family == unix.AF_UNIX && len(text) <= unix.SizeofSockaddrUnix:
		path, _, _ := bytes.Cut(text[2:], []byte{0})
		at.path = string(path)
		return at, len(path) > 0
	}
	return at, at.address.Port() != 0
}

func port(text []byte) uint16 { return binary.BigEndian.Uint16(text[2:]) }
