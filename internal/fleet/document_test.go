package fleet_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/fleet"
)

func fleetDocument(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The reader in ten lines is run as it stands in the document.
func TestDocumentReader(t *testing.T) {
	t.Parallel()
	_, after, _ := strings.Cut(fleetDocument(t), "<!-- reader:")
	_, after, _ = strings.Cut(after, "```sh\n")
	script, _, found := strings.Cut(after, "```\n")
	if lines := strings.Count(script, "\n"); !found || lines > 10 || lines == 0 {
		t.Fatalf("%d lines", lines)
	}
	s := start(t, options{})
	one, two := newApp("b1", 4), newApp("b2", 3)
	reports := []*report{
		startReport(t, one, fleet.Settings{URL: "redis://" + s.address, HostID: "web-1", ConnectionLimit: 80}),
		startReport(t, two, fleet.Settings{URL: "redis://" + s.address, HostID: "web-2.example:1"}),
	}
	for _, r := range reports {
		r.seen(t, s)
	}
	// What is no report does no harm, and what has expired is not there.
	s.do("ZADD", "forkd:{shop}:hosts", "+inf", "evil\x1b[2J", "+inf", "$(reboot)", "+inf", "*", "1", "gone")
	s.do("ZADD", "forkd:{shop}:hosts", "+inf", "other")
	s.do("HSET", "forkd:{shop}:host:other", "schema", "2", "connections", "1000000")
	run := func(url string) string {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script, "reader", "shop")
		cmd.Env = append(os.Environ(), "FORKD_REDIS_URL="+url)
		out, err := cmd.Output()
		if err != nil {
			return fmt.Sprint(err)
		}
		return string(out)
	}
	want := "web-1 ready 40 80\nweb-2.example:1 ready 30 -\n2 hosts 70 connections\n"
	if diff := cmp.Diff(want, run("redis://"+s.address)); diff != "" {
		t.Error(diff)
	}
	s.do("HDEL", reports[1].key(), "connections")
	if got := run("redis://" + s.address); !strings.HasSuffix(got, "2 hosts - connections\n") && got != want { // a beat may have come between
		t.Errorf("with one unknown: %q", got)
	}
	s.end()
	if got := run("redis://" + s.address); !strings.HasPrefix(got, "exit status") {
		t.Errorf("without Redis: %q", got)
	}
}

// The document knows every field that a report has, and every key.
func TestDocumentNamesAll(t *testing.T) {
	t.Parallel()
	text := fleetDocument(t)
	s := start(t, options{})
	a := newApp("b1", 2)
	a.happen("up", "")
	r := startReport(t, a, fleet.Settings{URL: "redis://" + s.address, ConnectionLimit: 50})
	hash := r.seen(t, s)
	for field := range hash {
		if !strings.Contains(text, "`"+field+"`") {
			t.Errorf("docs/fleet.md doesn't name the field %s", field)
		}
	}
	for _, key := range texts(t, s.do("KEYS", "*")) {
		name := strings.NewReplacer("{shop}", "{APP}", "web-1", "HOST").Replace(key)
		if !strings.Contains(text, "| `"+name+"` | ") {
			t.Errorf("docs/fleet.md doesn't name the key %s", name)
		}
	}
	until(t, "an event", func() error {
		if len(appended(t, s)) == 0 {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	for _, entry := range s.do("XRANGE", "forkd:{shop}:events", "-", "+").([]any) {
		for field := range pairs(t, entry.([]any)[1]) {
			if !strings.Contains(text, "`"+field+"`") {
				t.Errorf("docs/fleet.md doesn't name %s of an event", field)
			}
		}
	}
}
