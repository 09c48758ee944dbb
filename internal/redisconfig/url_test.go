package redisconfig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURL(t *testing.T) {
	for text, want := range map[string]Endpoint{
		"redis://h":                                 {Addresses: []string{"h:6379"}},
		"redis://h:7/3":                             {Addresses: []string{"h:7"}, DB: 3},
		"redis://[::1]:7":                           {Addresses: []string{"[::1]:7"}},
		"redis://[::1]":                             {Addresses: []string{"[::1]:6379"}},
		"rediss://ann:s%2Fc%40t@h":                  {TLS: true, Username: "ann", Password: "s/c@t", Addresses: []string{"h:6379"}},
		"redis://:a:b@h":                            {Password: "a:b", Addresses: []string{"h:6379"}},
		"unix:///run/r%20s?db=2":                    {Addresses: []string{"/run/r s"}, DB: 2},
		"unix://ann:pw@/run/r":                      {Username: "ann", Password: "pw", Addresses: []string{"/run/r"}},
		"redis+sentinel://:pw@a,b:7,[::1]:8/mine/2": {Password: "pw", Addresses: []string{"a:26379", "b:7", "[::1]:8"}, Master: "mine", DB: 2},
		"rediss+sentinel://a/mine":                  {TLS: true, Addresses: []string{"a:26379"}, Master: "mine"},
		"redis+cluster://a:1,b":                     {Cluster: true, Addresses: []string{"a:1", "b:6379"}},
		"rediss+cluster://a/":                       {Cluster: true, TLS: true, Addresses: []string{"a:6379"}},
	} {
		got, err := ParseURL(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	for _, text := range []string{
		"", "h:6379", "http://h", "embedded", "redis://", "redis:///1", "redis://h:0", "redis://h:65536", "redis://h:x", "redis://::1",
		"redis://a,b", "redis://h/x", "redis://h/-1", "redis://h?db=1", "redis://h h", "redis://h\n", "redis://:%@h",
		"unix://", "unix:///", "unix://h/run", "unix:///r?x=1", "unix:///r?db=x", "unix:///r%00",
		"redis+sentinel://a", "redis+sentinel://a/", "redis+sentinel://a/m/x", "redis+cluster://a/1", "redis+cluster://", "redis+cluster://a,,b",
	} {
		if e, err := ParseURL(text); err == nil {
			t.Errorf("%q is taken: %+v", text, e)
		}
	}
}

func TestMaskURL(t *testing.T) {
	for text, want := range map[string]string{
		"redis://h/1":                     "redis://h/1",
		"redis://ann@h":                   "redis://ann@h",
		"redis://ann:hunter2@h:7/1":       "redis://ann:***@h:7/1",
		"redis+sentinel://:a@b:c@h1,h2/m": "redis+sentinel://:***@h1,h2/m",
		"unix://:hunter2@/run/r?db=1":     "unix://:***@/run/r?db=1",
		"redis://:hunter2@h:port":         "(not a URL)",
		"hunter2":                         "(not a URL)",
	} {
		if got := MaskURL(text); got != want {
			t.Errorf("%s: %s, not %s", text, got, want)
		}
	}
}

// No error says a password, whatever is wrong with the rest of the URL.
func TestErrorsKeepThePassword(t *testing.T) {
	for _, text := range []string{
		"hunter2", "redis:hunter2@h", "redis//:hunter2@h", "http://:hunter2@h", "redis://:hunter2@h:port", "redis://:hunter2@h/db", "redis://:hunter2%@h",
		"redis://:hunter2@h?x", "redis://:hunter2 @h", "unix://:hunter2@h", "redis+sentinel://:hunter2@h", "redis+cluster://:hunter2@h/1", "redis://:hunter2@a,b",
	} {
		err := Settings{URL: text}.Check()
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
