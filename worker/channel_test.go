package worker_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/ipc"
	"github.com/forkd/forkd/worker/internal/fake"
)

func TestMessages(t *testing.T) {
	m := fake.New(t)
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
	m.Quiet()

	m.Write([]byte("{\"cmd\":\"FORKD_NEWER\"}\n[1]\n"))
	select {
	case got := <-w.Messages():
		if string(got) != "[1]" {
			t.Errorf("got %s", got)
		}
	case <-time.After(fake.Patience):
		t.Fatal("no message came")
	}
}

// A program that does not take its messages does not keep the master's from
// coming through.
func TestMessagesThatNobodyTakes(t *testing.T) {
	m := fake.New(t)
	w := m.Worker()
	for range 2000 {
		m.Say(ipc.App(`"spam"`))
	}
	m.Drain(ipc.ReasonRecycle, time.Minute, 0)
	select {
	case <-w.Draining():
	case <-time.After(fake.Patience):
		t.Fatal("the drain did not come through")
	}
	if r := w.Reason(); r != ipc.ReasonRecycle {
		t.Errorf("drains for %q", r)
	}
	if left := time.Until(w.Deadline()); left < 50*time.Second || left > time.Minute {
		t.Errorf("%v until the deadline", left)
	}
}

// What can't be understood ends the channel, and so drains.
func TestNonsenseFromTheMaster(t *testing.T) {
	m := fake.New(t)
	w := m.Worker()
	m.Write([]byte("hello?\n"))
	select {
	case <-w.Draining():
	case <-time.After(fake.Patience):
		t.Fatal("does not drain")
	}
	if err := w.Send(json.RawMessage("1")); err == nil {
		t.Error("a message went into a closed channel")
	}
}

func TestShed(t *testing.T) {
	m := fake.New(t)
	w := m.Worker()
	asked := make(chan int, 10)
	w.OnShed(func(n int) { asked <- n })
	m.Say(ipc.Shed{Count: 5, Over: 2 * time.Second})
	m.Say(ipc.Shed{Count: 0, Over: time.Hour})
	total := 0
	for _, want := range []int{3, 2} {
		select {
		case n := <-asked:
			if total += n; n != want {
				t.Errorf("asked to shed %d, want %d", n, want)
			}
		case <-time.After(fake.Patience):
			t.Fatal("not asked to shed")
		}
	}
	if total != 5 {
		t.Errorf("shed %d of 5", total)
	}
}

// What the master asks for during a drain (drain.shed_per_second) is obeyed; what
// it asked for before the drain ends with its begin.
func TestShedDuringADrain(t *testing.T) {
	m := fake.New(t)
	w := m.Worker()
	asked := make(chan int, 10)
	w.OnShed(func(n int) { asked <- n })
	next := func(want int) {
		t.Helper()
		select {
		case n := <-asked:
			if n != want {
				t.Errorf("asked to shed %d, want %d", n, want)
			}
		case <-time.After(fake.Patience):
			t.Fatal("not asked to shed")
		}
	}
	m.Say(ipc.Shed{Count: 2000, Over: 2 * time.Second})
	next(1000)
	m.Drain(ipc.ReasonScale, time.Hour, 0)
	m.Say(ipc.Shed{Count: 30, Over: 3 * time.Second})
	for range 3 { // the other thousand would come between them
		next(10)
	}
	m.Say(ipc.Shed{Count: 7})
	next(7)
	// Another order for the same drain does not end it either.
	m.Say(ipc.Shed{Count: 4, Over: 2 * time.Second})
	next(2)
	m.Drain(ipc.ReasonStop, time.Hour, time.Hour)
	next(2)
	select {
	case n := <-asked:
		t.Errorf("asked to shed %d more", n)
	default:
	}
}
