package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/test/load"
)

const howSockets = "Users of examples/websocket (examples/wsload) in rooms of 10, each of whom says something every 2 s, while 2 workers are rolled once a second. " +
	"In every fourth roll the first successor that has taken a connection over is stopped (SIGSTOP), asked for how many it has, and killed. The room's numbers have no gaps, and users number what they say: what is lost or comes twice is seen."

// wsload is the users of the chat.
type wsload struct {
	orders  io.Writer
	reports *json.Decoder
	end     func()
}

// usersReport is what is read of its reports.
type usersReport struct {
	Final                                                                 bool
	Open, Opened, Lost, Restarted, Shed, Refused, Failed, Closed          int
	Said, Received, Missed, Doubled, Unheard, Repeated, Resets, Forgotten int
}

func (b *bench) startUsers(users int, address string) (*wsload, error) {
	cmd := exec.Command(b.program("example-wsload"), "-json", "-users", strconv.Itoa(users), "-say", strconv.Itoa(users/2), "-backoff", "200ms", "ws://"+address+"/")
	orders, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &wsload{orders, json.NewDecoder(out), func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }}, nil
}

// until returns the first report that is as it should be.
func (c *wsload) until(what string, good func(usersReport) bool) (r usersReport, err error) {
	for end := time.Now().Add(startTime); time.Now().Before(end); {
		r = usersReport{}
		if err := c.reports.Decode(&r); err != nil {
			return r, fmt.Errorf("wsload has not told of %s: %w", what, err)
		}
		if good(r) {
			return r, nil
		}
	}
	return r, fmt.Errorf("wsload has not told of %s in time, but %+v", what, r)
}

func (b *bench) sockets(ctx context.Context) ([]row, error) {
	r, err := b.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer r.kill()
	settings := fmt.Sprintf("env = { WS_REDIS_URL = %q }\n%s", r.url(), movesSettings)
	a, err := b.runApp(ctx, "sockets", movesWorkers, []string{b.program("example-websocket")}, settings)
	if err != nil {
		return nil, err
	}
	defer a.stop()
	users := b.plan.users
	c, err := b.startUsers(users, a.address.String())
	if err != nil {
		return nil, err
	}
	defer c.end()
	all := func(r usersReport) bool { return r.Open == users }
	if _, err := c.until("all users", all); err != nil {
		return nil, err
	}
	had, kills, midway := 0, 0, 0
	for i := range b.plan.userRolls {
		load.Pause(ctx, time.Second)
		if i%4 != 3 {
			if _, _, err := a.rollAndWait(ctx); err != nil {
				return nil, err
			}
			continue
		}
		n, amid, err := a.rollAndKill(ctx)
		if err != nil {
			return nil, err
		}
		kills, had = kills+1, had+n
		if amid {
			midway++
		}
		if _, err := c.until("all back", all); err != nil {
			return nil, err
		}
	}
	now, err := c.until("the last roll", func(usersReport) bool { return true })
	if err != nil {
		return nil, err
	}
	// Everyone says something after the last roll: what was lost before it is known then.
	if _, err := c.until("more messages", func(r usersReport) bool { return r.Said >= now.Said+3*users }); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c.orders, "quit\n"); err != nil {
		return nil, err
	}
	seen, err := c.until("the end", func(r usersReport) bool { return r.Final })
	if err != nil {
		return nil, err
	}
	closed := seen.Restarted + seen.Shed + seen.Refused + seen.Failed + seen.Closed
	gone, doubled := seen.Missed+seen.Unheard+seen.Resets+seen.Forgotten, seen.Doubled+seen.Repeated
	what := fmt.Sprintf("%s WebSockets, %d rolls of 2 workers, a successor killed in %d", thousands(float64(users)), b.plan.userRolls, kills)
	return []row{
		promise(what, "disconnected: those of the killed", closed == 0 && seen.Lost <= had,
			"%d disconnected, the killed had %d; %d closed or refused", seen.Lost, had, closed),
		promise("messages lost", "0", gone == 0, "%d of %s", gone, thousands(float64(seen.Received))),
		promise("messages doubled", "0", doubled == 0, "%d", doubled),
		note("killed while the predecessor still had connections", "%d of %d", midway, kills),
	}, nil
}

// rollAndKill rolls, and kills the first successor that has taken a connection over. It
// returns how many that had, and whether its predecessor had some still.
func (a *app) rollAndKill(ctx context.Context) (had int, midway bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	before, err := a.client.Status(ctx)
	if err != nil {
		return 0, false, err
	}
	old := map[int]bool{}
	for _, s := range before.Slots {
		old[readyPID(s)] = true
	}
	rolled := make(chan error, 1)
	go func() {
		_, err := a.client.Reload(ctx, control.Reload{KeepConfig: true, Wait: true})
		rolled <- err
	}()
	// look returns a new worker that has connections, and how many its slot's others have.
	look := func() (victim, has, others int, err error) {
		now, err := a.client.Status(ctx)
		for _, s := range now.Slots {
			victim, has, others = 0, 0, 0
			for _, w := range s.Workers {
				n := 0
				if w.Connections != nil {
					n = int(*w.Connections)
				}
				if !old[w.PID] && n > 0 {
					victim, has = w.PID, n
				} else {
					others += n
				}
			}
			if victim != 0 {
				break
			}
		}
		return victim, has, others, err
	}
	victim := 0
	for victim == 0 {
		if victim, _, _, err = look(); err != nil {
			return 0, false, errors.Join(err, <-rolled)
		}
	}
	if err := syscall.Kill(victim, syscall.SIGSTOP); err != nil {
		return 0, false, err
	}
	_, had, others, err := look()
	if err := errors.Join(err, syscall.Kill(victim, syscall.SIGKILL)); err != nil {
		return 0, false, err
	}
	<-rolled // it has failed, or the next successor was in time
	for {
		now, err := a.client.Status(ctx)
		if err != nil {
			return 0, false, err
		}
		n := 0
		for _, s := range now.Slots {
			n += len(s.Workers)
		}
		if n == movesWorkers && now.AllReady() {
			return had, others > 0, nil
		}
		load.Pause(ctx, 5*time.Millisecond)
	}
}
