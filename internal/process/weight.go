package process

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/procfs"
)

// A process that leads its session, as a worker does, may have an autogroup (sched(7)): the
// share of the CPUs of all its processes and threads together. Outside of the root control
// group there is none, and a write changes nothing.
const (
	autogroup     = "/proc/%v/autogroup"
	lightNice     = "10" // a tenth of the usual weight
	lowNice       = "5"  // a third
	usualNice     = "0"
	autogroupRest = 100 * time.Millisecond // between two writes of processes without CAP_SYS_ADMIN, at least
)

// CanWeigh reports whether Weigh can be expected to work, for this process and for others of
// the same program and user.
func (p *Process) CanWeigh() bool {
	return unix.Access(fmt.Sprintf(autogroup, p.pid), unix.W_OK) == nil
}

// Weigh gives the worker its usual weight. It waits where the kernel allows a write only
// later (EAGAIN), or this process has no descriptor to spare: a worker would have a low weight
// for good. Of a worker that has ended it is no error.
func (p *Process) Weigh() error {
	for {
		err := p.setUsualNice()
		if !passes(err) {
			return err
		}
		select {
		case <-time.After(autogroupRest):
		case <-p.gone:
			return nil
		}
	}
}

// passes reports whether what keeps a weight from being set does not last.
func passes(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

func (p *Process) setUsualNice() error {
	p.signaling.Lock() // so that it is not reaped, and the pid another's
	defer p.signaling.Unlock()
	if p.exit != nil {
		return nil
	}
	file, err := os.OpenFile(fmt.Sprintf(autogroup, p.pid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err = file.WriteString(usualNice); errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// A Weight is that of this process's session. It holds a descriptor: there may be none to
// spare when the weight is to be set back.
type Weight struct{ file *os.File }

// OwnWeight returns nil unless this process leads its session, so that nobody else shares the
// weight, and may set it whenever it likes.
func OwnWeight() *Weight {
	if leader, err := unix.Getsid(0); err != nil || leader != os.Getpid() || !procfs.Holds(unix.CAP_SYS_ADMIN) {
		return nil
	}
	file, err := os.OpenFile(fmt.Sprintf(autogroup, "self"), os.O_WRONLY, 0)
	if err != nil {
		return nil
	}
	return &Weight{file}
}

// Lower gives the session a third of its usual weight, or with false that: clients of the
// control socket wait for it.
func (w *Weight) Lower(low bool) error {
	nice := usualNice
	if low {
		nice = lowNice
	}
	_, err := w.file.WriteString(nice)
	return err
}

// Close leaves the weight as it is.
func (w *Weight) Close() { w.file.Close() }
