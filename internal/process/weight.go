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
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) {
			return err
		}
		select {
		case <-time.After(autogroupRest):
		case <-p.gone:
			return nil
		}
	}
}

func (p *Process) setUsualNice() error {
	p.signaling.Lock() // so that it is not reaped, and the pid another's
	defer p.signaling.Unlock()
	if p.exit != nil {
		return nil
	}
	return setNice(p.pid, usualNice)
}

func setNice(of any, nice string) error {
	file, err := os.OpenFile(fmt.Sprintf(autogroup, of), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err = file.WriteString(nice); errors.Is(err, unix.ESRCH) { // it has ended
		return nil
	}
	return err
}

// CanWeighSelf reports whether WeighSelf weighs this process and what it has started, and
// nobody else, whenever it is called.
func CanWeighSelf() bool {
	leader, err := unix.Getsid(0)
	return err == nil && leader == os.Getpid() && procfs.Holds(unix.CAP_SYS_ADMIN) && unix.Access(fmt.Sprintf(autogroup, "self"), unix.W_OK) == nil
}

// WeighSelf gives this process's session a low weight, or the usual one.
func WeighSelf(light bool) error {
	if light {
		return setNice("self", lightNice)
	}
	return setNice("self", usualNice)
}
