package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// autoscaler starts and removes hosts as the adviser says: what an autoscaling group, Nomad or
// a script does for people.
type autoscaler struct {
	f    *fleet
	c    *crowd
	asks string // the file to which the adviser's hook appends a line each time
	done int    // lines that were carried out
}

// limits are those of each host: connections that it can hold, and that it accepts.
const limits = "connection_limit_per_host = 200\nmax_connections_per_host = 200"

// advised starts an adviser that leads.
func (f *fleet) advised(c *crowd, args ...string) *autoscaler {
	f.t.Helper()
	a := &autoscaler{f: f, c: c, asks: filepath.Join(f.dir, "asks")}
	f.write(a.asks, "")
	f.front.start([]string{"ASKS=" + a.asks}, append([]string{
		filepath.Join(f.bin, "forkd"), "fleet", "advise", "chat", "-f", "--act", "--redis", f.redis, "--max-hosts", strconv.Itoa(mostHosts),
		"--exec", `echo "$FORKD_ADVICE_ADD $FORKD_ADVICE_REMOVE" >>"$ASKS"`,
	}, args...)...)
	return a
}

// meanwhile has what the adviser wants done while a report is waited for.
func (a *autoscaler) meanwhile(good func(report) error) func(report) error {
	return func(r report) error {
		a.carryOut()
		return good(r)
	}
}

