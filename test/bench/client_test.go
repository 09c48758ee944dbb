package main

import (
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// TestMain lets a test have a server in another process, to kill it.
func TestMain(m *testing.M) {
	if os.Getenv("FORKD_BENCH_TEST_SERVER") != "" {
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
		want  kind
	}{
		"cut":              {always("rst"), reset},
		"closed":           {always(""), eof},
		"half an answer":   {always(answer[:len(answer)-1]), timeout},
		"silence":          {always("wait"), timeout},
		"503":              {always("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), badStatus},
		"no HTTP":          {always("220 mail.example ESMTP\r\n\r\n"), malformed},
		"no length":        {always("HTTP/1.1 200 OK\r\n\r\n"), malformed},
		"more than asked":  {always(answer + answer), malformed},
		"too long a head":  {always("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 5000)), malformed},
		"closed when idle": {func(n int) string { return map[bool]string{true: answer, false: ""}[n == 0] }, eof},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient(listen(t, c.reply))
			client.timeout = time.Minute
			if c.want == timeout {
				client.timeout = 300 * time.Millisecond
			}
			defer client.close()
			var failed *failure
			asked := 0
			for ; failed == nil && asked < 2; asked++ {
				_, failed = client.ask(false)
			}
			if failed == nil {
				t.Fatal("the client saw no failure")
			}
			if failed.kind != c.want {
				t.Errorf("sorted as %v (%v), want %v", failed.kind, failed.err, c.want)
			}
			if failed.port == 0 || failed.opened.IsZero() || failed.at.Before(failed.opened) || failed.answered != asked-1 {
				t.Errorf("the failure does not name its connection: %+v after %d requests", failed, asked)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().(*net.TCPAddr)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	_, failed := newClient(address).ask(false)
	if failed == nil || failed.kind != refused || failed.port != 0 {
		t.Errorf("got %+v, want refused, and no port", failed)
	}
}

// A client that did not look at Connection: close would count a failure for
// every connection that a draining server gives back.
func TestConnectionCloseIsObeyed(t *testing.T) {
	last := strings.Replace(answer, "\r\n", "\r\nConnection: close\r\n", 1)
	address := listen(t, func(n int) string { return [...]string{answer, last, "rst"}[n] })
	client := newClient(address)
	defer client.close()
	for i := range 10 {
		if _, failed := client.ask(false); failed != nil {
			t.Fatalf("request %d: %v", i, failed.err)
		}
	}
}

func TestKilledServerIsNoticed(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FORKD_BENCH_TEST_SERVER=1")
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
	client := newClient(address)
	if body, failed := client.ask(false); failed != nil || string(body) != "ok" {
		t.Fatalf("got %q, %+v before the kill", body, failed)
	}
	port := client.port
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	_, first := client.ask(false)
	if first == nil || first.kind != eof && first.kind != reset || first.port != port || first.answered != 1 {
		t.Errorf("on the open connection: %+v", first)
	}
	_, second := client.ask(false)
	if second == nil || second.kind != refused {
		t.Errorf("on a new connection: %+v", second)
	}
}

func TestTallyInWords(t *testing.T) {
	got := count([]failure{{kind: reset}, {kind: eof}, {kind: reset}}).String()
	if got != "3 (reset 2, eof 1)" {
		t.Errorf("got %q", got)
	}
	if got := count(nil).String(); got != "0" {
		t.Errorf("got %q", got)
	}
}
