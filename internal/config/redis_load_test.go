package config

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/forkd/forkd/internal/redisconfig"
	"github.com/google/go-cmp/cmp"
)

// How an app finds Redis is read on machines that can't run it.
func TestLoadRedisAlone(t *testing.T) {
	h := newHost(t)
	write(t, filepath.Join(h.directory, "shop.toml"), `
command = ["/nonexistent"]
user = "nobody-at-all"
workers = "lots"
[[listen]]
address = "tcp://:99999"
[redis]
url = "redis://me@x"
password_file = "secret"
ttl = "1m"
`)
	got, err := h.loadRedis("shop.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := redisconfig.Settings{
		URL: "redis://me@x", PasswordFile: filepath.Join(h.directory, "secret"), Interval: 2 * time.Second, TTL: time.Minute, ReadFrom: "primary",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for content, want := range map[string]string{
		"[redis]\nurl = 5":       `bad.toml:2:7: redis.url: must be text: write "5"`,
		"[redis]\nuri = \"x\"":   `bad.toml:2:1: unknown key "redis.uri": did you mean "redis.url"?`,
		"[redis\n":               "",
		"workers = [\n[redis]\n": "",
	} {
		write(t, filepath.Join(h.directory, "bad.toml"), content)
		_, err := h.loadRedis("bad.toml")
		if err == nil || want != "" && err.Error() != want {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
	if _, err := h.loadRedis("none.toml"); err == nil || err.Error() != "none.toml: cannot read it: no such file or directory" {
		t.Error(err)
	}
}
