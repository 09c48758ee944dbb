package fasthttpserve_test

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker/fasthttpserve"
	"github.com/forkd/forkd/worker/internal/servetest"
)

// What a worker costs per request of a keep-alive connection: compare the two.
// The processor time (the client's is within) depends less than the wall clock's
// on what else the machine does.
func BenchmarkServe(b *testing.B) {
	ok := func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("ok") }
	b.Run("plain", func(b *testing.B) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer ln.Close()
		go func() { _ = (&fasthttp.Server{Handler: ok}).Serve(ln) }()
		load(b, ln.Addr().String())
	})
	b.Run("worker", func(b *testing.B) {
		m := servetest.NewMaster(b)
		w := m.Worker()
		ln, err := w.Listen("http", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer ln.Close()
		go func() { _ = fasthttpserve.Serve(w, &fasthttp.Server{Handler: ok}, ln) }()
		m.Expect(ipc.Ready{})
		load(b, ln.Addr().String())
	})
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

func load(b *testing.B, addr string) {
	before := cpu(b)
	defer func() { b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op") }()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		in := bufio.NewReader(c)
		res := fasthttp.AcquireResponse()
		for pb.Next() {
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				b.Error(err)
				return
			}
			if err := res.Read(in); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
