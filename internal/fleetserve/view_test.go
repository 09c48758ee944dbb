package fleetserve

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

func ids(f said) []string {
	list := []string{}
	for _, row := range f.Hosts {
		list = append(list, row["id"].(string))
	}
	return list
}

// A viewer gets everything once, then what has changed.
func TestStream(t *testing.T) {
	t.Parallel()
	bubble(t, still, func(t *testing.T, s *server, source *synthetic) {
		source.happen("web-1", control.EventUp, "", "")
		pass(1)
		v := watchStream(t, s, "/events?app=shop")
		all := v.frames(t)
		if len(all) != 1 || all[0].event != "full" || !slices.Equal(ids(all[0]), []string{"web-1", "web-2", "web-3"}) {
			t.Fatalf("at first: %+v", all)
		}
		if f := all[0]; len(f.Events) != 1 || f.Events[0].Type != "up" || !slices.Equal(f.History.Connections, []int64{6000}) || !slices.Equal(f.Past["web-2"], []int64{2000}) || f.Commands || f.Limit != 80 {
			t.Errorf("at first: %+v", f)
		}
		source.host("web-2", func(h *fleet.Host) { h.State, h.Workers[1].Stalled = control.StateDraining, true })
		source.happen("web-2", control.EventDraining, "c1", "by a command")
		pass(1)
		all = v.frames(t)
		if len(all) != 1 || all[0].event != "delta" || !slices.Equal(ids(all[0]), []string{"web-2"}) || len(all[0].Events) != 1 || all[0].Events[0].Command != "c1" {
			t.Fatalf("then: %+v", all)
		}
		if row := all[0].Hosts[0]; row["s"] != "draining" || row["f"] != 8.0 || row["w"].([]any)[6] != 17.0 {
			t.Errorf("then: %v", row)
		}
		source.change(func() { source.hosts = source.hosts[1:] })
		pass(1)
		all = v.frames(t)
		if len(all) != 1 || !slices.Equal(all[0].Gone, []string{"web-1"}) || len(all[0].Hosts) != 0 || *all[0].Totals.Connections != 5000 {
			t.Errorf("at last: %+v", all)
		}
		v.leave()
		<-v.left
		if len(s.viewers) != 0 {
			t.Error("a viewer who has left counts")
		}
	})
}

// A viewer who takes long for a frame gets the newest afterwards, all of it.
func TestStreamMissed(t *testing.T) {
	t.Parallel()
	bubble(t, few, func(t *testing.T, s *server, _ *synthetic) {
		v := watchStream(t, s, "/events")
		v.frames(t)
		resume := make(chan struct{})
		v.mu.Lock()
		v.before = func() { <-resume }
		v.mu.Unlock()
		pass(4)
		close(resume)
		synctest.Wait()
		var events []string
		var versions []uint64
		for _, f := range v.frames(t) {
			events, versions = append(events, f.event), append(versions, f.Version)
		}
		if !slices.Equal(events, []string{"delta", "full"}) || !slices.Equal(versions, []uint64{2, 5}) {
			t.Errorf("%v %v", events, versions)
		}
		v.leave()
		<-v.left
	})
}

// While Redis can't be read the last figures stay, with their age and the error.
func TestStreamWithoutRedis(t *testing.T) {
	t.Parallel()
	bubble(t, still, func(t *testing.T, s *server, source *synthetic) {
		v := watchStream(t, s, "/events")
		v.frames(t)
		source.change(func() { source.err = errors.New("connection refused") })
		pass(3)
		all := v.frames(t)
		if f := all[len(all)-1]; f.Error != "connection refused" || *f.Age != 6 || *f.Totals.Connections != 6000 || f.Sampled {
			t.Errorf("%+v", f)
		}
		late := watchStream(t, s, "/events")
		if f := late.frames(t)[0]; f.event != "full" || f.Error == "" || len(f.Hosts) != 3 {
			t.Errorf("who comes late: %+v", f)
		}
		source.change(func() { source.err = nil })
		pass(1)
		all = v.frames(t)
		if f := all[len(all)-1]; f.Error != "" || *f.Age != 0 {
			t.Errorf("%+v", f)
		}
		for _, v := range []*viewer{v, late} {
			v.leave()
			<-v.left
		}
	})
}

