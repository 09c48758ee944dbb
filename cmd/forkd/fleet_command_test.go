package main

import (
	"strings"
	"testing"

	"github.com/forkd/forkd/internal/fleet"
)

func TestBatches(t *testing.T) {
	for text, want := range map[string][2]int{"10%": {21, 3}, "1%": {10, 1}, "100%": {7, 7}, "3": {7, 3}, "50%": {5, 3}} {
		size, err := parseBatch(text)
		if err != nil || size(want[0]) != want[1] {
			t.Errorf("%s of %d: %v", text, want[0], err)
		}
	}
	for _, text := range []string{"0", "0%", "101%", "-1", "", "%", "ten", "1.5", "99999999999"} {
		if _, err := parseBatch(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestChooseHosts(t *testing.T) {
	hosts := []fleet.Host{
		{ID: "a", Stale: true},
		{ID: "b"},
		{ID: "c", Vanished: true},
		{ID: "d", Twin: "x"},
		{ID: "e", Control: new(true)},
		{ID: "f", Control: new(false)},
		{ID: "\x1b[2J"},
	}
	for _, c := range []struct {
		hosts []fleet.Host
		names string
		want  string
	}{
		{hosts[:3], "", "a b"},
		{hosts, "b a b", "a b"},
		{hosts, "b c z", "shop: no such host reports: c, z: forkd fleet status shop shows those that do"},
		{hosts, "\x1b[2J", "shop: no such host reports: \x1b[2J: forkd fleet status shop shows those that do"},
		{hosts, "", "shop: two masters report as d: give each a redis.host_id of its own, or leave it out"},
		{hosts, "b e", "b e"},
		{hosts, "b f e", "shop: nothing was sent: no commands are executed by f: set redis.control = true there; the embedded Redis takes none"},
		{hosts[2:3], "", "shop: every host has vanished: see forkd fleet status shop"},
	} {
		picked, err := choose(c.hosts, "shop", strings.Fields(c.names))
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			var ids []string
			for i := range picked {
				ids = append(ids, picked[i].ID)
			}
			got = strings.Join(ids, " ")
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.names, got, c.want)
		}
	}
}

func TestFewNames(t *testing.T) {
	if got := few(many(10)); got != "web-00, web-01, web-02, web-03, web-04, web-05, web-06, web-07 and 2 more" {
		t.Error(got)
	}
}

func TestIDsDiffer(t *testing.T) {
	first, second := newID(), newID()
	if len(first) != 16 || first == second || strings.Trim(first, "0123456789abcdef") != "" {
		t.Errorf("%s, %s", first, second)
	}
}

// What is wrong with a command line is said before Redis is asked.
func TestFleetUsage(t *testing.T) {
	t.Setenv("FORKD_RUNTIME_DIR", t.TempDir())
	t.Setenv(redisVariable, "redis://127.0.0.1:1")
	for args, want := range map[string]string{
		"fleet nonsense":                                    `unknown command "fleet nonsense": see forkd fleet --help`,
		"fleet simulate":                                    `unknown command "fleet simulate": see forkd fleet --help`,
		"fleet statsu":                                      `unknown command "fleet statsu": did you mean forkd fleet status?`,
		"fleet status a b":                                  "wrong number of arguments: write forkd fleet status [APP]",
		"fleet status --json -w":                            "use only one of --json and --watch: see forkd fleet status --help",
		"fleet status a/b":                                  `"a/b" is no name of an app: 1 to 48 of A-Z a-z 0-9 . _ -, a letter or digit first`,
		"fleet events":                                      "wrong number of arguments: write forkd fleet events APP",
		"fleet scale shop":                                  "wrong number of arguments: write forkd fleet scale APP N|+N|-N|cpus HOST...|--all",
		"fleet scale shop lots web-1":                       `"lots" is no number of workers: use 1 to 1024, +N, -N, cpus, cpus-1, cpus*2+1 or 50%`,
		"fleet scale shop -1":                               "name the hosts, or use --all: write forkd fleet scale APP N|+N|-N|cpus HOST...|--all",
		"fleet scale shop -1 web-1 --all":                   "name hosts, or use --all: write forkd fleet scale APP N|+N|-N|cpus HOST...|--all",
		"fleet scale shop 2 --nonsense":                     "unknown flag: --nonsense: see forkd fleet scale --help",
		"fleet scale shop 2 --within -1":                    `--within "-1": use a time, such as 90s, 5m or 1h: see forkd fleet scale --help`,
		"fleet advise shop --min-hosts 2.5":                 `--min-hosts "2.5": use a whole number: see forkd fleet advise --help`,
		"fleet advise shop --min-hosts 9999999999999999999": `--min-hosts "9999999999999999999": use a whole number: see forkd fleet advise --help`,
		"fleet advise shop --max-utilization-percent x":     `--max-utilization-percent "x": use a number: see forkd fleet advise --help`,
		"shed shop 5 --all":                                 `unknown command "shed": did you mean forkd fleet shed?`,
		"roll shop":                                         "roll is forkd reload --keep-config APP on this host, and forkd fleet roll APP on all",
		"fleet drain":                                       "name an app and its hosts: write forkd fleet drain APP HOST...|--all",
		"fleet drain shop":                                  "name the hosts, or use --all: write forkd fleet drain APP HOST...|--all",
		"fleet resume shop w --within 2h":                   "--within 2h0m0s: use 1s to 1h",
		"fleet shed shop":                                   "wrong number of arguments: write forkd fleet shed APP COUNT HOST...|--all",
		"fleet shed shop 0 w":                               `"0" is no number of connections: use 1 or more`,
		"fleet shed shop 5 w --seconds 0":                   "--seconds 0: use 1 to 3600",
		"fleet roll shop":                                   "name the hosts, or use --all: write forkd fleet roll APP HOST...|--all|--hosts N|N%",
		"fleet reload shop":                                 "name the hosts, or use --all: write forkd fleet reload APP HOST...|--all|--hosts N|N%",
		"fleet roll shop --hosts 0%":                        "--hosts 0%: use a number of hosts from 1, or a share: 10%",
		"fleet status --redis redis://x -c f":               "use only one of --redis and -c",
		"fleet status --redis http://x":                     "--redis is no URL of Redis: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// and a host",
		"fleet status --redis embedded":                     "--redis: embedded is a Redis of the app's own: leave this out on the host where the app runs",
		"fleet status --read-from nobody":                   `--read-from is "nobody": must be "primary" or "replica"`,
		"fleet status --password-file /nonexistent":         "--password-file: stat /nonexistent: no such file or directory",
		"fleet status -c /nonexistent":                      "/nonexistent: cannot read it: no such file or directory",
	} {
		code, out, err := forkd(t, strings.Fields(args)...)
		if code != exitUsage || out != "" || err != "forkd: "+want+"\n" {
			t.Errorf("%s: exit %d, %s%s\nwant %s", args, code, out, err, want)
		}
	}
}

func TestFleetHelp(t *testing.T) {
	_, whole, _ := forkd(t, "fleet")
	for _, name := range []string{"status", "events", "scale", "drain", "resume", "shed", "roll", "reload", "advise", "serve", "haproxy"} {
		if !strings.Contains(whole, "\n  "+name+" ") {
			t.Errorf("%s is not in the help:\n%s", name, whole)
		}
		code, out, err := forkd(t, "fleet", name, "--help")
		if code != exitDone || err != "" || !strings.Contains(out, "Examples:\n  forkd fleet "+name) {
			t.Errorf("%s: exit %d, %s%s", name, code, out, err)
		}
		for line := range strings.Lines(out) {
			if len(line) > len("\n")+80 {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
}
