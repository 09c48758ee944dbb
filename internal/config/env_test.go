package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEnvFile(t *testing.T) {
	got, err := parseEnvFile("x.env", []byte("\xef\xbb\xbfA=1\r\n\n  # no\nexport B = two words \nC='a \"b\" $c\\n'\n"+
		"D=\"x\\ty\\\"\\\\\\$\\q\" # why\nE=\nF=a # b\nA=2\nG='' "))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"A": "2", "B": "two words", "C": `a "b" $c\n`, "D": "x\ty\"\\$\\q", "E": "", "F": "a # b", "G": "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for content, want := range map[string]string{
		"A=1\nB":         "x.env:2:1: not a variable: write NAME=VALUE, one on each line",
		"A B=1":          "x.env:1:1: not a variable: write NAME=VALUE, one on each line",
		"=1":             `x.env:1:1: "" can't be the name of a variable`,
		"A='secret":      "x.env:1:1: A: the closing quote is missing",
		"A='x'secret":    "x.env:1:1: A: there is more after the closing quote",
		"A=x\x00y":       "x.env:1:1: A: the value must not hold a NUL character",
		"NOTIFY_SOCKET=": "x.env:1:1: forkd sets NOTIFY_SOCKET for each worker itself",
	} {
		if _, err := parseEnvFile("x.env", []byte(content)); err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", content, err, want)
		}
	}
}