// Apps come and go; whoever waits for one sees it.
func TestApps(t *testing.T) {
	t.Parallel()
	bubble(t, func() Config {
		source := newSynthetic(3, 2)
		source.apps = nil
		return config(source)
	}, func(t *testing.T, s *server, source *synthetic) {
		v := watchStream(t, s, "/events")
		if all := v.frames(t); len(all) != 1 || all[0].event != "full" || len(all[0].Apps) != 0 {
			t.Errorf("without an app: %+v", all)
		}
		source.change(func() { source.apps = []string{"shop"} })
		pass(7)
		if all := v.frames(t); len(all) == 0 || all[len(all)-1].App != "shop" || len(all[len(all)-1].Apps) != 1 {
			t.Errorf("with an app: %+v", all)
		}
		source.change(func() { source.apps = nil })
		pass(6)
		<-v.left // the browser comes again
		expect(t, s, "/v1/scale?app=shop", 404, `{"error":"no host reports an app \"shop\""}`)

		// Those that are watched are not pushed out by others.
		source.change(func() { source.apps = []string{"shop"} })
		pass(6)
		var others []string
		for i := range 100 {
			others = append(others, fmt.Sprintf("a%02d", i))
		}
		source.change(func() { source.apps = append(others, "shop") })
		pass(6)
		list := s.watches.now.Load()
		if len(list.names) != maxApps || !slices.Contains(list.names, "shop") || len(list.watches) != maxApps {
			t.Errorf("%d of 101 apps are watched: %q", len(list.watches), list.names)
		}
	})
}

// The histories hold an hour and ten minutes, not more.
func TestHistory(t *testing.T) {
	t.Parallel()
	bubble(t, few, func(t *testing.T, s *server, source *synthetic) {
		for range 300 {
			source.happen("web-1", control.EventReady, "", "")
		}
		pass(5 * 400)
		now := s.watches.now.Load().watches["shop"].now.Load()
		if len(now.history.Connections) != fleetPoints || len(now.hosts["web-1"]) != hostPoints || len(now.events) != mostEvents || now.history.Every != 10 {
			t.Errorf("%d, %d points, %d events", len(now.history.Connections), len(now.hosts["web-1"]), len(now.events))
		}
		var after string
		source.change(func() { after = source.after })
		if at := now.fleet.At.Add(-400 * 10 * time.Second).Add(-eventsSince).UnixMilli(); after != fmt.Sprint(at, "-0") {
			t.Errorf("events are read from %s, want %d-0", after, at)
		}
	})
}

// A limit of the policy is every host's capacity.
func TestLimit(t *testing.T) {
	t.Parallel()
	bubble(t, func() Config {
		c := still()
		c.Policy.Limit = 4000
		c.Source.(*synthetic).hosts[0].Capacity = nil
		c.Source.(*synthetic).hosts[2].Vanished = true
		return c
	}, func(t *testing.T, s *server, _ *synthetic) {
		v := watchStream(t, s, "/events")
		f := v.frames(t)[0]
		if *f.Totals.Capacity != 8000 || *f.Totals.Utilization != 37.5 || f.Hosts[0]["k"] != 4000.0 || f.Hosts[1]["k"] != 4000.0 {
			t.Errorf("%+v", f)
		}
		v.leave()
		<-v.left
	})
}

// A fleet beyond all bounds is shown in part.
func TestBounds(t *testing.T) {
	t.Parallel()
	var s state
	for i := range mostHosts + 5 {
		s.fleet.Hosts = append(s.fleet.Hosts, fleet.Host{ID: fmt.Sprintf("h%06d", i), Workers: make([]fleet.Worker, 100)})
	}
	n := s.next(reading{fleet: s.fleet, at: time.Now()}, standard(), common{})
	if len(n.rows) != mostHosts || len(n.hosts) != mostHosts || len(n.full()) > 5<<20 {
		t.Errorf("%d rows, %d histories, %d bytes", len(n.rows), len(n.hosts), len(n.full()))
	}
	if text := string(n.rows[0].json); !strings.HasSuffix(text, `"more":68}`) {
		t.Error(text)
	}
}

