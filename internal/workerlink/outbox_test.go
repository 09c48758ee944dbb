package workerlink

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/ipc"
)

func putOwn(t *testing.T, o *outbox, m ipc.Message) {
	t.Helper()
	line, err := ipc.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	_, drain := m.(ipc.Drain)
	o.putOwn(line, drain)
}

// written is all that waits, as it would go out.
func written(o *outbox) (lines []string) {
	for line := o.next(); line != nil; line = o.next() {
		lines = append(lines, strings.TrimSpace(string(line)))
	}
	return lines
}

func TestOutboxOrder(t *testing.T) {
	var o outbox
	deadline := time.Date(2026, 11, 21, 6, 30, 0, 0, time.UTC)
	o.begin([]byte("rest\n"))
	for _, line := range []string{"1\n", "2\n"} {
		if err := o.put([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	putOwn(t, &o, ipc.Shed{Count: 1, Over: time.Second})
	putOwn(t, &o, ipc.Shed{Count: 2, Over: 2 * time.Second})
	putOwn(t, &o, ipc.Drain{Reason: "roll", Deadline: deadline})
	putOwn(t, &o, ipc.Shed{Count: 4})
	want := []string{
		"rest",
		`{"cmd":"FORKD_SHED","count":1,"seconds":1}`,
		`{"cmd":"FORKD_SHED","count":2,"seconds":2}`,
		`{"cmd":"FORKD_DRAIN","reason":"roll","deadline":"2026-11-21T06:30:00Z","idle":0}`,
		`{"cmd":"FORKD_SHED","count":4,"seconds":0}`,
		"1", "2",
	}
	if diff := cmp.Diff(want, written(&o)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(outbox{}, o, cmp.AllowUnexported(outbox{})); diff != "" {
		t.Errorf("something is kept: %s", diff)
	}
}

// Of forkd's own messages few wait, and the newest counts.
func TestOutboxOwnAreFew(t *testing.T) {
	var o outbox
	deadline := time.Date(2026, 11, 21, 6, 30, 0, 0, time.UTC)
	for i := range 1000 {
		putOwn(t, &o, ipc.Drain{Reason: "roll", Deadline: deadline.Add(time.Duration(i) * time.Second)})
		putOwn(t, &o, ipc.Shed{Count: 1})
	}
	putOwn(t, &o, ipc.Drain{Reason: "stop", Deadline: deadline})
	if lines := written(&o); len(lines) != maxOwn || !strings.Contains(lines[maxOwn-1], `"reason":"stop"`) {
		t.Errorf("%d wait: %q", len(lines), lines)
	}
}

func TestOutboxRefuses(t *testing.T) {
	var o outbox
	line := []byte(strings.Repeat("x", maxWaiting/4-1) + "\n")
	for range 4 {
		if err := o.put(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.put([]byte("1\n")); !errors.Is(err, errFull) {
		t.Errorf("one too many: %v", err)
	}
	o.next() // taken, and not yet known to be out
	if err := o.put([]byte("1\n")); !errors.Is(err, errFull) {
		t.Errorf("while one is written: %v", err)
	}
	o.next()
	if err := o.put([]byte("1\n")); err != nil {
		t.Errorf("when one is out: %v", err)
	}
}
