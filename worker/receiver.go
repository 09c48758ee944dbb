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
}

// run takes what comes until the pair ends. A connection is this worker's once the
// predecessor has the reply: see ipc.Transfer.
func (r *receiver) run() {
	type arrival struct{ serve, drop func() }
	var unheard []arrival // taken, and the predecessor could not be told
	defer r.pair.close()
	buf := make([]byte, ipc.MaxTransfer)
	for {
		n, fd, err := r.pair.receive(buf)
		if err != nil {
			break // without a withdrawal: the predecessor has died
		}
		t, err := ipc.ParseTransfer(buf[:n])
		if err != nil || t.Withdrawn {
			closeDescriptor(fd)
			for _, a := range unheard {
				a.drop()
			}
			return
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
}

func closeDescriptor(fd int) {
	if fd >= 0 {
		_ = syscall.Close(fd)
	}
}
