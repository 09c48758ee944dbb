// Package refusal answers HTTP connections that are more than a worker may have:
// 503 with Retry-After, close code 1013 for a WebSocket (RFC 6455, IANA's registry
// of close codes: "try again later"), GOAWAY in HTTP/2.
//
// It keeps one invariant: whatever the client does, an answer takes a bounded
// time and memory. It must not call the program's handler, or import a server.
package refusal

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// Variables only for tests, where a client may be slow because the machine is.
//
//nolint:gochecknoglobals // see above
var (
	// AskTime is how long a client may take to say what it wants, with the TLS
	// handshake before that.
	AskTime = 2 * time.Second

	// LingerTime is for writing the answer and then for the client's close.
	// Closed with a request unread, the kernel would send a reset, which may
	// overtake the answer.
	LingerTime = 500 * time.Millisecond
)

// maxHead is how much of a request is looked at. One that is longer gets a 503,
// whatever it is.
const maxHead = 8 << 10

const (
	unavailable = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
	upgraded    = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
	reason      = "try again later"
	tryLater    = 1013
)

// Answer refuses what the client of nc asks for, and returns when the client has
// gone or its time is over. The caller closes nc. With a config the client speaks
// TLS, which nc does not yet.
//
// A client that says nothing gets no answer: one that nobody has asked for would
// be taken for that to its next request.
func Answer(nc net.Conn, config *tls.Config) {
	if config != nil {
		nc = tls.Server(nc, config)
	}
	_ = nc.SetDeadline(time.Now().Add(AskTime))
	head := read(nc)
	if len(head) == 0 {
		return
	}
	_ = nc.SetDeadline(time.Now().Add(LingerTime))
	if _, err := nc.Write(answer(head)); err != nil {
		return
	}
	if half, ok := nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, nc)
	}
}

// TLS is what is needed of a server's configuration to refuse. HTTP/1.1 comes
// first, for it can say more; clients' certificates are not asked for. The fields
// are copied one by one: servers change others while they start.
func TLS(c *tls.Config) *tls.Config {
	return &tls.Config{
		Rand:                        c.Rand,
		Time:                        c.Time,
		Certificates:                c.Certificates,
		GetCertificate:              c.GetCertificate,
		GetConfigForClient:          c.GetConfigForClient,
		CipherSuites:                c.CipherSuites,
		MinVersion:                  c.MinVersion,
		MaxVersion:                  c.MaxVersion,
		CurvePreferences:            c.CurvePreferences,
		EncryptedClientHelloKeys:    c.EncryptedClientHelloKeys,
		GetEncryptedClientHelloKeys: c.GetEncryptedClientHelloKeys,
		KeyLogWriter:                c.KeyLogWriter,
		NextProtos:                  []string{"http/1.1", "h2"},
		SessionTicketsDisabled:      true, // the server's own listener could not read them
	}
}

// read returns the head of the client's request, or what has come of it when its
// time or the room for it is over.
func read(nc net.Conn) []byte {
	head := make([]byte, 0, maxHead)
	for len(head) < cap(head) {
		n, err := nc.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if err != nil || bytes.Contains(head, []byte("\r\n\r\n")) {
			break
		}
	}
	return head
}

func answer(head []byte) []byte {
	if bytes.HasPrefix(head, []byte("PRI * HTTP/2.0\r\n")) {
		return goAway()
	}
	if key, err := handshake(head); err == nil {
		return closed(key)
	}
	return []byte(unavailable)
}

// goAway is an empty SETTINGS frame, as a server must begin, and a GOAWAY that
// has not seen any stream: ENHANCE_YOUR_CALM (RFC 9113, sections 6.8 and 7).
func goAway() []byte {
	const settings, goaway, calm = 4, 7, 0xb
	b := []byte{0, 0, 0, settings, 0, 0, 0, 0, 0}
	b = append(b, 0, 0, byte(8+len(reason)), goaway, 0, 0, 0, 0, 0)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, calm)
	return append(b, reason...)
}

// handshake returns the key of a WebSocket's opening handshake, or an error where
// head is none (RFC 6455, section 4.2.1).
func handshake(head []byte) (key string, err error) {
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(head)))
	line, err := r.ReadLine()
	if err != nil {
		return "", err
	}
	h, err := r.ReadMIMEHeader()
	if err != nil {
		return "", err
	}
	key = strings.TrimSpace(h.Get("Sec-WebSocket-Key"))
	nonce, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(nonce) != 16 || !strings.HasPrefix(line, "GET ") || !strings.HasSuffix(line, " HTTP/1.1") ||
		!has(h["Upgrade"], "websocket") || !has(h["Connection"], "upgrade") || strings.TrimSpace(h.Get("Sec-WebSocket-Version")) != "13" {
		return "", errors.New("not the handshake of a WebSocket")
	}
	return key, nil
}

// has reports whether a word is in lists of them, in upper or lower case.
func has(lists []string, word string) bool {
	for _, list := range lists {
		for one := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(one), word) {
				return true
			}
		}
	}
	return false
}

// closed is the answer to a handshake and a close frame (RFC 6455, sections
// 4.2.2 and 5.5.1).
func closed(key string) []byte {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	b := []byte(upgraded + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n")
	b = append(b, 0x88, byte(2+len(reason)))
	b = binary.BigEndian.AppendUint16(b, tryLater)
	return append(b, reason...)
}
