package config

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/supervisor"
)

// started is an app that runs from etc/shop.toml, under flags.
func started(t *testing.T, content string, flags ...string) (cfg supervisor.Config, h host, file string) {
	t.Helper()
	h = newHost(t)
	file = filepath.Join(h.etc, "shop.toml")
	write(t, file, content)
	cfg, err := h.load(typedFlags(t, flags...), "shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, h, file
}

// Reload reads the same file with the same flags, and can be asked again.
func TestReload(t *testing.T) {
	cfg, h, file := started(t, "command = ['x']\nworkers = 2", "--listen=./x.sock", "--drain-delay=3s")
	for _, workers := range []int{3, 4} {
		write(t, file, "command = ['y']\nworkers = "+strconv.Itoa(workers))
		again, err := cfg.Reload()
		if err != nil {
			t.Fatal(err)
		}
		if again.Name != "shop" || again.Workers != workers || again.Command[0] != "y" || again.Drain.Delay.Seconds() != 3 ||
			again.Listeners[0].Path != filepath.Join(h.directory, "x.sock") || again.File != file || len(again.Settings) == 0 {
			t.Errorf("got %+v", again)
		}
		cfg = again
	}
}

// An app's file stays the one it was started from, where others would now be
// found first, or at all.
func TestReloadStrictly(t *testing.T) {
	h := newHost(t)
	bare, err := h.load(typedFlags(t, "--workers=3"), "", []string{"./server"})
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(h.home, "shop.toml")
	write(t, home, "command = ['home']")
	shop, err := h.load(&Flags{}, "shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(h.etc, "shop.toml"), "command = ['etc']")
	write(t, filepath.Join(h.directory, "forkd.toml"), "command = ['here']")
	if again, err := bare.Reload(); err != nil || again.File != "" || again.Workers != 3 || again.Command[0] != "./server" || again.Name != "server" {
		t.Errorf("without a file: %+v, %v", again, err)
	}
	if again, err := shop.Reload(); err != nil || again.File != home || again.Command[0] != "home" {
		t.Errorf("with a file: %+v, %v", again, err)
	}
	if err := os.Remove(home); err != nil {
		t.Fatal(err)
	}
	if _, err := shop.Reload(); err == nil || err.Error() != home+": cannot read it: no such file or directory" {
		t.Errorf("without its file: %v", err)
	}
}

// A reload leaves the flags as they were, empty ones too.
func TestReloadEmptyFlag(t *testing.T) {
	cfg, h, _ := started(t, "command = ['x']", "--env-file=", "--env-file=-none.env")
	for range 2 {
		for _, s := range cfg.Settings {
			if want := "-" + filepath.Join(h.directory, "none.env"); s.Key == "env_file" && (s.Value != want || s.Source != "--env-file") {
				t.Errorf("env_file is %s, of %s; want %s", s.Value, s.Source, want)
			}
		}
		var err error
		if cfg, err = cfg.Reload(); err != nil {
			t.Fatal(err)
		}
	}
}

// The current directory of the start holds, by the flags too.
func TestReloadElsewhere(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for _, directory := range []string{first, second} {
		write(t, filepath.Join(directory, "my.toml"), "name = 'a'\ncommand = ['x']\nenv.FROM = '"+directory+"'")
	}
	t.Chdir(first)
	flags := typedFlags(t, "-c", "my.toml", "--pid-file=pid")
	cfg, err := Load(flags, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(second)
	again, err := cfg.Reload()
	if err != nil {
		t.Fatal(err)
	}
	if again.Env["FROM"] != first || again.PIDFile != filepath.Join(first, "pid") || again.CPUs < 1 {
		t.Errorf("got %+v", again)
	}
}

// Standard input is read once. What is relative there is so to the current
// directory; a reload has the same settings, and says so.
func TestStandardInput(t *testing.T) {
	h := newHost(t)
	h.stdin = strings.NewReader("command = ['./server']\nworkers = 3\npid_file = 'pid'\n")
	cfg, err := h.load(typedFlags(t, "-c", "-", "--workers", "2"), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Name != "server" || cfg.File != "" || cfg.Workers != 2 || cfg.Directory != h.directory || cfg.PIDFile != filepath.Join(h.directory, "pid") || len(cfg.Warnings) > 0 {
		t.Errorf("got %+v", cfg)
	}
	for _, s := range cfg.Settings {
		if s.Key == "pid_file" && s.Source != "stdin:3" {
			t.Errorf("pid_file is of %s", s.Source)
		}
	}
	again, err := cfg.Reload()
	if err != nil || again.PIDFile != cfg.PIDFile || len(again.Warnings) != 1 || !strings.Contains(again.Warnings[0], "standard input, which is read once") {
		t.Errorf("again: %+v, %v", again, err)
	}
	for text, want := range map[string]string{
		"":                                  `stdin: there is no command to run: add command = ["./server"], or give one as in forkd run --listen :8080 -- ./server`,
		"wrokers = 2":                       `stdin:1:1: unknown key "wrokers": did you mean "workers"?`,
		"\x7fELF\x02":                       `stdin:1:1: not valid TOML: `,
		strings.Repeat("#\n", 1<<19) + "\n": "stdin: cannot read it: it is over 1 MiB: is it the right file?",
	} {
		h.stdin = strings.NewReader(text)
		if _, err := h.load(typedFlags(t, "-c", "-"), "", nil); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %s", text, err, want)
		}
	}
	h.stdin = strings.NewReader("command = ['x']\nuser = 'nobody-at-all'\n[redis]\nurl = 'redis://h'\n")
	if r, err := h.loadRedis("-"); err != nil || r.URL != "redis://h" {
		t.Errorf("Redis alone: %+v, %v", r, err)
	}
}

// What a file can have become since the start, each with one clear line.
func TestBadReload(t *testing.T) {
	const good = "command = ['x']\n"
	remove := func(t *testing.T, file string) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		become func(t *testing.T, file string)
		want   string
	}{
		"gone": {remove, ": cannot read it: no such file or directory"},
		"a directory": {func(t *testing.T, file string) {
			remove(t, file)
			if err := os.Mkdir(file, 0o755); err != nil {
				t.Fatal(err)
			}
		}, ": cannot read it: it is a directory"},
		"a pipe": {func(t *testing.T, file string) {
			remove(t, file)
			if err := unix.Mkfifo(file, 0o644); err != nil {
				t.Fatal(err)
			}
		}, ": cannot read it: it is not a regular file"},
		"a link to itself": {func(t *testing.T, file string) {
			remove(t, file)
			if err := os.Symlink(file, file); err != nil {
				t.Fatal(err)
			}
		}, ": cannot read it: too many levels of symbolic links"},
		"10 MiB": {
			func(t *testing.T, file string) { write(t, file, strings.Repeat("#\n", 5<<20)) },
			": cannot read it: it is over 1 MiB: is it the right file?",
		},
		"binary": {
			func(t *testing.T, file string) { write(t, file, "\x7fELF\x02\x01\x01\x00") },
			":1:8: the file is not text: byte 0x00 is not valid in UTF-8 TOML",
		},
		"empty": {
			func(t *testing.T, file string) { write(t, file, "") },
			`: there is no command to run: add command = ["./server"], or give one as in forkd run --listen :8080 -- ./server`,
		},
		"wrong": {
			func(t *testing.T, file string) { write(t, file, good+"workers = 0") },
			`:2:11: workers: 0 is no number of workers: use 1 to 1024, "cpus", "cpus-1", "cpus*2+1" or "50%"`,
		},
		"renamed": {
			func(t *testing.T, file string) { write(t, file, good+"name = 'store'") },
			`:2:8: name: this file is of "store", and "shop" was asked for: forkd run -c FILE --name shop runs it under that name`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _, file := started(t, good)
			test.become(t, file)
			_, err := cfg.Reload()
			if _, ok := errors.AsType[*Error](err); !ok || err.Error() != file+test.want {
				t.Errorf("got  %v\nwant %s", err, file+test.want)
			}
			if err := os.RemoveAll(file); err != nil {
				t.Fatal(err)
			}
			write(t, file, good) // good again, it is taken again
			if _, err := cfg.Reload(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReloadUnreadable(t *testing.T) {
	cfg, _, file := started(t, "command = ['x']")
	if err := os.Chmod(file, 0); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // who can read everything: setfsuid(2) takes that from this thread
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer unix.Setfsuid(0)
	}
	if _, err := cfg.Reload(); err == nil || err.Error() != file+": cannot read it: permission denied" {
		t.Error(err)
	}
}

// An app that was named by its file can't be renamed by it.
func TestReloadRenamed(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.directory, "forkd.toml")
	for _, test := range []struct{ before, after, want string }{
		{"name = 'a'", "name = 'b'", `forkd.toml:2:8: name: this app runs as "a" and can't become "b": stop it, then start it under the new name`},
		{"name = 'a'", "", `forkd.toml: this app runs as "a" and can't become "forkd": stop it, then start it under the new name`},
	} {
		write(t, file, "command = ['x']\n"+test.before)
		cfg, err := h.load(&Flags{}, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, "command = ['x']\n"+test.after)
		if _, err := cfg.Reload(); err == nil || err.Error() != test.want {
			t.Errorf("got  %v\nwant %s", err, test.want)
		}
	}
}
