package fleet_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
)

// leave ends a report and takes the host off the list.
func (r *report) leave(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r.Close(ctx, true)
}

func number(t testing.TB, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// now is Redis's time in ms.
func (s *server) now() int64 {
	s.t.Helper()
	parts := texts(s.t, s.do("TIME"))
	return number(s.t, parts[0])*1000 + number(s.t, parts[1])/1000
}

// A report has every key of the contract, and a leave takes the host's away.
func TestRealSingle(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	a := newApp("b1", 4)
	a.happen("up", "")
	r := startReport(t, a, fleet.Settings{URL: "redis://" + s.address, ConnectionLimit: 80, TTL: time.Minute})
	hash := r.seen(t, s)
	h := r.is(t, control.RedisUp)
	if h.Error != "" || h.Host != "web-1" || h.URL != "redis://"+s.address || h.Twin {
		t.Errorf("health: %+v", h)
	}
	if hash["capacity"] != "80" {
		t.Errorf("capacity %q", hash["capacity"])
	}
	if got := s.do("ZSCORE", "forkd:{shop}:load", "web-1"); got != "5000" {
		t.Errorf("load %v: 40 of 80 are 5000", got)
	}
	now := s.now()
	for key, score := range map[string]any{
		"hosts": s.do("ZSCORE", "forkd:{shop}:hosts", "web-1"), "apps": s.do("ZSCORE", "forkd:apps", "shop"),
	} {
		if ms := number(t, fmt.Sprint(score)); ms <= now || ms > now+2*time.Minute.Milliseconds() { // the app's for two times to live
			t.Errorf("%s: expires at %d, now is %d", key, ms, now)
		}
	}
	if ttl := s.do("PTTL", r.key()).(int64); ttl <= 0 || ttl > time.Minute.Milliseconds() {
		t.Errorf("the hash lives for %d ms", ttl)
	}
	var columns map[string][]any
	if err := json.Unmarshal([]byte(hash["workers"]), &columns); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"slot", "pid", "generation", "state", "connections", "accepted", "requests", "queue", "cpu_percent", "rss_bytes", "restarts"} {
		if len(columns[name]) != 4 {
			t.Errorf("column %s: %v", name, columns[name])
		}
	}
	until(t, "the event", func() error {
		if got := appended(t, s); !slices.Equal(got, []string{"1 up "}) {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	a.happen("down", "stopped")
	r.leave(t)
	for _, key := range []string{r.key(), "forkd:{shop}:hosts", "forkd:{shop}:load"} {
		if n := s.do("EXISTS", key); n != int64(0) {
			t.Errorf("%s is there after the leave", key)
		}
	}
	if got := appended(t, s); !slices.Equal(got, []string{"1 up ", "2 down stopped"}) {
		t.Errorf("events after the leave: %q", got)
	}
}

func TestRealSocket(t *testing.T) {
	t.Parallel()
	s := start(t, options{socket: true})
	r := startReport(t, newApp("b1", 2), fleet.Settings{URL: "unix://" + s.address})
	r.seen(t, s)
	r.is(t, control.RedisUp)
}

// leastPrivilege are the rights of docs/fleet.md, without the password.
func leastPrivilege(t testing.TB) (reporter, reader string) {
	t.Helper()
	for line := range strings.Lines(fleetDocument(t)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "user forkd on "):
			reporter = line
		case strings.HasPrefix(line, "user forkd-reader on "):
			reader = line
		}
	}
	if reporter == "" || reader == "" {
		t.Fatal("docs/fleet.md has no line of rights")
	}
	return reporter, reader
}

// allowed is a line of rights with the password of [secret], and more of them.
func allowed(rights, more string) string {
	return strings.Replace(rights, ">SECRET", ">pass/word#1:@", 1) + " " + more
}

// secret writes the file of a password.
func secret(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, "pass/word#1:@\n")
	return file
}

