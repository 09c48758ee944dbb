package fleet

import (
	"bytes"
	"io"
	"net"
)

// deaf passes everything on to Redis and loses what it answers to a script.
func deaf(conn net.Conn) (net.Conn, error) {
	return &losing{Conn: conn}, nil
}

type losing struct {
	net.Conn

	script bool // one was sent
}

func (l *losing) Write(b []byte) (int, error) {
	l.script = l.script || bytes.Contains(bytes.ToLower(b), []byte("eval"))
	return l.Conn.Write(b)
}

func (l *losing) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if l.script && !bytes.HasPrefix(b[:n], []byte("-NOSCRIPT")) {
		_ = l.Close()
		return 0, io.EOF
	}
	return n, err
}
