package fleetserve

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/advise"
)

// BenchmarkViewers is what the server costs with 1,000 hosts of 8 workers that all
// change, an update every two seconds, and 100 viewers in another process: percent of a
// core of this process, over ten updates, and how much of it is there without viewers.
func BenchmarkViewers(b *testing.B) {
	const viewers, updates = 100, 10
	source := newSynthetic(1000, 8)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, ln, config(source)) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}()
	for b.Loop() {
		alone := busy(b, updates)
		reader := exec.Command(os.Args[0], "-test.run=^TestReadAsViewers$")
		reader.Env = append(os.Environ(), "FORKD_VIEW="+ln.Addr().String(), "FORKD_VIEWERS="+strconv.Itoa(viewers))
		reader.Stderr = os.Stderr
		in, err := reader.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		out, err := reader.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := reader.Start(); err != nil {
			b.Fatal(err)
		}
		lines := bufio.NewReader(out)
		if line, err := lines.ReadString('\n'); err != nil || line != "all watch\n" {
			b.Fatalf("the viewers say %q: %v", line, err)
		}
		watched := busy(b, updates)
		in.Close()
		var frames, bytes int64
		if _, err := fmt.Fscan(lines, &frames, &bytes); err != nil || frames < viewers*(updates-1) {
			b.Fatalf("%d viewers have read %d frames in %d updates: %v", viewers, frames, updates, err)
		}
		if err := reader.Wait(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(alone, "%-alone")
		b.ReportMetric(watched, "%-watched")
		b.ReportMetric((watched-alone)*100/viewers, "%/100viewers")
		b.ReportMetric(float64(bytes/frames), "B/frame")
	}
}

// busy is the share of a core that this process uses, in percent, over so many updates.
func busy(b *testing.B, updates int) float64 {
	b.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before, began := used(), time.Now()
	<-time.After(time.Duration(updates) * standard().period)
	return 100 * (used() - before).Seconds() / time.Since(began).Seconds()
}

// TestReadAsViewers is no test but the viewers of BenchmarkViewers, in their own process:
// each reads the stream until the standard input ends.
func TestReadAsViewers(t *testing.T) {
	address := os.Getenv("FORKD_VIEW")
	if address == "" {
		return // not what this run is for
	}
	viewers, err := strconv.Atoi(os.Getenv("FORKD_VIEWERS"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var reading, begun sync.WaitGroup
	var frames, bytes atomic.Int64
	begun.Add(viewers)
	for range viewers {
		reading.Go(func() {
			client := http.Client{Transport: &http.Transport{}}
			request, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/events?app=shop", nil)
			answer, err := client.Do(request)
			if err != nil {
				t.Error(err)
				begun.Done()
				return
			}
			defer answer.Body.Close()
			lines := bufio.NewReaderSize(answer.Body, 1<<20)
			for first := true; ; {
				line, err := lines.ReadSlice('\n')
				if err != nil {
					if first {
						begun.Done()
						t.Error(err)
					}
					return
				}
				if strings.HasPrefix(string(line), "data: ") {
					if first {
						begun.Done()
					}
					first = false
					frames.Add(1)
					bytes.Add(int64(len(line)))
				}
			}
		})
	}
	begun.Wait()
	fmt.Println("all watch")
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	reading.Wait()
	fmt.Println(frames.Load(), bytes.Load())
}

func config(s Source) Config {
	return Config{Source: s, Policy: advise.Default(), Log: slog.New(slog.DiscardHandler)}
}
