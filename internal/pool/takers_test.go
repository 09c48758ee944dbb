package pool

import (
	"slices"
	"testing"
	"time"
)

// A worker's connections go to the ready worker of its slot, or, where the slot leaves, to
// those of the slots that stay; at a stop to nobody.
func TestTakers(t *testing.T) {
	p, now := New(testSettings(), 3, 3), time.Unix(1_700_000_000, 0)
	step := func(events ...Event) {
		for _, ev := range events {
			p.Step(now, ev)
		}
	}
	expect := func(of ID, want ...ID) {
		t.Helper()
		if got := p.Takers(of); !slices.Equal(got, want) {
			t.Errorf("of %v: %v, want %v", of, got, want)
		}
	}
	a, b, c := ID{0, 1, 1}, ID{1, 1, 1}, ID{2, 1, 1}
	step(Began{}, Started{a}, Started{b}, Started{c})
	expect(a)
	step(Notified{a}, Notified{b}, Notified{c})
	expect(a)
	next := ID{0, 2, 2}
	step(RollRequested{}, Prepared{2, testSettings(), 3}, Started{next})
	expect(a) // its successor is not ready
	step(Notified{next})
	expect(a, next)
	expect(next)
	step(ScaleRequested{Slots: 2})
	expect(c, next, b)
	step(StopRequested{})
	expect(a)
	expect(c)
	expect(ID{9, 1, 1})
}
