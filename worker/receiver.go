package worker

import (
	"syscall"

	"github.com/forkd/forkd/ipc"
)

// receiver takes connections over from one predecessor.
type receiver struct {
	pair pair

	// prepare makes a connection of a descriptor, which becomes its own; nil: refused.
	// serve serves what prepare has returned, drop closes it.
	prepare func(t ipc.Transfer, fd int) (serve, drop func())

	open func(fd int) (pair, error) // makes another pair of the predecessor's descriptor, which it takes
}

// run takes what comes until the predecessor is gone or needs this worker no more.
func (r *receiver) run() {
	for {
		next := r.take()
		r.pair.close()
		if next == nil {
			return
		}
		_ = next.send(ipc.Reply{}.Encode(), -1) // it fails if the predecessor has gone
		r.pair = next
	}
}

// take takes what comes until the pair ends, and returns the one to go on with, or nil. A
// connection is this worker's once the predecessor has the reply: see ipc.Transfer.
func (r *receiver) take() (next pair) {
	type arrival struct{ serve, drop func() }
	var unheard []arrival // taken, and the predecessor could not be told
	buf := make([]byte, ipc.MaxTransfer)
	for {
		n, fd, err := r.pair.receive(buf)
		if err != nil {
			break // without a withdrawal: the predecessor has died
		}
		t, err := ipc.ParseTransfer(buf[:n])
		if err != nil || t.Withdrawn {
			for _, a := range unheard {
				a.drop()
			}
			if err == nil && fd >= 0 {
				next, _ = r.open(fd)
				return next
			}
			closeDescriptor(fd)
			return nil
		}
		var a arrival
		if fd >= 0 { // else it did not fit in this process's table
			a.serve, a.drop = r.prepare(t, fd)
		}
		heard := len(unheard) == 0 && r.pair.send(ipc.Reply{Seq: t.Seq, Taken: a.serve != nil}.Encode(), -1) == nil
		switch {
		case a.serve == nil:
		case heard:
			a.serve()
		case len(unheard) < window:
			unheard = append(unheard, a)
		default:
			a.drop() // no sender of this package sends so many
		}
	}
	for _, a := range unheard {
		a.serve()
	}
	return nil
}

func closeDescriptor(fd int) {
	if fd >= 0 {
		_ = syscall.Close(fd)
	}
}
