package load

import (
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/test/ports"
)

const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// TestMain lets a test have a server in another process, to kill it.
func TestMain(m *testing.M) {
	if os.Getenv("FORKD_LOAD_TEST_SERVER") != "" {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			os.Exit(1)
		}
		_, _ = io.WriteString(os.Stdout, ln.Addr().String()+"\n")
		serve(ln, func(int) string { return answer })
		return
	}
	os.Exit(m.Run())
}

// serve answers every request with what reply says, given how many came before
// on the connection. "" closes the connection, "rst" cuts it, "wait" is silence.
func serve(ln net.Listener, reply func(n int) string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buffer := make([]byte, 1024)
			for n := 0; ; n++ {
				got, err := conn.Read(buffer)
				if err != nil {
					return
				}
				switch text := reply(n); text {
				case "":
					return
				case "rst":
					_ = conn.(*net.TCPConn).SetLinger(0)
					return
				case "wait":
				default:
					_, _ = io.WriteString(conn, text)
				}
				if string(buffer[:got]) == requestLast {
					return
				}
			}
		}()
	}
}

func listen(t *testing.T, reply func(n int) string) *net.TCPAddr {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go serve(ln, reply)
	return ln.Addr().(*net.TCPAddr)
}

func TestFailuresAreSorted(t *testing.T) {
	always := func(text string) func(int) string { return func(int) string { return text } }
	cases := map[string]struct {
		reply func(int) string
		want  Kind
	}{
		"cut":              {always("rst"), Reset},
		"closed":           {always(""), EOF},
		"half an answer":   {always(answer[:len(answer)-1]), Timeout},
		"silence":          {always("wait"), Timeout},
		"503":              {always("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), BadStatus},
		"no HTTP":          {always("220 mail.example ESMTP\r\n\r\n"), Malformed},
		"no length":        {always("HTTP/1.1 200 OK\r\n\r\n"), Malformed},
		"more than asked":  {always(answer + answer), Malformed},
		"too long a head":  {always("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 5000)), Malformed},
		"closed when idle": {func(n int) string { return map[bool]string{true: answer, false: ""}[n == 0] }, EOF},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := NewClient(listen(t, c.reply))
			client.Timeout = time.Minute
			if c.want == Timeout {
				client.Timeout = 300 * time.Millisecond
			}
			defer client.Close()
			var failed *Failure
			asked := 0
			for ; failed == nil && asked < 2; asked++ {
				_, failed = client.Ask(false)
			}
			if failed == nil {
				t.Fatal("the client saw no failure")
			}
			if failed.Kind != c.want {
				t.Errorf("sorted as %v (%v), want %v", failed.Kind, failed.Err, c.want)
			}
			if failed.Port == 0 || failed.Opened.IsZero() || failed.At.Before(failed.Opened) || failed.Answered != asked-1 {
				t.Errorf("the failure does not name its connection: %+v after %d requests", failed, asked)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	address := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ports.Free(t, 1)}
	_, failed := NewClient(address).Ask(false)
	if failed == nil || failed.Kind != Refused || failed.Port != 0 {
		t.Errorf("got %+v, want refused, and no port", failed)
	}
}

// A client that did not look at Connection: close would count a failure for
// every connection that a draining server gives back.
func TestConnectionCloseIsObeyed(t *testing.T) {
	last := strings.Replace(answer, "\r\n", "\r\nConnection: close\r\n", 1)
	address := listen(t, func(n int) string { return [...]string{answer, last, "rst"}[n] })
	client := NewClient(address)
	defer client.Close()
	for i := range 10 {
		if _, failed := client.Ask(false); failed != nil {
			t.Fatalf("request %d: %v", i, failed.Err)
		}
	}
}

// PHP's own server sends no length, python3 -m http.server speaks HTTP/1.0.
func TestBodyThatEndsWithItsConnection(t *testing.T) {
	for name, answer := range map[string]string{
		"no length":    "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok",
		"1.0":          "HTTP/1.0 200 OK\r\n\r\nok",
		"1.0 and kept": "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
	} {
		client := NewClient(listen(t, func(int) string { return answer }))
		for range 2 {
			if body, failed := client.Ask(true); failed != nil || string(body) != "ok" {
				t.Errorf("%s: got %q, %+v", name, body, failed)
			}
		}
	}
}

func TestKilledServerIsNoticed(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FORKD_LOAD_TEST_SERVER=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	address, err := net.ResolveTCPAddr("tcp4", strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	client := NewClient(address)
	if body, failed := client.Ask(false); failed != nil || string(body) != "ok" {
		t.Fatalf("got %q, %+v before the kill", body, failed)
	}
	port := client.port
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	_, first := client.Ask(false)
	if first == nil || first.Kind != EOF && first.Kind != Reset || first.Port != port || first.Answered != 1 {
		t.Errorf("on the open connection: %+v", first)
	}
	_, second := client.Ask(false)
	if second == nil || second.Kind != Refused {
		t.Errorf("on a new connection: %+v", second)
	}
}

func TestTallyInWords(t *testing.T) {
	got := Count([]Failure{{Kind: Reset}, {Kind: EOF}, {Kind: Reset}}).String()
	if got != "3 (reset 2, eof 1)" {
		t.Errorf("got %q", got)
	}
	if got := Count(nil).String(); got != "0" {
		t.Errorf("got %q", got)
	}
}
