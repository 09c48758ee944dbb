package config

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/sockets"
	"github.com/forkd/forkd/supervisor"
)

// FuzzTOML loads a file's bytes, all but what is looked up: users, directories,
// other files. What is refused is refused with a place in the file; what is
// accepted is within the bounds that the supervisor relies on.
func FuzzTOML(f *testing.F) {
	for _, seed := range []string{
		whole7, "\xef\xbb\xbfa=1\r\n", "a = [", "[[listen]]\n[listen.x]\n", "x = {a = [{b = 1}]}", "\"\\u0000\" = ''", "listen = [{}, {}]\n[[listen]]",
		"listen = 1\n[[listen]]", "[listen]\n[[listen]]\naddress = 1", "listen.a = 1\n[[listen]]", "env = 1979-05-27", "[a]\n[[a.listen]]\nb = 1",
		"command=['x']\nworkers='400%'\n[[listen]]\nmode='each'\naddress='127.0.0.1:65500'\n[[listen]]\naddress='tcp6://[::1%lo]:0'",
		"command=['x','{port:b}']\nlisten=[{address='./a?mode=7'},{address='unix:////b?mode=0777',name='b'}]\nenv={A='{fd:a}'}",
		"command=['x']\nworkers=0x10\ndrain={delay='1h0m',shed_per_second=1_0}\nname='a'", "command=['x']\nlisten=[{address='...?mode='},{address='unix:...'}]",
		"command=['x','${X}']\nworkers='${N:-2}'\nname='${X}'\nenv.A='$${X}${X:-}'", "command=['${']",
	} {
		f.Add([]byte(seed))
	}
	h := host{
		directory: "/srv", etc: "/", cpus: func() int { return 2 }, backlog: func() int { return 0 },
		env: func(name string) (string, bool) { return "a{", name == "X" },
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		placed := func(err error) {
			wrong, ok := errors.AsType[*Error](err)
			lines := strings.Count(string(data), "\n") + 1
			if !ok || wrong.Line < 1 || wrong.Line > lines || wrong.Column < 1 || strings.ContainsAny(wrong.Text, "\n\x00\x1b") {
				t.Fatalf("error without a place or with control characters: %#v", err)
			}
		}
		settings, failed := parse("f", data)
		for _, err := range failed {
			placed(err)
		}
		if len(failed) > 0 {
			return
		}
		d := newDraft(&start{host: h, file: "f", path: "/f"})
		for _, s := range settings {
			d.accept(s)
		}
		delete(d.origins, "directory")
		d.user, d.group = "", ""
		d.config.Redis.PasswordFile, d.config.Redis.CAFile, d.envFiles = "", "", nil
		cfg, err := d.finish()
		for _, err := range d.failures {
			placed(err)
		}
		if err == nil {
			usable(t, cfg)
		} else if len(d.failures) == 0 && len(d.config.Command) > 0 {
			t.Fatalf("%v", err)
		}
	})
}

// usable fails where cfg is not what supervisor.Config promises.
func usable(t *testing.T, cfg supervisor.Config) {
	t.Helper()
	if !control.ValidName(cfg.Name) || len(cfg.Command) == 0 || cfg.Workers < 1 || cfg.Workers > supervisor.MaxWorkers {
		t.Errorf("%+v", cfg)
	}
	var names []string
	for _, l := range cfg.Listeners {
		if !control.ValidName(l.Name) || slices.Contains(names, l.Name) {
			t.Errorf("listener's name %q", l.Name)
		}
		names = append(names, l.Name)
		again, err := sockets.ParseAddress(l.Address())
		if err != nil || again.Network != l.Network || again.Host != l.Host || again.Port != l.Port || again.Path != l.Path || again.Perm != l.Perm {
			t.Errorf("%+v reads back as %+v, %v", l, again, err)
		}
		unix := l.Network == "unix"
		if unix && (l.Mode != "shared" || l.Path[0] != '/' || len(l.Path) > sockets.MaxPath || l.Perm > 0o777) ||
			!unix && l.Mode == "each" && l.Port+cfg.Workers-1 > math.MaxUint16 || (l.Mode == "reuseport") != (l.Balance != "") {
			t.Errorf("listener %+v", l)
		}
	}
	keys := map[string]bool{}
	for _, s := range cfg.Settings {
		if keys[s.Key] || s.Source == "" || strings.HasPrefix(s.Key, "env.") {
			t.Errorf("setting %+v", s)
		}
		keys[s.Key] = true
	}
}
