package process

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A worker leads its session, and so it may have an autogroup (sched(7)): the share of the
// CPUs of all its processes and threads together. Outside of the root control group there is
// none, and a write changes nothing.
const (
	autogroup  = "/proc/%v/autogroup"
	lightNice  = "10" // a tenth of the usual weight
	heavyNice  = "0"
	autogroups = 100 * time.Millisecond // at least between two writes of processes without CAP_SYS_ADMIN
)

// CanWeigh reports whether the process could start light, and become heavy again: the same
// program of the same user did not forbid it.
func (p *Process) CanWeigh() bool {
	return unix.Access(fmt.Sprintf(autogroup, p.pid), unix.W_OK) == nil
}

// lighten has the program start light. A failure is not reported: it is not light then.
func (p *plan) lighten() {
	const lightening = "lower its weight"
	c := p.do(lightening, unix.SYS_OPENAT, cwd, p.text(fmt.Sprintf(autogroup, "self")), unix.O_WRONLY|unix.O_CLOEXEC)
	c.quiet, c.later = true, 2
	c = p.do(lightening, unix.SYS_WRITE, 0, p.text(lightNice), uintptr(len(lightNice)))
	c.onLast, c.quiet, c.later = true, true, 1
}

// Weigh gives the worker its usual weight. It waits where the kernel allows a write only
// later (EAGAIN). Of a worker that has ended it is no error.
func (p *Process) Weigh() error {
	for {
		err := p.setAutogroup(heavyNice)
		if !errors.Is(err, unix.EAGAIN) {
			return err
		}
		select {
		case <-time.After(autogroups):
		case <-p.gone:
			return nil
		}
	}
}

func (p *Process) setAutogroup(nice string) error {
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
	if _, err = file.WriteString(nice); errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
