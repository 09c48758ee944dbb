package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEnvFile(t *testing.T) {
	got, err := parseEnvFile("x.env", []byte("\xef\xbb\xbfA=1\r\n\n  # no\nexport B = two words \nC='a \"b\" $c\\n'\n"+
		"D=\"x\\ty\\\"\\\\\\$\\q\" # why\nE=\nF=a # b\nA=2\nG='' \n"+
		"; no\nKEY='-----BEGIN \n  x=1\n\n-----END'\nW= \"a\r\nb\\\nc\" # d\nI'=it's"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"A": "2", "B": "two words", "C": `a "b" $c\n`, "D": "x\ty\"\\$\\q", "E": "", "F": "a # b", "G": "",
		"KEY": "-----BEGIN \n  x=1\n\n-----END", "W": "a\nbc", "I'": "it's",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for content, want := range map[string]string{
		"A=1\nB":           "x.env:2:1: not a variable: write NAME=VALUE, one on each line",
		"A B=1":            "x.env:1:1: not a variable: write NAME=VALUE, one on each line",
		"=1":               `x.env:1:1: "" can't be the name of a variable`,
		"A='secret\nB=x":   "x.env:1:1: A: the quote that begins here is not closed: a value in quotes may span lines, and ends with the same quote",
		"A='x'secret":      "x.env:1:1: A: there is more after the closing quote",
		"\nA='x\nB='y":     "x.env:3:1: A: there is more after the closing quote",
		"A='\n\n'\nsecret": "x.env:4:1: not a variable: write NAME=VALUE, one on each line",
		"A=x\\\nB=secret":  `x.env:1:1: A: a value without quotes must not end in \: some programs go on in the next line there: put it in single quotes`,
		"A=x\x00y":         "x.env:1:1: A: the value must not hold a NUL character",
		"NOTIFY_SOCKET=":   "x.env:1:1: forkd sets NOTIFY_SOCKET for each worker itself",
	} {
		if _, err := parseEnvFile("x.env", []byte(content)); err == nil || err.Error() != want {
			t.Errorf("%q:\ngot  %v\nwant %s", content, err, want)
		}
	}
}
