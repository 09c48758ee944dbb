package fleet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/forkd/forkd/internal/closing/closingtest"
)

// piped is a connection that only has something to say.
type piped struct {
	net.Conn

	io.Reader
}

func (p piped) Read(b []byte) (int, error) { return p.Reader.Read(b) }

// inPieces is a text that comes byte by byte, or, where that took its time, in
// many reads.
func inPieces(text string) io.Reader {
	if len(text) > 100<<10 {
		return iotest.HalfReader(strings.NewReader(text))
	}
	return iotest.OneByteReader(strings.NewReader(text))
}

func TestGuardLetsAnswersThrough(t *testing.T) {
	nested := strings.Repeat("*1\r\n", maxArrays) + ":1\r\n"
	for name, text := range map[string]string{
		"strings":    "+OK\r\n-ERR no\r\n:42\r\n$5\r\na\r\nbc\r\n$-1\r\n$0\r\n\r\n",
		"arrays":     "*2\r\n$1\r\na\r\n*2\r\n:1\r\n*0\r\n*-1\r\n+x\r\n",
		"depth":      nested + nested,
		"RESP3":      "%1\r\n+a\r\n:1\r\n~1\r\n_\r\n|1\r\n+k\r\n+v\r\n$1\r\nx\r\n>2\r\n+m\r\n#t\r\n!3\r\nERR\r\n=5\r\ntxt:a\r\n,1.5\r\n(1\r\n%0\r\n",
		"a largest":  "$" + "1048576\r\n" + strings.Repeat("x", 1<<20) + "\r\n+OK\r\n",
		"many large": strings.Repeat("$700000\r\n"+strings.Repeat("x", 700000)+"\r\n", 20),
	} {
		for _, reader := range []io.Reader{strings.NewReader(text), inPieces(text)} {
			g := &guard{Conn: piped{Reader: reader}, replies: replies{limits: reporterLimits()}}
			got, err := io.ReadAll(g)
			if err != nil || string(got) != text {
				t.Errorf("%s: %d of %d bytes, %v", name, len(got), len(text), err)
			}
			if r := &g.replies; r.pending != 0 || r.length != 0 || r.skip != 0 {
				t.Errorf("%s: in the middle of an answer at its end: %+v", name, r)
			}
		}
	}
}

func TestGuardRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a web server":       "HTTP/1.1 400 Bad Request\r\n",
		"a mail server":      "220 mail\r\n",
		"TLS":                "\x15\x03\x01",
		"a lying string":     "$1048577\r\n",
		"a huge string":      "$9223372036854775807\r\n",
		"beyond numbers":     "$92233720368547758080\r\n",
		"negative":           "$-2\r\n",
		"no number":          "$x\r\n",
		"streamed":           "$?\r\n",
		"no length":          "*\r\n",
		"a long length":      "*" + strings.Repeat("0", 30) + "1\r\n",
		"a lying array":      "*65537\r\n",
		"a huge array":       "*9223372036854775807\r\n",
		"a huge map":         "%9223372036854775807\r\n",
		"a lying map":        "%65537\r\n",
		"arrays together":    "*40000\r\n*40000\r\n",
		"attributes forever": strings.Repeat("|1\r\n+a\r\n+b\r\n", 100000),
		"depth":              strings.Repeat("*1\r\n", maxArrays+1),
		"a line without end": "+" + strings.Repeat("x", maxLine+1),
		"a long error":       "-" + strings.Repeat("x", maxLine+1) + "\r\n",
		"a long answer":      "*17\r\n" + strings.Repeat("$1000000\r\n"+strings.Repeat("x", 1000000)+"\r\n", 17),
		"after an answer":    "+OK\r\nHTTP/1.1",
	} {
		for _, reader := range []io.Reader{strings.NewReader(text), inPieces(text)} {
			g := guarded(context.Background(), piped{Reader: reader}, reporterLimits())
			if _, err := io.ReadAll(g); err == nil {
				t.Errorf("%s: no error", name)
			}
			if _, err := g.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("%s: another read after the error: %v", name, err)
			}
		}
	}
	_, err := io.ReadAll(guarded(context.Background(), piped{Reader: strings.NewReader("HTTP/1.1 400 Bad Request\r\n")}, reporterLimits()))
	if !errors.Is(err, errNotRedis) {
		t.Error(err)
	}
}

// FuzzGuard: however a stream is cut, the verdict is the same, what is kept stays
// small, and no announcement beyond the limits gets through.
func FuzzGuard(f *testing.F) {
	for _, seed := range []string{
		"+OK\r\n", "-ERR\r\n", ":1\r\n", "$3\r\nabc\r\n", "$-1\r\n", "*2\r\n:1\r\n*1\r\n+a\r\n", "*-1\r\n", "%1\r\n+a\r\n+b\r\n", "|1\r\n+a\r\n+b\r\n:1\r\n",
		"$1048577\r\n", "*65537\r\n", "HTTP/1.1 400\r\n", ">1\r\n+a\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n_\r\n",
	} {
		f.Add([]byte(seed), 1)
	}
	small := limits{bulk: 100, elements: 20}
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		whole, pieces := replies{limits: small}, replies{limits: small}
		want := whole.feed(b)
		cut = max(1, cut%17)
		var got error
		for piece := range chunks(b, cut) {
			if got = pieces.feed(piece); got != nil {
				break
			}
		}
		if (want == nil) != (got == nil) {
			t.Fatalf("whole: %v, in pieces of %d: %v", want, cut, got)
		}
		if whole.pending > 3*small.elements || whole.skip > small.bulk+2 || whole.elements > small.elements {
			t.Fatalf("%+v", whole)
		}
		if want == nil && bytes.HasPrefix(b, []byte("HTTP")) {
			t.Fatal("a web server is taken for Redis")
		}
	})
}

func chunks(b []byte, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			n := min(size, len(b))
			if !yield(b[:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// A Redis behind a unix socket can send descriptors along, which hold a close(2)
// or a read(2) up.
func TestGuardIsNotHeld(t *testing.T) {
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: t.TempDir() + "/redis"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := ln.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	file, err := server.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	silent := closingtest.Silent(t)
	for range 2 {
		if err := closingtest.Send(int(file.Fd()), 1, "+OK\r\n", silent); err != nil {
			t.Fatal(err)
		}
	}
	g := guarded(t.Context(), conn, reporterLimits())
	closingtest.Returns(t, "Read", func() {
		text := make([]byte, 5)
		if n, err := g.Read(text); err != nil || string(text[:n]) != "+OK\r\n" {
			t.Errorf("read %q, %v", text[:n], err)
		}
	})
	closingtest.Returns(t, "Close", func() { g.Close() })
}