// refusedNothing looks into the servers' own log of what users may not do.
func refusedNothing(t testing.TB, servers []*server) {
	t.Helper()
	for _, s := range servers {
		if s.guard == nil {
			continue
		}
		var reply any
		until(t, "the log of what was refused", func() (err error) { // a server that becomes a replica closes clients' connections
			reply, err = s.try("ACL", "LOG")
			return err
		})
		if log := texts(t, reply); len(log) > 0 {
			t.Errorf("refused: %v", log)
		}
	}
}

// A user with the rights that the document names, no more, over TLS, whose
// password comes from a file. A server that no known authority vouches for is
// not talked to.
func TestRealACLAndTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ours")
	rights, _ := leastPrivilege(t)
	s := start(t, options{
		secure: ca, user: "root", password: "all",
		config: []string{"user default off", "user root on >all ~* &* +@all", allowed(rights, "")},
	})
	settings := fleet.Settings{URL: "rediss://" + s.address, Username: "forkd", PasswordFile: secret(t), CAFile: ca.file, Control: true, ConnectionLimit: 100}

	unknown := settings
	unknown.HostID, unknown.CAFile = "web-2", newAuthority(t, "another").file
	stranger := startReport(t, newApp("b2", 1), unknown)
	if h := stranger.said(t, "certificate"); h.State == control.RedisUp {
		t.Errorf("it talks to a server of an unknown authority: %+v", h)
	}

	a := newApp("b1", 2)
	a.happen("up", "")
	r := startReport(t, a, settings)
	r.seen(t, s)
	s.do("SCRIPT", "FLUSH") // it may be sent again
	a.hold(77)
	r.seen(t, s)
	order(t, s, "web-1", "c1", "drain", `{}`)
	until(t, "the command", func() error {
		if got := a.obeyed(); !slices.Equal(got, []string{"c1"}) {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	r.leave(t)
	if n := s.do("EXISTS", r.key(), stranger.key()); n != int64(0) {
		t.Errorf("%v hosts are there", n)
	}
	refusedNothing(t, []*server{s})
}

// said waits until the report has an error with a text in it.
func (r *report) said(t testing.TB, text string) control.Redis {
	t.Helper()
	var h control.Redis
	until(t, "an error", func() error {
		if h = r.Health(); !strings.Contains(h.Error, text) {
			return fmt.Errorf("%q has no %q", h.Error, text)
		}
		return nil
	})
	return h
}

// order sends a command as any Redis client can.
func order(t testing.TB, s *server, host, id, op, args string) {
	t.Helper()
	expires := time.UnixMilli(s.now()).Add(time.Minute).UTC().Format(time.RFC3339Nano)
	s.do("RPUSH", "forkd:{shop}:cmd:"+host, fmt.Sprintf(`{"id":%q,"op":%q,"args":%s,"expires_at":%q}`, id, op, args, expires))
}

// Whoever listens hears of a change at once, not an interval later.
func TestRealChange(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	a := newApp("b1", 2)
	r := startReport(t, a, fleet.Settings{URL: "redis://" + s.address, Interval: 10 * time.Minute, TTL: time.Hour})
	r.seen(t, s)
	w, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer w.conn.Close()
	_ = w.conn.SetDeadline(time.Now().Add(patience))
	if _, err := w.do("SUBSCRIBE", "forkd:{shop}:changed"); err != nil {
		t.Fatal(err)
	}
	for _, connections := range []int64{30, 5000, 0} {
		a.hold(connections)
		got, err := w.read()
		if err != nil {
			t.Fatal(err)
		}
		if message := texts(t, got); !slices.Equal(message, []string{"message", "forkd:{shop}:changed", "web-1"}) {
			t.Errorf("%q", message)
		}
		r.seen(t, s)
	}
	a.happen("crashed", "killed by SIGSEGV")
	until(t, "the event", func() error {
		if got := appended(t, s); !slices.Equal(got, []string{"1 crashed killed by SIGSEGV"}) {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}
