package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/forkd/forkd/internal/control"
	"github.com/forkd/forkd/internal/fleet"
	"github.com/forkd/forkd/internal/redisconfig"
)

// reportsTo is an app that runs here.
func reportsTo(url, file string) made {
	app := shop(slot(0, busy(812, 1, control.StateReady, time.Minute)))
	app.Config = file
	if url != "" {
		app.Redis = &control.Redis{State: control.RedisUp, URL: url}
	}
	return made{app: app}
}

// wantSettings compares what is found with URL, password file and CA file.
func wantSettings(t *testing.T, s fleet.Settings, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	got := []string{s.URL, s.PasswordFile, s.CAFile}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func secretFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Flags come before the environment, and that before what runs here.
func TestWhereRedisIs(t *testing.T) {
	dir := t.TempDir()
	pretend(t, dir, "shop", reportsTo("redis://local:1", ""))
	t.Setenv(redisVariable, "")

	s, err := (&redisFlags{}).settings(t.Context(), "shop")
	wantSettings(t, s, err, "redis://local:1", "", "")
	s, err = (&redisFlags{}).settings(t.Context(), "elsewhere")
	wantSettings(t, s, err, "redis://local:1", "", "")

	t.Setenv(redisVariable, "redis://environment:1")
	s, err = (&redisFlags{}).settings(t.Context(), "shop")
	wantSettings(t, s, err, "redis://environment:1", "", "")

	password := secretFile(t, "password", "geheim\n")
	file := secretFile(t, "shop.toml", "command = [\"/nonexistent\"]\nuser = \"nobody-at-all\"\n[redis]\nurl = \"redis://file:1\"\npassword_file = \"password\"\nread_from = \"replica\"\n")
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "password"), []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err = (&redisFlags{file: file}).settings(t.Context(), "shop")
	wantSettings(t, s, err, "redis://file:1", filepath.Join(filepath.Dir(file), "password"), "")
	if s.ReadFrom != redisconfig.FromReplica {
		t.Errorf("reads from %q", s.ReadFrom)
	}
	s, err = (&redisFlags{file: file, passwordFile: password, readFrom: "primary"}).settings(t.Context(), "shop")
	wantSettings(t, s, err, "redis://file:1", password, "")
	if s.ReadFrom != redisconfig.FromPrimary {
		t.Errorf("reads from %q", s.ReadFrom)
	}

	s, err = (&redisFlags{url: "unix:///run/redis.sock", passwordFile: password}).settings(t.Context(), "shop")
	wantSettings(t, s, err, "unix:///run/redis.sock", password, "")

	// Relative paths are of the current directory.
	t.Chdir(filepath.Dir(password))
	s, err = (&redisFlags{url: "redis://x", passwordFile: "password"}).settings(t.Context(), "")
	wantSettings(t, s, err, "redis://x", password, "")
}

// An app tells where Redis is, and no password: that is in its file.
func TestRedisOfAnAppThatRunsHere(t *testing.T) {
	t.Setenv(redisVariable, "")
	const masked = "redis://me:***@local:1"
	with := func(redis string) string { return secretFile(t, "shop.toml", "[redis]\n"+redis) }
	for name, c := range map[string]struct{ url, file, want, wrong string }{
		"the file's":                {masked, with(`url = "redis://me:geheim@local:1"`), "redis://me:geheim@local:1", ""},
		"by a flag over the file":   {"redis://other:1", with(`url = "redis://me:geheim@local:1"`), "redis://other:1", ""},
		"embedded":                  {"redis://127.0.0.1:4567", with(`url = "embedded"`), "redis://127.0.0.1:4567", ""},
		"no file is needed":         {"redis://local:1", "/nonexistent.toml", "redis://local:1", ""},
		"secret, without a file":    {masked, "", "", "shop reports to " + masked + ", and tells nobody the password: say --redis URL"},
		"secret, file not readable": {masked, "/nonexistent.toml", "", "cannot read how shop reaches Redis: /nonexistent.toml: cannot read it: no such file or directory"},
		"secret, by a flag":         {masked, with(`url = "redis://x"`), "", "shop reports to " + masked + ", which is not what its file says, and tells nobody the password: say --redis URL"},
		"none":                      {"", "", "", "no app here reports to Redis: say --redis URL, -c FILE or FORKD_REDIS_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			pretend(t, t.TempDir(), "shop", reportsTo(c.url, c.file))
			for _, app := range []string{"", "shop", "elsewhere"} {
				s, err := (&redisFlags{}).settings(t.Context(), app)
				if c.wrong == "" {
					wantSettings(t, s, err, c.want, "", "")
				} else if code, text := exitCode(err); code != exitUsage || text != c.wrong {
					t.Errorf("exit %d, %s, want %s", code, text, c.wrong)
				}
			}
		})
	}
}

