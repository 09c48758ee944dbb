package serve

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"net/textproto"
	"strings"
	"time"
)

//nolint:gochecknoglobals // variables for tests, where a client may be slow because the machine is
var (
	// RequestTimeout is for the TLS handshake and the head of the request.
	RequestTimeout = 2 * time.Second

	// LingerTimeout is for writing the answer and then for the client's close. If the
	// connection is closed with a request unread, the kernel sends a reset, which may
	// overtake the answer.
	LingerTimeout = 500 * time.Millisecond
)

// maxHead is how much of a request is read. A longer one gets a 503.
const maxHead = 8 << 10

const (
	unavailable = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
	upgraded    = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
	reason      = "try again later"
	tryLater    = 1013
)

// refuse answers a connection over the limit: 503 with Retry-After, close code 1013
// for a WebSocket (RFC 6455 and IANA's registry: "try again later"), GOAWAY in HTTP/2.
// With a config it speaks TLS. It takes a bounded time and memory, whatever the client
// does. The caller closes nc.
//
// A client that sends nothing gets no answer: it would take it for the response to
// its next request.
func refuse(nc net.Conn, config *tls.Config) {
	if config != nil {
		nc = tls.Server(nc, config)
	}
	_ = nc.SetDeadline(time.Now().Add(RequestTimeout))
	head := readHead(nc)
	if len(head) == 0 {
		return
	}
	_ = nc.SetDeadline(time.Now().Add(LingerTimeout))
	if _, err := nc.Write(answer(head)); err != nil {
		return
	}
	if half, ok := nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, nc)
	}
}

// refusalConfig is the part of a server's configuration that refuse needs. HTTP/1.1
// is preferred, and clients need no certificate. It is no Clone: servers change some
// fields while they start.
func refusalConfig(c *tls.Config) *tls.Config {
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

// readHead returns the head of a request, or the part of it that came in time and
// fits.
func readHead(nc net.Conn) []byte {
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
	if key := websocketKey(head); key != "" {
		return websocketClose(key)
	}
	return []byte(unavailable)
}

// goAway is an empty SETTINGS frame, which must come first, and a GOAWAY for no
// stream: ENHANCE_YOUR_CALM (RFC 9113, sections 6.8 and 7).
func goAway() []byte {
	const settings, goaway, calm = 4, 7, 0xb
	b := []byte{0, 0, 0, settings, 0, 0, 0, 0, 0}
	b = append(b, 0, 0, byte(8+len(reason)), goaway, 0, 0, 0, 0, 0)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, calm)
	return append(b, reason...)
}

// websocketKey returns the key of a WebSocket's opening handshake (RFC 6455, section
// 4.2.1), "" if head is none.
func websocketKey(head []byte) string {
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(head)))
	line, _ := r.ReadLine()
	h, badHeader := r.ReadMIMEHeader()
	key := strings.TrimSpace(h.Get("Sec-WebSocket-Key"))
	nonce, badKey := base64.StdEncoding.DecodeString(key)
	if badHeader != nil || badKey != nil || len(nonce) != 16 || !strings.HasPrefix(line, "GET ") || !strings.HasSuffix(line, " HTTP/1.1") ||
		!has(h["Upgrade"], "websocket") || !has(h["Connection"], "upgrade") || strings.TrimSpace(h.Get("Sec-WebSocket-Version")) != "13" {
		return ""
	}
	return key
}

// has reports whether a word is in comma-separated lists, in upper or lower case.
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

// websocketClose is the answer to a handshake and a close frame (RFC 6455, sections
// 4.2.2 and 5.5.1).
func websocketClose(key string) []byte {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	b := []byte(upgraded + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n")
	b = append(b, 0x88, byte(2+len(reason)))
	b = binary.BigEndian.AppendUint16(b, tryLater)
	return append(b, reason...)
}
