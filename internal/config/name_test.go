package config

import (
	"strings"
	"testing"

	"github.com/forkd/forkd/internal/control"
)

func TestAsName(t *testing.T) {
	for text, want := range map[string]string{
		"shop":                         "shop",
		"my shop!":                     "my-shop",
		".hidden":                      "hidden",
		"--":                           "app",
		"":                             "app",
		"größe":                        "gr--e",
		"shop-{slot}":                  "shop--slot",
		strings.Repeat("a", 60):        strings.Repeat("a", 48),
		strings.Repeat("a", 47) + ".b": strings.Repeat("a", 47),
	} {
		got := asName(text, "app")
		if got != want || !control.ValidName(got) {
			t.Errorf("%q becomes %q, not %q", text, got, want)
		}
	}
}

func FuzzAsName(f *testing.F) {
	f.Add("a b")
	f.Fuzz(func(t *testing.T, text string) {
		if name := asName(text, "app"); !control.ValidName(name) || asName(name, "app") != name {
			t.Errorf("%q becomes %q", text, name)
		}
	})
}
