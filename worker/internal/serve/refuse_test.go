package serve

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const websocket = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

func kind(head string) string {
	switch b := answer([]byte(head)); {
	case string(b) == unavailable:
		return "503"
	case bytes.HasPrefix(b, []byte(upgraded)):
		return "1013"
	case bytes.Equal(b, goAway()):
		return "GOAWAY"
	default:
		return string(b)
	}
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string][2]string{
		"a request":        {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "503"},
		"a WebSocket":      {websocket, "1013"},
		"several lines":    {strings.Replace(websocket, "Connection: ", "Connection: keep-alive\r\nconnection: ", 1), "1013"},
		"no key":           {strings.Replace(websocket, "-Key", "-Kex", 1), "503"},
		"a short key":      {strings.Replace(websocket, "dGhl", "", 1), "503"},
		"another version":  {strings.Replace(websocket, ": 13", ": 8", 1), "503"},
		"another protocol": {strings.Replace(websocket, ": websocket", ": h2c", 1), "503"},
		"POST":             {strings.Replace(websocket, "GET", "POST", 1), "503"},
		"HTTP/1.0":         {strings.Replace(websocket, "1.1", "1.0", 1), "503"},
		"cut off":          {websocket[:60], "503"},
		"HTTP/2":           {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GOAWAY"},
		"nonsense":         {"\x00\xff\r\n\r\n", "503"},
	} {
		if got := kind(c[0]); got != c[1] {
			t.Errorf("%s: %s, want %s", name, got, c[1])
		}
	}
}

// The frames of a goodbye in HTTP/2, to the byte.
func TestGoAway(t *testing.T) {
	const want = "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x17\x07\x00\x00\x00\x00\x00" +
		"\x00\x00\x00\x00" + "\x00\x00\x00\x0b" + "try again later"
	if got := string(goAway()); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// However slowly a client speaks or reads, it has its time and no more.
func TestBounded(t *testing.T) {
	for name, client := range map[string]func(c net.Conn){
		"silent":    func(net.Conn) {},
		"one byte":  func(c net.Conn) { _, _ = io.WriteString(c, "G") },
		"asks":      func(c net.Conn) { _, _ = io.WriteString(c, websocket) }, // and reads nothing
		"drips":     func(c net.Conn) { drip(c, time.Second/3) },
		"never end": func(c net.Conn) { drip(c, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				began := time.Now()
				go client(theirs)
				refuse(ours, nil)
				if took := time.Since(began); took > RequestTimeout+LingerTimeout {
					t.Errorf("took %v", took)
				}
				ours.Close()
				theirs.Close()
			})
		})
	}
}

func drip(c net.Conn, pause time.Duration) {
	for {
		if _, err := io.WriteString(c, "x"); err != nil {
			return
		}
		if pause > 0 {
			time.Sleep(pause) // of the bubble's clock
		}
	}
}

// Whatever is asked, the answer is one of three, and a WebSocket's accept value
// holds nothing but base64.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(websocket))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\nUpgrade: websocket,\r\n websocket\r\nConnection:upgrade\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x02\x00"))
	f.Fuzz(func(t *testing.T, head []byte) {
		b := answer(head)
		if string(b) == unavailable || bytes.Equal(b, goAway()) {
			return
		}
		lines, frame, _ := strings.Cut(strings.TrimPrefix(string(b), upgraded), "\r\n\r\n")
		if len(lines) != 28 || strings.ContainsAny(lines, "\r\n: ") || !strings.HasPrefix(frame, "\x88") || len(frame) != 2+2+len(reason) {
			t.Errorf("%q is answered %q", head, b)
		}
	})
}