// Root sees every user's apps, and reads no file for them.
func TestRedisOfAnotherUsersApp(t *testing.T) {
	file := secretFile(t, "shop.toml", "[redis]\nurl = \"redis://local:1\"\npassword_file = \"/etc/secret\"\n")
	app := reportsTo("redis://127.0.0.1:6666", file).app
	for foreign, want := range map[bool]string{false: "/etc/secret", true: ""} {
		if s, err := redisOfApp(&app, foreign); err != nil || s.URL != "redis://127.0.0.1:6666" || s.PasswordFile != want {
			t.Errorf("foreign %t: %+v, %v", foreign, s, err)
		}
	}
}

func TestSeveralAppsRunHere(t *testing.T) {
	t.Setenv(redisVariable, "")
	dir := t.TempDir()
	t.Setenv("FORKD_RUNTIME_DIR", dir)
	_, err := (&redisFlags{}).settings(t.Context(), "")
	if code, text := exitCode(err); code != exitUsage || text != "no app runs here that knows Redis: say --redis URL, -c FILE or FORKD_REDIS_URL" {
		t.Errorf("exit %d, %s", code, text)
	}
	pretend(t, dir, "shop", reportsTo("redis://one", ""))
	pretend(t, dir, "mail", reportsTo("redis://one", ""))
	pretend(t, dir, "bare", reportsTo("", ""))
	for _, app := range []string{"", "shop", "bare"} {
		s, err := (&redisFlags{}).settings(t.Context(), app)
		wantSettings(t, s, err, "redis://one", "", "")
	}
	pretend(t, dir, "other", reportsTo("redis://two", ""))
	s, err := (&redisFlags{}).settings(t.Context(), "other")
	wantSettings(t, s, err, "redis://two", "", "")
	_, err = (&redisFlags{}).settings(t.Context(), "")
	if code, text := exitCode(err); code != exitUsage || !strings.HasPrefix(text, "the apps here report to more than one Redis (") {
		t.Errorf("exit %d, %s", code, text)
	}
}

// No error shows a password.
func TestRedisErrorsShowNoPassword(t *testing.T) {
	t.Setenv(redisVariable, "redis://me:geheim@127.0.0.1:1/nothing")
	t.Setenv("FORKD_RUNTIME_DIR", t.TempDir())
	for _, args := range []string{
		"fleet status",
		"fleet status --redis redis://me:geheim@127.0.0.1:1,127.0.0.2:1",
		"fleet status --redis redis://me:geheim@127.0.0.1:1",
		"fleet events shop --redis unix://me:geheim@/nonexistent/redis.sock",
		"fleet drain shop --all --redis redis://me:geheim@127.0.0.1:1",
		"fleet status -c " + secretFile(t, "shop.toml", "[redis]\nurl = \"redis:/me:geheim@x\"\n"),
	} {
		code, out, err := forkd(t, strings.Fields(args)...)
		lines := 1
		if strings.Contains(args, "--redis") && !strings.Contains(args, ",") { // a URL that has a password
			lines = 2 // a warning first
		}
		if code == exitDone || strings.Contains(out+err, "geheim") || strings.Count(err, "\n") != lines {
			t.Errorf("%s: exit %d, %s%s", args, code, out, err)
		}
		t.Log(err)
	}
}
