package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/openmetrics"
)

// known are figures of an app of which everything is known.
func known() Figures {
	n := func(v int64) *int64 { return &v }
	return Figures{
		App: App{
			App: "shop", Version: "1.2", Generation: 7, HostDraining: true, Roll: &Roll{}, Redis: &Redis{State: RedisUp}, Totals: Totals{Wanted: 3},
			Slots: []Slot{
				{Slot: 0, Workers: []Worker{{State: StateDraining}, {State: StateReady, Stalled: true}}},
				{Slot: 1, Workers: []Worker{{State: StateStarting}}},
				{Slot: 2, State: "backoff"},
			},
		},
		Capacity: n(500),
		Counts:   Counts{Restarts: map[string]int64{"oom": 0, "crashed": 4}, Rolls: map[string]int64{"done": 6, "failed": 1}},
		Slots: []SlotFigures{
			{
				Slot: 0, Connections: n(12), RSSBytes: n(4096), Queues: map[string]int{"https": 3, "http": 0},
				Accepted: n(100), Requests: n(1000), Refused: n(0), CPUSeconds: new(1.5),
			},
			{Slot: 1, Connections: n(0)},
			{Slot: 9, Accepted: n(8)},
		},
	}
}

func TestMetrics(t *testing.T) {
	f := known()
	want := `# HELP forkd_build The forkd that runs the app.
# TYPE forkd_build info
forkd_build_info{app="shop",version="1.2"} 1
# HELP forkd_workers Live workers by state, and slots without one (backoff, exited, failed).
# TYPE forkd_workers gauge
forkd_workers{app="shop",state="starting"} 1
forkd_workers{app="shop",state="ready"} 1
forkd_workers{app="shop",state="draining"} 1
forkd_workers{app="shop",state="backoff"} 1
forkd_workers{app="shop",state="exited"} 0
forkd_workers{app="shop",state="failed"} 0
# HELP forkd_workers_wanted Slots that are wanted: each is to have a ready worker.
# TYPE forkd_workers_wanted gauge
forkd_workers_wanted{app="shop"} 3
# HELP forkd_workers_stalled Ready workers that accept none of the connections that wait for them.
# TYPE forkd_workers_stalled gauge
forkd_workers_stalled{app="shop"} 1
# HELP forkd_generation The generation that the app runs; a roll makes the next.
# TYPE forkd_generation gauge
forkd_generation{app="shop"} 7
# HELP forkd_host_draining 1 while the host asks for no new connections.
# TYPE forkd_host_draining gauge
forkd_host_draining{app="shop"} 1
# HELP forkd_roll_active 1 while a roll is under way.
# TYPE forkd_roll_active gauge
forkd_roll_active{app="shop"} 1
# HELP forkd_capacity_connections Connections that the host can hold, by its configuration.
# TYPE forkd_capacity_connections gauge
forkd_capacity_connections{app="shop"} 500
# HELP forkd_redis_up 1 while the reports to Redis arrive.
# TYPE forkd_redis_up gauge
forkd_redis_up{app="shop"} 1
# HELP forkd_worker_connections Open connections.
# TYPE forkd_worker_connections gauge
forkd_worker_connections{app="shop",slot="0"} 12
forkd_worker_connections{app="shop",slot="1"} 0
# HELP forkd_worker_resident_memory_bytes Resident memory; a shared page counts in each process.
# TYPE forkd_worker_resident_memory_bytes gauge
# UNIT forkd_worker_resident_memory_bytes bytes
forkd_worker_resident_memory_bytes{app="shop",slot="0"} 4096
# HELP forkd_worker_cpu_seconds Processor time that the slot's workers have used.
# TYPE forkd_worker_cpu_seconds counter
# UNIT forkd_worker_cpu_seconds seconds
forkd_worker_cpu_seconds_total{app="shop",slot="0"} 1.5
# HELP forkd_worker_connections_accepted Connections that the slot's workers have accepted.
# TYPE forkd_worker_connections_accepted counter
forkd_worker_connections_accepted_total{app="shop",slot="0"} 100
forkd_worker_connections_accepted_total{app="shop",slot="9"} 8
# HELP forkd_worker_connections_refused Connections that were beyond their share.
# TYPE forkd_worker_connections_refused counter
forkd_worker_connections_refused_total{app="shop",slot="0"} 0
# HELP forkd_worker_requests Requests that the slot's workers have served.
# TYPE forkd_worker_requests counter
forkd_worker_requests_total{app="shop",slot="0"} 1000
# HELP forkd_listener_backlog Connections that wait to be accepted; of a socket for all slots, as slot 0.
# TYPE forkd_listener_backlog gauge
forkd_listener_backlog{app="shop",listener="http",slot="0"} 0
forkd_listener_backlog{app="shop",listener="https",slot="0"} 3
# HELP forkd_worker_restarts Workers that were started in the place of others, but for rolls.
# TYPE forkd_worker_restarts counter
forkd_worker_restarts_total{app="shop",reason="crashed"} 4
forkd_worker_restarts_total{app="shop",reason="oom"} 0
# HELP forkd_rolls Rolls that have ended.
# TYPE forkd_rolls counter
forkd_rolls_total{app="shop",result="done"} 6
forkd_rolls_total{app="shop",result="failed"} 1
# EOF
`
	if diff := cmp.Diff(want, string(appendMetrics(openmetrics.OpenMetrics, &f))); diff != "" {
		t.Error(diff)
	}
}

