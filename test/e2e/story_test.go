package e2e

import (
	"fmt"
	"testing"
)

// Users come to four hosts, evenly. One loses power: its users come back on the
// others, spread over time, with their sessions and all messages, and its entry in Redis
// expires. It comes back, and takes new ones.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "", cut)
	f.powerOn(1, 2, 3, 4)
	const users, backoff = 800, 4
	c := f.crowd("A host loses power", "-users", fmt.Sprint(users), "-rate", "200", "-say", "50", "-backoff", fmt.Sprint(backoff, "s"))
	before := c.until("a balanced fleet", even(users, 4, 0.1))

	victim := before.Hosts["h3"]
	f.cutPower(f.hosts["h3"].node)
	c.mark("h3 loses power")
	after := c.until("all users on three hosts", even(users, 3, 0.1))
	if after.Lost != victim || after.Back.Count != victim || after.Closed+after.Restarted+after.Shed > 0 {
		t.Errorf("of %d users of a host without power: %+v", victim, after)
	}
	if after.Back.P50 < backoff/8. {
		t.Errorf("they came back within %+v", after.Back)
	}
	until(t, "h3's entry to expire", func() error {
		if h := f.status()["h3"]; !h.Vanished {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})

	f.powerOn(3)
	c.mark("h3 is back")
	c.order("users 1000")
	back := c.until("new users", all(1000))
	if back.Hosts["h3"] < 190 {
		t.Errorf("h3 is back, and new users are on %v", back.Hosts)
	}
	if status := f.status(); status["h3"].Connections != back.Hosts["h3"] {
		// The report is at most 0.5 s old.
		until(t, "the report of h3", func() error {
			if h := f.status()["h3"]; h.Connections != back.Hosts["h3"] {
				return fmt.Errorf("%+v, users %v", h, back.Hosts)
			}
			return nil
		})
	}
	r := c.quit("scaling-power.svg")
	if r.Missed+r.Doubled+r.Resets+r.Forgotten > 0 || r.Received == 0 {
		t.Errorf("messages or sessions were lost: %+v", r)
	}
	t.Logf("%d users lost a host: back after %.1f s (p50), %.1f s (p99), %.1f s (the last)", victim, r.Back.P50, r.Back.P99, r.Back.Max)
}
