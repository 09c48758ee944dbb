package pace

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		p := New(1000, began)
		for i := range 1000 {
			if d := p.Take(1, began); d != 0 {
				t.Fatalf("rests %v after %d", d, i+1)
			}
		}
		if d := p.Take(1, began); d != minRest {
			t.Errorf("rests %v after one too many, want %v", d, minRest)
		}
		if d := p.Take(999, began); d != time.Second {
			t.Errorf("rests %v when a second's worth was taken in advance", d)
		}
		time.Sleep(time.Hour) // virtual: what was not taken is not saved up
		if d := p.Take(1000, time.Now()); d != 0 {
			t.Errorf("rests %v after a pause", d)
		}
		if d := p.Take(1, time.Now()); d == 0 {
			t.Error("a pause was saved up")
		}

		// Over a minute, the pace.
		p, began = New(1000, time.Now()), time.Now()
		taken := 0
		for time.Since(began) < time.Minute {
			taken++
			Rest(p.Take(1, time.Now()), nil)
		}
		if taken < 60_000 || taken > 61_100 {
			t.Errorf("%d in a minute", taken)
		}
	})
}

func TestRestEndsWithItsChannel(t *testing.T) {
	done := make(chan struct{})
	close(done)
	Rest(time.Hour, done)
	Rest(0, nil)
}
