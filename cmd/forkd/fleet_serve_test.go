package main

import (
	"strings"
	"testing"
)

// What is wrong with a command line is said before anything is listened on or asked.
func TestFleetServeUsage(t *testing.T) {
	t.Setenv("FORKD_RUNTIME_DIR", t.TempDir())
	t.Setenv(redisVariable, "redis://127.0.0.1:1")
	for args, want := range map[string]string{
		"a/b":                        `"a/b" is no name of an app: 1 to 48 of A-Z a-z 0-9 . _ -, a letter or digit first`,
		"--min-hosts 0":              "--min-hosts 0: use 1 to 100000",
		"--token-file /none":         "--token-file: stat /none: no such file or directory",
		"--token-file /dev/null":     "--token-file: /dev/null is not a plain file",
		"--token-file /etc/hostname": "--token-file: the first line of /etc/hostname is no token: use 16 or more letters, digits and signs, without spaces",
		"--token-file /etc/passwd --read-from replica": "use only one of --token-file and --read-from replica: a replica takes no commands",
		"--redis http://x": "--redis is no URL of Redis: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// and a host",
	} {
		code, out, err := forkd(t, append([]string{"fleet", "serve"}, strings.Fields(args)...)...)
		if code != exitUsage || out != "" || err != "forkd: "+want+"\n" {
			t.Errorf("%s: exit %d, %s%s\nwant %s", args, code, out, err, want)
		}
	}
}
