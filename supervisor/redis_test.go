package supervisor

import (
	"errors"
	"testing"
)

// What is wrong is said with its key. Where nobody connects by a URL, the other
// settings are checked all the same.
func TestCheckRedis(t *testing.T) {
	good := Defaults().Redis
	for _, url := range []string{"", RedisEmbedded, "redis://localhost"} {
		r := good
		r.URL = url
		if err := CheckRedis(r); err != nil {
			t.Errorf("%q: %v", url, err)
		}
		r.PasswordFile = "/nonexistent"
		if bad, ok := errors.AsType[*BadRedis](CheckRedis(r)); !ok || bad.Key != "password_file" {
			t.Errorf("%q: an unreadable file is %v", url, bad)
		}
	}
	good.URL = "redis"
	if err := CheckRedis(good); err == nil || err.Error() != "redis.url: is no URL of Redis: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// and a host" {
		t.Error(err)
	}
}