func (a *autoscaler) carryOut() {
	a.f.t.Helper()
	text, err := os.ReadFile(a.asks)
	if err != nil {
		a.f.t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for ; a.done < len(lines) && strings.HasSuffix(lines[a.done], "\n"); a.done++ {
		words := strings.Fields(lines[a.done])
		add, err := strconv.Atoi(words[0])
		if err != nil {
			a.f.t.Fatalf("the hook was told %q", lines[a.done])
		}
		for i := 1; add > 0 && i <= mostHosts; i++ {
			if name := fmt.Sprintf("h%d", i); a.f.hosts[name] == nil {
				a.f.begin(i)
				a.c.mark(name + " is added")
				add--
			}
		}
		for _, name := range words[1:] {
			if h := a.f.hosts[name]; h != nil {
				h.start(a.f.env(name), filepath.Join(a.f.bin, "forkd"), "stop", "chat")
				delete(a.f.hosts, name)
				a.c.mark(name + " is removed")
			}
		}
	}
}

// More users come at once than a host may have: the others are refused, by the host or, with
// the agent's maxconn, by HAProxy, and try again, hosts are added, and in the end all are there.
func TestRamp(t *testing.T) {
	f := newFleet(t, limits, agents)
	f.powerOn(1)
	const users = 500
	c := f.crowd("Users come at once", "-users", fmt.Sprint(users), "-rate", "150", "-say", "20", "-backoff", "300ms", "-backoff-max", "3s")
	a := f.advised(c, "--out-cooldown", "2s", "--in-cooldown", "1h", "--start-timeout", "20s")
	c.until("refusals", a.meanwhile(func(r report) error {
		if r.Refused+r.Failed == 0 {
			return fmt.Errorf("none yet: %+v", r)
		}
		return nil
	}))
	refused, since := 0, 0.
	c.until("everybody, and no refusals for 3 s", a.meanwhile(func(r report) error {
		if n := r.Refused + r.Failed; n != refused {
			refused, since = n, r.Seconds
		}
		if r.Seconds-since < 3 {
			return fmt.Errorf("refused until %v", since)
		}
		return all(users)(r)
	}))
	r := c.quit("scaling-ramp.svg")
	if len(f.hosts) < 3 || r.Lost+r.Restarted+r.Shed > 0 {
		t.Errorf("%d hosts, %+v", len(f.hosts), r)
	}
	t.Logf("%d users on %d hosts of 200: %d refused, %d of them by HAProxy, the last after %.0f s", users, len(f.hosts), refused, r.Failed, since)
}

// Users come one by one: hosts are added before any is full, and nobody is refused.
func TestGrowth(t *testing.T) {
	f := newFleet(t, limits, leave)
	f.powerOn(1)
	const users = 480
	c := f.crowd("Users come one by one", "-users", fmt.Sprint(users), "-rate", "8", "-batch", "4", "-say", "20")
	a := f.advised(c, "--out-cooldown", "2s", "--in-cooldown", "1h", "--start-timeout", "20s", "--max-utilization-percent", "50")
	c.until("everybody", a.meanwhile(all(users)))
	r := c.quit("scaling-growth.svg")
	if len(f.hosts) < 3 || r.Refused+r.Lost+r.Restarted+r.Shed+r.Failed > 0 {
		t.Errorf("%d hosts, %+v", len(f.hosts), r)
	}
	t.Logf("%d users, %.0f s, %d hosts of 200: %d refused", users, r.Seconds, len(f.hosts), r.Refused)
}

// Users leave: hosts drain, are removed when their time is over, and what they still have
// comes back on those that stay.
func TestLeave(t *testing.T) {
	f := newFleet(t, limits, agents)
	f.powerOn(1, 2, 3, 4)
	c := f.crowd("Users leave", "-users", "480", "-rate", "200", "-say", "20", "-backoff", "2s")
	c.until("everybody", all(480))
	const stay = 120
	c.order(fmt.Sprintf("users %d", stay))
	c.until("those who stay", all(stay))
	a := f.advised(c, "--in-cooldown", "4s", "--out-cooldown", "4s", "--start-timeout", "10s", "--drain-timeout", "10s")
	drained := c.until("hosts that drain", a.meanwhile(func(r report) error {
		draining := 0
		for _, h := range f.status() {
			if h.State == "draining" {
				draining++
			}
		}
		if draining != 3 {
			return fmt.Errorf("%d drain: %v", draining, f.status())
		}
		return all(stay)(r)
	}))
	if drained.Restarted+drained.Lost+drained.Shed > 0 {
		t.Errorf("users were cut off before their host's time was over: %+v", drained)
	}
	c.mark("three hosts drain")
	c.until("one host with everybody", a.meanwhile(even(stay, 1, 0)))
	r := c.quit("scaling-leave.svg")
	if len(f.hosts) != 1 || r.Lost+r.Missed+r.Doubled+r.Forgotten > 0 || r.Restarted == 0 {
		t.Errorf("%d hosts, %+v", len(f.hosts), r)
	}
	t.Logf("480 users became %d: %d of 4 hosts are left, %d users were moved by a close frame, %d lost", stay, len(f.hosts), r.Restarted, r.Lost)
}

// Half of the users of one host leave: the others shed, and the fleet is even again.
func TestUneven(t *testing.T) {
	f := newFleet(t, limits, leave)
	f.powerOn(1, 2, 3, 4)
	const users = 560
	c := f.crowd("Half of the users of one host leave", "-users", fmt.Sprint(users), "-rate", "200", "-say", "20", "-backoff", "2s")
	before := c.until("a balanced fleet", even(users, 4, 0.1))
	c.order("leave h2 50")
	rest := users - before.Hosts["h2"]/2
	a := f.advised(c, "--min-hosts", "4", "--shed-per-second", "10")
	after := c.until("an even fleet", a.meanwhile(func(r report) error {
		if r.Users != rest && r.Users != rest-1 { // half of an odd number
			return fmt.Errorf("%d users, want %d", r.Users, rest)
		}
		return even(r.Users, 4, 0.1)(r)
	}))
	r := c.quit("scaling-uneven.svg")
	if r.Shed == 0 || r.Lost+r.Restarted+r.Missed+r.Doubled+r.Forgotten > 0 {
		t.Errorf("%+v", r)
	}
	t.Logf("hosts had %v, and %d of h2 left: %d users were shed, then %v", before.Hosts, before.Hosts["h2"]/2, r.Shed, after.Hosts)
}
