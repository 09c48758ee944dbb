package worker_test

import (
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker"
	"github.com/forkd/forkd/worker/internal/servetest"
)

func TestMessages(t *testing.T) {
	m := servetest.NewMaster(t)
	w := m.Worker()
	if err := w.Send(map[string]any{"a": []int{1}}); err != nil {
		t.Fatal(err)
	}
	got, err := m.Read()
	if diff := cmp.Diff(ipc.Message(ipc.App(`{"a":[1]}`)), got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for what, bad := range map[string]any{
		"reserved":     map[string]string{"cmd": "FORKD_READY"},
		"over 1048576": strings.Repeat("x", ipc.MaxLine),
		"unsupported":  make(chan int),
	} {
		if err := w.Send(bad); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	m.ExpectNothing()

	m.Write([]byte("{\"cmd\":\"FORKD_NEWER\"}\n[1]\n"))
	select {
	case got := <-w.Messages():
		if string(got) != "[1]" {
			t.Errorf("got %s", got)
		}
	case <-time.After(servetest.Timeout):
		t.Fatal("no message came")
	}
}

// A program that does not receive its messages does not delay the master's.
func TestMessagesNotReceived(t *testing.T) {
	m := servetest.NewMaster(t)
	w := m.Worker()
	for range 2000 {
		m.Send(ipc.App(`"spam"`))
	}
	m.Drain(ipc.ReasonRecycle, time.Minute, 0)
	select {
	case <-w.Draining():
	case <-time.After(servetest.Timeout):
		t.Fatal("the drain did not come through")
	}
	if r := w.Reason(); r != ipc.ReasonRecycle {
		t.Errorf("drains for %q", r)
	}
	if left := time.Until(w.Deadline()); left < 50*time.Second || left > time.Minute {
		t.Errorf("%v until the deadline", left)
	}
}

// An invalid line closes the channel, and so drains.
func TestNonsenseFromTheMaster(t *testing.T) {
	m := servetest.NewMaster(t)
	w := m.Worker()
	m.Write([]byte("hello?\n"))
	select {
	case <-w.Draining():
	case <-time.After(servetest.Timeout):
		t.Fatal("does not drain")
	}
	if err := w.Send(json.RawMessage("1")); err == nil {
		t.Error("a message went into a closed channel")
	}
}

// hold opens connections to a listener of w's that the program serves itself.
func hold(t *testing.T, m *servetest.Master, w *worker.Worker, n int) {
	t.Helper()
	ln, err := w.Listen("raw", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for range n {
		for _, open := range []func() (net.Conn, error){
			func() (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) },
			ln.Accept,
		} {
			c, err := open()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
	}
	m.WaitFor(ipc.Counters{Attached: true, Open: uint64(n), Accepts: uint64(n)})
}

// told is what the program is asked to shed. Portions that come late come together.
type told chan int

func (asked told) next(t *testing.T) (n int) {
	t.Helper()
	select {
	case n = <-asked:
	case <-time.After(servetest.Timeout):
		t.Fatal("not asked to shed")
	}
	return n
}

// wait waits until it has been asked for so many more in all.
func (asked told) wait(t *testing.T, want int) {
	t.Helper()
	for left := want; left > 0; {
		if left -= asked.next(t); left < 0 {
			t.Fatalf("asked to shed %d more than %d", -left, want)
		}
	}
}

// The program is told. Connections that only it can close are cut if it does not.
func TestShed(t *testing.T) {
	m := servetest.NewMaster(t)
	w := m.Worker()
	asked := make(told, 10)
	w.OnShed(func(n int) { asked <- n })
	hold(t, m, w, 6)
	m.Send(ipc.Shed{Count: 0, Over: time.Hour})
	m.Send(ipc.Shed{Count: 5, Over: 2 * time.Second})
	asked.wait(t, 5)
	m.WaitFor(ipc.Counters{Attached: true, Open: 1, Accepts: 6})
}

// A shed during a drain (drain.shed_per_second) is passed to the program; one from
// before the drain ends when that begins.
func TestShedDuringADrain(t *testing.T) {
	m := servetest.NewMaster(t)
	w := m.Worker()
	asked := make(told, 20)
	w.OnShed(func(n int) { asked <- n })
	hold(t, m, w, 200)
	m.Send(ipc.Shed{Count: 200, Over: 20 * time.Second})
	asked.next(t)
	m.Drain(ipc.ReasonScale, time.Hour, 0)
	<-w.Draining()
	for len(asked) > 0 { // what had come before the drain
		<-asked
	}
	m.Send(ipc.Shed{Count: 30, Over: 3 * time.Second})
	asked.wait(t, 30) // the other portions would come between
	m.Send(ipc.Shed{Count: 7})
	asked.wait(t, 7)
	// A second drain message does not end it.
	m.Send(ipc.Shed{Count: 4, Over: 2 * time.Second})
	first := asked.next(t)
	m.Drain(ipc.ReasonStop, time.Hour, time.Hour)
	asked.wait(t, 4-first)
	select {
	case n := <-asked:
		t.Errorf("asked to shed %d more", n)
	default:
	}
}
