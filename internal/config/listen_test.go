package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/forkd/forkd/internal/sockets"
	"github.com/google/go-cmp/cmp"
)

// What is not said of a listener, and where a relative path begins.
func TestListenerDefaults(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.etc, "shop.toml")
	load := func(content string, flags ...string) string {
		write(t, file, "command = ['x']\nworkers = 2\n"+content)
		cfg, err := h.load(typedFlags(t, flags...), "shop", nil)
		if err != nil {
			return err.Error()
		}
		var all []string
		for _, l := range cfg.Listeners {
			all = append(all, strings.Join([]string{l.Name, strings.ReplaceAll(l.Address(), filepath.Dir(h.etc), "ROOT"), l.Mode, l.Balance}, " "))
		}
		return strings.TrimSpace(strings.Join(all, "\n"))
	}
	long := strings.Repeat("n", 48)
	for _, test := range []struct {
		content string
		flags   []string
		want    string
	}{
		{
			"listen=[{address=80},{address='/x'},{address=90,mode='each'},{address=99,mode='shared'}]", nil,
			"80 tcp://:80 reuseport hash\nx unix:///x shared \n90 tcp://:90 each \n99 tcp://:99 shared",
		},
		{
			"listen=[{address=80},{address='/x'},{address=90,mode='each'},{address=99,balance='hash'}]",
			[]string{"--balance", "source"},
			"80 tcp://:80 reuseport source\nx unix:///x shared \n90 tcp://:90 each \n99 tcp://:99 reuseport source",
		},
		{"listen=[{address='run/../x'}]", nil, file + `:3:18: listen.address: "run/../x": a unix socket's path begins with "/" or "./": ` + sockets.AddressForms},
		{"listen=[{address='./run/../x', mode='shared'}]", nil, "x unix://ROOT/etc/x shared"},
		{"listen=[{address=80}]", []string{"--listen", "../x.sock?mode=0600"}, "x.sock unix://ROOT/x.sock?mode=0600 shared"},
		{
			"listen=[{address='/a/x'},{address='/b/x'},{address='/c/é'},{address='/d/...'}]", nil,
			"x unix:///a/x shared \nx-2 unix:///b/x shared \nunix unix:///c/é shared \nunix-2 unix:///d/... shared",
		},
		{
			"listen=[{address='/a/" + long + "'},{address='/b/" + long + "y'}]", nil,
			long + " unix:///a/" + long + " shared \n" + long[:46] + "-2 unix:///b/" + long + "y shared",
		},
		{
			"listen=[{address='/a/80',name='web'},{address=80},{address='/b/80'}]", nil,
			"web unix:///a/80 shared \n80 tcp://:80 reuseport hash\n80-2 unix:///b/80 shared",
		},
	} {
		if got := load(test.content, test.flags...); got != test.want {
			t.Errorf("%s %v:\ngot  %s\nwant %s", test.content, test.flags, got, test.want)
		}
	}
}

// A queue that is shorter than was asked for is warned of.
func TestBacklogCut(t *testing.T) {
	h := newHost(t)
	write(t, filepath.Join(h.directory, "forkd.toml"), "command = ['x']\nlisten = [{address=80,backlog=4096},{address='/x',backlog=4097}]\n")
	for most, want := range map[int][]string{
		4096: {"listener x: net.core.somaxconn cuts its backlog of 4097 to 4096: raise it (sysctl -w net.core.somaxconn=4097) or lower the backlog"},
		4097: nil,
		0:    nil,
	} {
		h.backlog = func() int { return most }
		cfg, err := h.load(&Flags{}, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, cfg.Warnings); diff != "" {
			t.Errorf("with %d: %s", most, diff)
		}
	}
	if sockets.MaxBacklog() < 1 {
		t.Error("net.core.somaxconn cannot be read")
	}
}