// Figures of strangers, however large, make no sum negative.
func TestHugeSums(t *testing.T) {
	t.Parallel()
	n := int64(1) << 53
	all := sumUp(slices.Repeat([]fleet.Host{{Queue: &n, Refused: &n, Moved: &n}}, 1100))
	if *all.Queue != n || *all.Refused != n || *all.Moved != n {
		t.Errorf("%d %d %d", *all.Queue, *all.Refused, *all.Moved)
	}
}

// A viewer who does not read is disconnected; the others see no difference.
func TestViewerNeverReads(t *testing.T) {
	t.Parallel()
	l := standard()
	l.period, l.frame = 20*time.Millisecond, 2*time.Second
	c := config(newSynthetic(300, 8))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, ended := newServer(c, l), make(chan error, 1)
	go func() { ended <- s.serve(ctx, ln) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	silent, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := fmt.Fprintf(silent, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get("http://" + ln.Addr().String() + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	deadline, both := time.Now().Add(patience), false
	for lines := bufio.NewReader(answer.Body); ; {
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatalf("the one who reads: %v", err)
		}
		watching := len(s.viewers)
		both = both || watching == 2
		if both && watching == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d watch after %s, both seen: %v", watching, patience, both)
		}
	}
}

// A thousand viewers watch, the next is told to come later, and all get out again.
func TestThousandViewers(t *testing.T) {
	t.Parallel()
	l := standard()
	l.period = 200 * time.Millisecond
	l.request, l.frame = patience, patience // a thousand clients are as slow as the machine
	url := serveWithin(t, config(newSynthetic(10, 8)), l)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{MaxIdleConns: 1}}
	var reading, begun sync.WaitGroup
	watch := func(leave context.Context) {
		defer reading.Done()
		request, _ := http.NewRequestWithContext(leave, http.MethodGet, url+"events?app=shop", nil)
		answer, err := client.Do(request)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", answer, err)
			begun.Done()
			return
		}
		defer answer.Body.Close()
		frames := 0
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "data: ") {
				if frames++; frames == 3 {
					begun.Done()
				}
			}
		}
	}
	leave, left := context.WithCancel(ctx)
	defer left()
	begun.Add(l.viewers)
	reading.Add(l.viewers)
	for range l.viewers {
		go watch(leave)
	}
	begun.Wait()
	get := func(path string) int {
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	if status := get("events?app=shop"); status != http.StatusServiceUnavailable {
		t.Errorf("one more: %d", status)
	}
	if status := get("v1/scale?app=shop"); status != http.StatusOK {
		t.Errorf("an autoscaler beside them: %d", status)
	}
	left()
	reading.Wait()
	for ctx.Err() == nil && get("events?app=shop") != http.StatusOK {
	}
}

// That Redis can't be read is logged once, by the apps or, where there are none, by who looks for them.
func TestRedisAwayIsLogged(t *testing.T) {
	var log bytes.Buffer
	configure := func() Config {
		c := few()
		source := c.Source.(*synthetic)
		source.err = errors.New("no password")
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		return c
	}
	bubble(t, configure, func(t *testing.T, _ *server, source *synthetic) {
		for _, err := range []error{nil, errors.New("refused"), nil} {
			pass(20)
			source.change(func() { source.err = err })
		}
		pass(20)
	})
	want := `level=WARN msg="Redis can't be read: it is tried again" why="no password"
level=INFO msg="Redis can be read again"
level=WARN msg="Redis can't be read: it is tried again" app=shop why=refused
level=INFO msg="Redis can be read again" app=shop
`
	if log.String() != want {
		t.Errorf("logged\n%swant\n%s", log.String(), want)
	}
}
