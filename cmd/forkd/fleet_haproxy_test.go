package main

import (
	"strings"
	"testing"
)

// What is wrong with a command line is said before anything is asked.
func TestFleetHAProxyUsage(t *testing.T) {
	t.Setenv("FORKD_RUNTIME_DIR", t.TempDir())
	t.Setenv(redisVariable, "redis://127.0.0.1:1")
	for args, want := range map[string]string{
		"":                                       "say HAProxy's stats socket: --socket PATH|HOST:PORT",
		"--socket x":                             "say the backend: --backend NAME",
		"--socket x --backend b":                 `--socket "x": use a path with a slash, or HOST:PORT`,
		"--socket /x --backend ;":                `--backend ";" is no name to HAProxy: use letters, digits, and _ - . : between them`,
		"--socket /x --backend b --prefix a/b":   `--prefix "a/b" is no name to HAProxy: use letters, digits, and _ - . : between them`,
		"--socket /x --backend b --network 10/8": `--network "10/8": use CIDR, such as 10.0.0.0/8`,
		"--socket /x --backend b --port 65536":   `--port "65536": use a whole number, 0 to 65535: see forkd fleet haproxy --help`,
	} {
		code, out, err := forkd(t, append([]string{"fleet", "haproxy", "shop"}, strings.Fields(args)...)...)
		if code != exitUsage || out != "" || err != "forkd: "+want+"\n" {
			t.Errorf("%s: exit %d, %s%s\nwant %s", args, code, out, err, want)
		}
	}
}
