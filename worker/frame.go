package worker

import (
	"bytes"
	"net"
)

// frame follows the requests of HTTP/1.1 in what a server reads, as far as must be known
// to tell whether a part of the next one has been read when the server is done with one.
// One goroutine at a time uses it: the one that reads.
//
// A server that waits for a request reads on only if what it has read and not used is no
// whole head. So if the last bytes end a head, or a chunked body, nothing is left but
// perhaps an empty line (RFC 9112, section 2.2). With a length of the body the bytes
// after the head are counted.
type frame struct {
	ends bool   // the last bytes were CRLF CRLF
	part bool   // the head has not ended
	last []byte // the end of it, at most three bytes
	body int64  // bytes after the head; -1: not counted
	want int64  // length of the body
}

var endOfHead = []byte("\r\n\r\n") //nolint:gochecknoglobals // a constant

// read notes what was read; first: it begins a request.
func (f *frame) read(p []byte, first bool) {
	f.ends = bytes.HasSuffix(p, endOfHead)
	if first {
		f.part, f.last, f.body, f.want = p[0] != 'G' && p[0] != 'H', nil, -1, 0 // GET and HEAD have no body
	}
	switch {
	case f.part:
		head := p
		if len(f.last) > 0 {
			head = append(f.last, p...)
		}
		if i := bytes.Index(head, endOfHead); i >= 0 {
			f.part, f.last, f.body = false, nil, int64(len(head)-i-len(endOfHead))
		} else {
			f.last = bytes.Clone(head[max(0, len(head)-len(endOfHead)+1):])
		}
	case f.body >= 0:
		f.body += int64(len(p))
	}
}

// clean reports whether all that was read belongs to the request that has ended.
func (f *frame) clean() bool { return f.ends || f.want > 0 && f.body == f.want }

// Body says how long the body of a request is, if that is known. Serve packages call it
// before the response.
func Body(nc net.Conn, length int64) {
	if c := tracked(nc); c != nil {
		c.frame.want = length
	}
}