// What is not known is not there: neither its sample nor its family, and never a 0.
func TestMetricsNotKnown(t *testing.T) {
	f := Figures{App: App{App: "shop"}, Slots: []SlotFigures{{Slot: 0}}}
	got := string(appendMetrics(openmetrics.OpenMetrics, &f))
	for _, name := range []string{"forkd_worker_", "forkd_listener_", "forkd_redis_up", "forkd_capacity"} {
		if strings.Contains(got, name) {
			t.Errorf("%s is in\n%s", name, got)
		}
	}
	f.App.Redis = &Redis{State: RedisConnecting}
	if got := string(appendMetrics(openmetrics.OpenMetrics, &f)); !strings.Contains(got, `forkd_redis_up{app="shop"} 0`+"\n") {
		t.Errorf("Redis was never there:\n%s", got)
	}
}

// Strangers ask as often as they like: the app is looked at once in a while, by one of them.
func TestFiguresAreGotOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := atomic.Int32{}
		b := &fake{figures: func(context.Context) (Figures, error) {
			time.Sleep(10 * time.Millisecond)
			return Figures{App: App{App: "shop", Generation: int(asked.Add(1))}}, nil
		}}
		c := figures{lock: make(chan struct{}, 1)}
		all := func() {
			var askers sync.WaitGroup
			for range 100 {
				askers.Go(func() {
					if f, err := c.get(t.Context(), b, time.Second); err != nil || f.App.Generation != int(asked.Load()) {
						t.Errorf("%+v, %v", f, err)
					}
				})
			}
			askers.Wait()
		}
		all()
		all()
		if n := asked.Load(); n != 1 {
			t.Errorf("the app was asked %d times at once", n)
		}
		time.Sleep(time.Second)
		all()
		if n := asked.Load(); n != 2 {
			t.Errorf("the app was asked %d times, a second later", n)
		}
		b.figures = func(context.Context) (Figures, error) { return Figures{}, errors.New("it hangs") }
		time.Sleep(time.Second)
		if f, err := c.get(t.Context(), b, time.Second); err == nil {
			t.Errorf("%+v, which is old", f)
		}
		c.lock <- struct{}{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.get(ctx, b, time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who has left waits on: %v", err)
		}
	})
}

// Both formats, on the control socket and on the open address.
func TestMetricsOverHTTP(t *testing.T) {
	b := &fake{app: sample(), figures: func(context.Context) (Figures, error) { return known(), nil }}
	at := serving(t, b, patient(), os.Geteuid())
	_, header, body := ask(t, at, "GET", "/metrics", "")
	if kind := header.Get("Content-Type"); kind != openmetrics.Text.ContentType() || strings.Contains(body, "# EOF") {
		t.Errorf("unasked: %s\n%s", kind, body)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ServeHealth(ctx, ln, b) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	request, err := http.NewRequest(http.MethodGet, "http://"+ln.Addr().String()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/openmetrics-text;version=1.0.0,*/*;q=0.1")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if kind := response.Header.Get("Content-Type"); response.StatusCode != 200 || kind != openmetrics.OpenMetrics.ContentType() {
		t.Errorf("%s, %s", response.Status, kind)
	}
}
