package supervisor

import "testing"

// The shares of all slots are the whole, and differ by one at most.
func TestShare(t *testing.T) {
	for _, c := range []struct {
		connections int64
		slots       int
		want        []int64
	}{
		{10, 1, []int64{10}},
		{10, 2, []int64{5, 5}},
		{10, 4, []int64{3, 3, 2, 2}},
		{4, 4, []int64{1, 1, 1, 1}},
		{2, 3, []int64{1, 1, 1}}, // scaled beyond the limit
	} {
		for slot, want := range c.want {
			if got := share(c.connections, slot, c.slots); got != want {
				t.Errorf("slot %d of %d has %d of %d, want %d", slot, c.slots, got, c.connections, want)
			}
		}
	}
	if got := share(10, 5, 4); got != 2 {
		t.Errorf("a slot that leaves has %d, want 2", got)
	}
}

// A scale beyond the connections is refused.
func TestCheckShares(t *testing.T) {
	cfg := Defaults()
	if err := checkSlots(cfg, MaxWorkers); err != nil {
		t.Error(err)
	}
	cfg.Redis.MaxConnections = 4
	if err := checkSlots(cfg, 4); err != nil {
		t.Error(err)
	}
	if err := checkSlots(cfg, 5); err == nil || err.Error() != "cannot share 4 connections out among 5 workers: raise redis.max_connections_per_host, and reload" {
		t.Error(err)
	}
}
