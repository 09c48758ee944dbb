package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/forkd/forkd/test/load"
	"github.com/forkd/forkd/test/ports"
)

const howThroughput = "The fasthttp example under forkd and fasthttp's `prefork` with `Reuseport` and the same handler, one process per core, " +
	"each asked by 64 clients as fast as they can, in pairs that alternate which of the two comes first. " +
	"Both serve all the time; the one that is not asked is idle."

// loadClients is how many clients press on a server whose throughput counts.
const loadClients = 64

func (b *bench) throughput(ctx context.Context) ([]row, error) {
	ours, err := b.runApp(ctx, "throughput", b.cores, b.example(), "")
	if err != nil {
		return nil, err
	}
	defer ours.stop()
	peer, err := b.runPeer(ctx)
	if err != nil {
		return nil, err
	}
	defer peer.stop()
	return b.compare(ctx, contender{"forkd", ours.server, 0}, contender{"prefork", peer, 0}, 1)
}

// contender is one of two servers that are compared.
type contender struct {
	name string
	*server
	pid int // of the process that answers; 0: there are several
}

// used is the processor time of the process that answers.
func (c contender) used() time.Duration {
	if c.pid == 0 {
		return 0
	}
	used, _ := processorTime(c.pid) // one that has ended has failed requests
	return used
}

// compare asks two servers in turn, with both habits. The first is promised to reach so
// much of the other's throughput.
func (b *bench) compare(ctx context.Context, left, right contender, promised float64) ([]row, error) {
	if err := sameAnswers(ctx, left.server, right.server); err != nil {
		return nil, err
	}
	var rows []row
	for _, h := range []load.Habit{load.Keeping, load.Closing} {
		var lefts, rights, ratios, costs []float64
		var failures []load.Failure
		for pair := range b.plan.pairs {
			rate := func(c contender) (perSecond, cost float64) {
				before := make(chan time.Duration, 1)
				time.AfterFunc(b.plan.warm, func() { before <- c.used() })
				o := b.press(ctx, c.address, load.All(h, loadClients))
				failures = append(failures, o.Failures...)
				return o.Rate(), float64(c.used()-<-before) / float64(o.Requests)
			}
			var l, r, leftCost, rightCost float64
			if pair%2 == 0 {
				l, leftCost = rate(left)
				r, rightCost = rate(right)
			} else {
				r, rightCost = rate(right)
				l, leftCost = rate(left)
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			lefts, rights, ratios = append(lefts, l), append(rights, r), append(ratios, l/r)
			costs = append(costs, leftCost/rightCost)
		}
		low, mid, high := quartiles(ratios)
		rows = append(rows,
			promise(fmt.Sprintf("%s / %s, %v", left.name, right.name, h), fmt.Sprintf("%.2f or more", promised), mid >= promised, "%.3f [%.3f .. %.3f]", mid, low, high),
			note(fmt.Sprintf("requests a second, %v", h), "%s %s, %s %s", left.name, thousands(median(lefts)), right.name, thousands(median(rights))),
		)
		if left.pid != 0 && right.pid != 0 {
			low, mid, high := quartiles(costs)
			rows = append(rows, note(fmt.Sprintf("processor time of a request, %s / %s, %v", left.name, right.name, h), "%.3f [%.3f .. %.3f]", mid, low, high))
		}
		if len(failures) > 0 {
			rows = append(rows, promise(fmt.Sprintf("failed requests, %v", h), "0", false, "%v", load.Count(failures)))
		}
	}
	return rows, nil
}

// press asks a server as fast as it answers, for as long as one half of a pair.
func (b *bench) press(ctx context.Context, address *net.TCPAddr, habits []load.Habit) load.Outcome {
	ctx, cancel := context.WithTimeout(ctx, b.plan.warm+b.plan.pairSpan)
	defer cancel()
	return load.ClosedLoop(ctx, address, habits, b.plan.warm)
}

func (b *bench) runPeer(ctx context.Context) (*server, error) {
	port, release, err := ports.Take(1)
	if err != nil {
		return nil, err
	}
	defer release()
	peer, err := launch(port, nil, b.program("bench-peer"), "-listen", ":"+strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	return peer, peer.workers(ctx, b.cores)
}

// sameAnswers refuses to compare two servers that do not do the same work.
func sameAnswers(ctx context.Context, a, b *server) error {
	first, err := a.firstAnswer(ctx)
	if err != nil {
		return err
	}
	second, err := b.firstAnswer(ctx)
	if err != nil {
		return err
	}
	_, x, _ := strings.Cut(first, " ")
	_, y, _ := strings.Cut(second, " ")
	if x != y {
		return fmt.Errorf("cannot compare: one answers %q, the other %q", first, second)
	}
	return nil
}

// thousands writes 71600.4 as "71,600".
func thousands(v float64) string {
	digits := strconv.FormatFloat(v, 'f', 0, 64)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}
