package fleet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/redisconfig"
)

// agentSetupMax bounds the master's first line, in bytes.
const agentSetupMax = 1 << 20

// RunAgent is the fleet agent, a process that the master starts: it reports the
// master's app to Redis and passes commands from there to the master, until the
// master asks it to leave or channel ends. embedded returns the listener of the
// embedded Redis and is called where there is one.
func RunAgent(ctx context.Context, channel net.Conn, embedded func() (net.Listener, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := bufio.NewScanner(channel)
	lines.Buffer(nil, agentSetupMax)
	var setup redisconfig.Agent
	if !lines.Scan() {
		return errors.New("the master says nothing")
	}
	if err := json.Unmarshal(lines.Bytes(), &setup); err != nil {
		return fmt.Errorf("cannot read what the master says: %v", err)
	}
	if setup.Embedded {
		ln, err := embedded()
		if err != nil {
			return err
		}
		go func() {
			if err := ServeEmbedded(ctx, ln); err != nil {
				cancel() // the master starts it again
			}
		}()
	}
	client, err := control.Connect(control.Location{Name: setup.App, Dir: setup.Directory})
	if err != nil {
		return err // the master starts another agent
	}
	defer client.Close()
	master := &masterClient{Client: client, boot: setup.Boot, more: make(chan struct{})}
	out := &agentWriter{channel: channel}
	followed, unfollow := context.WithCancel(ctx)
	defer unfollow()
	following := sync.WaitGroup{}
	following.Go(func() { master.follow(followed) })
	app := App{Name: setup.App, Boot: setup.Boot, StartedAt: setup.StartedAt, Metrics: setup.Metrics}
	r, err := Start(setup.Settings, app, master, slog.New(slog.NewJSONHandler(out, nil)), out.health)
	if err != nil {
		out.health(control.Redis{State: control.RedisDown, Since: time.Now(), Error: err.Error(), URL: redisconfig.MaskURL(setup.Settings.URL), Host: setup.Settings.HostID})
		return err
	}
	told := make(chan bool, 1)
	go func() { told <- lines.Scan() && lines.Text() == redisconfig.AgentLeave }()
	leave := false
	select {
	case leave = <-told:
	case <-ctx.Done():
	}
	unfollow()
	following.Wait() // from here on the master is asked for its last events
	ending, end := context.WithTimeout(context.Background(), redisconfig.AgentLeaveWithin)
	defer end()
	r.Close(ending, leave)
	if ctx.Err() != nil {
		return errors.New("the embedded Redis has ended")
	}
	return nil
}

type agentWriter struct {
	mu      sync.Mutex
	channel net.Conn
}

func (w *agentWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.channel.SetWriteDeadline(time.Now().Add(timeout)) // a master that is stopped
	return w.channel.Write(line)
}

func (w *agentWriter) health(h control.Redis) {
	h.Error = cut(h.Error, 1024)
	if line, err := json.Marshal(map[string]control.Redis{"health": h}); err == nil {
		_, _ = w.Write(append(line, '\n'))
	}
}

// masterClient is the Source of a real master: its control API.
type masterClient struct {
	*control.Client

	boot string // of the master's event log

	mu     sync.Mutex
	newest uint64        // the last event that follow has seen
	live   bool          // follow misses none
	more   chan struct{} // closed by the next event
}

// Events asks the master only where follow has seen another event, or may miss one.
func (m *masterClient) Events(ctx context.Context, after uint64) (control.EventPage, error) {
	m.mu.Lock()
	page := control.EventPage{Boot: m.boot, More: m.more}
	none := m.live && m.newest <= after
	m.mu.Unlock()
	if none {
		return page, nil
	}
	err := m.Client.Events(ctx, m.boot+"-"+strconv.FormatUint(after, 10), false, func(_ string, e control.Event) error {
		page.Events = append(page.Events, e)
		return nil
	})
	return page, err
}

// follow waits for events until ctx ends, so that the reporter knows at once.
func (m *masterClient) follow(ctx context.Context) {
	last := ""
	for ctx.Err() == nil {
		_ = m.Client.Events(ctx, last, true, func(id string, e control.Event) error {
			last = id
			m.mu.Lock()
			defer m.mu.Unlock()
			m.newest, m.live = e.Seq, true
			close(m.more)
			m.more = make(chan struct{})
			return nil
		})
		m.mu.Lock()
		m.live = false
		m.mu.Unlock()
		select {
		case <-time.After(timeout):
		case <-ctx.Done():
		}
	}
}
