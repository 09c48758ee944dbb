package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/forkd/forkd/test/ports"
)

const howCapture = "A net/http server that knows nothing of forkd, with one worker under `sockets = \"auto\"`, whose bind(2) and listen(2) are answered with its slot's socket, " +
	"and the same program alone: both with a plain TCP socket, in pairs that alternate which of the two comes first. Both serve all the time; the one that is not asked is idle. " +
	"Then the master of 8 such workers at rest, and one whose workers got the socket that it passed (`sockets = \"pass\"`)."

func (b *bench) capture(ctx context.Context) ([]row, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	captured, err := b.runApp(ctx, "captured", 1, []string{self, plainFlag, "{port}"}, "")
	if err != nil {
		return nil, err
	}
	defer captured.stop()
	port, release, err := ports.Take(1)
	if err != nil {
		return nil, err
	}
	defer release()
	bare, err := launch(port, nil, self, plainFlag, strconv.Itoa(port))
	if err != nil {
		return nil, err
	}
	defer bare.stop()
	status, err := captured.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := b.compare(ctx, contender{"captured", captured.server, readyPID(status.Slots[0])}, contender{"bare", bare, bare.cmd.Process.Pid}, 0.99)
	if err != nil {
		return nil, err
	}
	rest, err := b.capturedAtRest(ctx, self)
	return append(rows, rest...), err
}

// capturedAtRest compares what the masters of captured workers and of others take.
func (b *bench) capturedAtRest(ctx context.Context, self string) ([]row, error) {
	var megabytes, shares [2]float64
	for i, at := range []struct{ sockets, address string }{{"capture", "{port}"}, {"pass", fdPrefix + "{fd}"}} {
		a, err := b.runApp(ctx, at.sockets, masterWorkers, []string{self, plainFlag, at.address}, fmt.Sprintf("sockets = %q\n%s", at.sockets, rollSettings))
		if err != nil {
			return nil, err
		}
		err = a.reload()
		if err == nil {
			megabytes[i], shares[i], err = b.atRest(ctx, a.cmd.Process.Pid)
		}
		a.stop()
		if err != nil {
			return nil, err
		}
	}
	more := megabytes[0] - megabytes[1]
	return []row{
		promise("PSS of the master at rest, 8 captured workers less 8 that got passed sockets", "1 MB or less", more <= 1, "%.2f MB (%.1f, %.1f)", more, megabytes[0], megabytes[1]),
		note("of a core, idle", "captured %.3f %%, passed %.3f %%", shares[0], shares[1]),
	}, nil
}
