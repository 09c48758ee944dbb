package main

import (
	"testing"
	"time"
	"unicode/utf8"
)

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:             "0s",
		999 * time.Millisecond:   "0s",
		59 * time.Second:         "59s",
		time.Minute:              "1m",
		59*time.Minute + 59e9:    "59m",
		time.Hour:                "1h",
		47 * time.Hour:           "47h",
		48 * time.Hour:           "2d",
		3 * 365 * 24 * time.Hour: "1095d",
	} {
		if got := age(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

func TestFigures(t *testing.T) {
	whole := func(n int64) *int64 { return &n }
	part := func(f float64) *float64 { return &f }
	for _, test := range []struct{ got, want string }{
		{size(nil), "-"},
		{size(whole(0)), "0B"},
		{size(whole(999)), "999B"},
		{size(whole(1000)), "1KiB"},
		{size(whole(12_900_000)), "12.3MiB"},
		{size(whole(104_857_600)), "100MiB"},
		{size(whole(1_073_741_824)), "1GiB"},
		{size(whole(1 << 60)), "1048576TiB"},
		{count(nil), "-"},
		{count(whole(0)), "0"},
		{count(whole(99_999)), "99999"},
		{count(whole(100_000)), "100k"},
		{count(whole(999_600)), "1M"},
		{count(whole(12_340_000)), "12.3M"},
		{rate(nil), "-"},
		{rate(part(0)), "0"},
		{rate(part(0.04)), "0"},
		{rate(part(3.25)), "3.2"},
		{rate(part(9.97)), "10"},
		{rate(part(71_600.4)), "71600"},
		{percent(nil), "-"},
		{percent(part(0.3)), "0.3%"},
		{percent(part(99.6)), "100%"},
		{brief(-time.Second), "0.0s"},
		{brief(1500 * time.Millisecond), "1.5s"},
		{brief(30 * time.Second), "30s"},
		{until(30 * time.Second), "in 30s"},
		{until(time.Millisecond), "now"},
		{known(0), "-"},
		{known(812), "812"},
		{plural(1, "worker"), "1 worker"},
		{plural(0, "worker"), "0 workers"},
	} {
		if test.got != test.want {
			t.Errorf("%s, want %s", test.got, test.want)
		}
	}
}

// Whatever a worker says must not reach the terminal as a command.
func TestSanitize(t *testing.T) {
	for text, want := range map[string]string{
		"exit status 3":               "exit status 3",
		"\x1b[2Jgone\x07":             "[2Jgone",
		"two\nlines\r\tand \u009b31m": "two lines and 31m",
		"right\u202eleft":             "rightleft",
		"grüße ↺":                     "grüße ↺",
		"bad \xff byte":               "bad  byte",
	} {
		got := sanitize(text)
		if got != want || !utf8.ValidString(got) {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}
