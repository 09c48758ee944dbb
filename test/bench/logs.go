package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/output"
	"github.com/forkd/forkd/test/load"
)

const howLogs = "4 workers that write 10,000 lines of 100 bytes a second each, every line by a write(2) of its own, to `log.directory` and to the master's stdout, a pipe. " +
	"The processor time is that of all of the master's threads (`/proc/PID/task/*/schedstat`), the memory PSS, before the first line is counted and at the end. " +
	"Each worker numbers its lines; afterwards they are read from the files."

const (
	chatterFlag  = "--chatter"
	chatters     = 4
	chatterLines = 10_000 // a second, of each
)

// chatter writes numbered lines at a rate, until it is told to end.
func chatter(rate string) error {
	perSecond, err := strconv.Atoi(rate)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	rest := strings.Repeat("x", 89)
	start, n := time.Now(), 0
	for ctx.Err() == nil {
		for due := int(time.Since(start).Seconds() * float64(perSecond)); n < due; n++ {
			if _, err := fmt.Fprintf(os.Stdout, "%09d %s\n", n, rest); err != nil {
				return err
			}
		}
		load.Pause(ctx, time.Millisecond)
	}
	return nil
}

func (b *bench) logs(ctx context.Context) ([]row, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "log")
	settings := fmt.Sprintf("[ready]\nmode = \"delay\"\n[log]\ndirectory = %q\nmax_size = \"64MiB\"\nmax_files = %d\n", dir, output.MaxFiles)
	a, err := b.runApp(ctx, "logs", chatters, []string{self, chatterFlag, strconv.Itoa(chatterLines)}, settings)
	if err != nil {
		return nil, err
	}
	rows, err := b.logging(ctx, a.cmd.Process.Pid)
	a.stop() // what is written last is in the files
	if err != nil {
		return nil, err
	}
	kept, lost, err := numbered(dir, "logs")
	return append([]row{promise("lines lost, or out of their worker's order", "0", lost == 0 && kept > 0, "%s of %s", thousands(float64(lost)), thousands(float64(kept)))}, rows...), err
}

// logging is what it costs the master.
func (b *bench) logging(ctx context.Context, pid int) ([]row, error) {
	memory, err := pssOf(pid)
	if err != nil {
		return nil, err
	}
	before, err := processorTime(pid)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	load.Pause(ctx, b.plan.idleSpan)
	after, err := processorTime(pid)
	if err != nil {
		return nil, err
	}
	share := 100 * float64(after-before) / float64(time.Since(start))
	grown, err := pssOf(pid)
	growth := float64(grown-memory) / 1e6
	return []row{
		promise("of a core, 4 workers at 10,000 lines a second", "under 15 %", share < 15, "%.1f %%", share),
		promise("growth of the master meanwhile", "bounded: under 8 MB", growth < 8, "%.1f MB, to %.1f MB", growth, float64(grown)/1e6),
	}, err
}

// numbered reads chatters' lines, and counts those that are not the next of their worker.
func numbered(dir, app string) (kept, lost int, err error) {
	lines, err := output.ReadFiles(dir, app, output.Query{N: output.All})
	next := map[int]int{}
	for _, l := range lines {
		if l.Stream != output.Stdout {
			continue
		}
		number, _, _ := strings.Cut(l.Line, " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			return kept, lost, fmt.Errorf("a line without a number: %.40q", l.Line)
		}
		if n != next[*l.Slot] {
			lost += max(1, n-next[*l.Slot])
		}
		next[*l.Slot] = n + 1
		kept++
	}
	return kept, lost, err
}
