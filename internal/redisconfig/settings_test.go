package redisconfig

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCheckNamesTheKey(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := Settings{URL: "rediss://h", HostID: "web-1"}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		key    string
		change func(*Settings)
	}{
		"no url":                 {"url", func(s *Settings) { s.URL = "" }},
		"two users":              {"username", func(s *Settings) { s.URL, s.Username = "redis://ann@h", "bob" }},
		"no password file":       {"password_file", func(s *Settings) { s.PasswordFile = filepath.Join(dir, "none") }},
		"relative password file": {"password_file", func(s *Settings) { s.PasswordFile = "settings.go" }},
		"a directory":            {"password_file", func(s *Settings) { s.PasswordFile = dir }},
		"a device":               {"password_file", func(s *Settings) { s.PasswordFile = "/dev/zero" }},
		"empty password":         {"password_file", func(s *Settings) { s.PasswordFile = file("empty", "\nx") }},
		"huge password":          {"password_file", func(s *Settings) { s.PasswordFile = file("huge", strings.Repeat("x", maxSecret+1)) }},
		"two passwords":          {"password_file", func(s *Settings) { s.URL, s.PasswordFile = "redis://:x@h", file("pw", "x\n") }},
		"no certificate":         {"ca_file", func(s *Settings) { s.CAFile = file("ca", "x") }},
		"CA without TLS":         {"ca_file", func(s *Settings) { s.URL, s.CAFile = "redis://h", file("ca", "x") }},
		"hasty":                  {"interval", func(s *Settings) { s.Interval = 99 * time.Millisecond }},
		"rare":                   {"interval", func(s *Settings) { s.Interval = 61 * time.Minute }},
		"backwards":              {"interval", func(s *Settings) { s.Interval = -1 }},
		"dead between beats":     {"ttl", func(s *Settings) { s.TTL = 2 * time.Second }},
		"endless":                {"url", func(s *Settings) { s.URL = "redis+cluster://a" + strings.Repeat(",a", maxURL/2) }},
		"forever":                {"ttl", func(s *Settings) { s.TTL = 1000 * time.Hour }},
		"bad host":               {"host_id", func(s *Settings) { s.HostID = "a b" }},
		"long host":              {"host_id", func(s *Settings) { s.HostID = strings.Repeat("x", 129) }},
		"bad address":            {"advertise", func(s *Settings) { s.Advertise = []string{"a\x1bb"} }},
		"nowhere":                {"read_from", func(s *Settings) { s.ReadFrom = "master" }},
	} {
		s := good
		test.change(&s)
		err := s.Check()
		if bad, ok := errors.AsType[*BadSetting](err); !ok || bad.Key != test.key {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{"web-1": true, "10.0.0.1:80": true, "A_b": true, "": false, "-a": false, "a/b": false, "a\n": false, "{a}": false, strings.Repeat("x", 128): true} {
		if err := CheckHost(name); (err == nil) != good {
			t.Errorf("host %q: %v", name, err)
		}
	}
}
