package config

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
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

// env_file is one file or several, of which the last wins; one behind a - may be
// missing, but not unreadable. Its name is the file's, or the command line's.
func TestEnvFiles(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.etc, "shop.toml")
	write(t, filepath.Join(h.etc, "a.env"), "A=a\nB=a\nC=a\n")
	write(t, filepath.Join(h.etc, "b.env"), "B=b\nC=b\n")
	write(t, filepath.Join(h.directory, "b.env"), "B=typed\n")
	write(t, filepath.Join(h.etc, "bad.env"), "B\n")
	for _, test := range []struct {
		setting string
		flags   []string
		want    string // the variables, or the error
		shown   string
	}{
		{`"a.env"`, nil, "A=a B=a C=c", "ETC/a.env"},
		{`["a.env", "b.env"]`, nil, "A=a B=b C=c", "ETC/a.env ETC/b.env"},
		{`["b.env", "-a.env"]`, nil, "A=a B=a C=c", "ETC/b.env -ETC/a.env"},
		{`["b.env", "-none.env", "-none/none.env"]`, nil, "B=b C=c", "ETC/b.env -ETC/none.env -ETC/none/none.env"},
		{`"-none.env"`, nil, "C=c", "-ETC/none.env"},
		{`[]`, nil, "C=c", ""},
		{`""`, nil, "C=c", ""},
		{`"none.env"`, []string{"--env-file", "-none.env", "--env-file=b.env"}, "B=typed C=c", "-WORK/none.env WORK/b.env"},
		{`["a.env", "none.env"]`, nil, `FILE:2:22: env_file: cannot read "ETC/none.env": no such file or directory`, ""},
		{`"-."`, nil, `FILE:2:12: env_file: cannot read "ETC": it is a directory`, ""},
		{`["-bad.env"]`, nil, `bad.env:1:1: not a variable: write NAME=VALUE, one on each line`, ""},
		{`"-"`, nil, `FILE:2:12: env_file: - is no file: write -NAME for one that may be missing`, ""},
		{`["a.env", 1]`, nil, `FILE:2:22: env_file: must be text: write "1"`, ""},
	} {
		write(t, file, "command = ['x']\nenv_file = "+test.setting+"\nenv.C = 'c'\n")
		cfg, err := h.load(typedFlags(t, append(test.flags, "-c", file)...), "", nil)
		var got []string
		for _, name := range slices.Sorted(maps.Keys(cfg.Env)) {
			got = append(got, name+"="+cfg.Env[name])
		}
		if err != nil {
			got = []string{err.Error()}
		}
		places := strings.NewReplacer("FILE", file, "ETC", h.etc, "WORK", h.directory)
		if got := strings.Join(got, " "); got != places.Replace(test.want) {
			t.Errorf("%s %v:\ngot  %s\nwant %s", test.setting, test.flags, got, places.Replace(test.want))
		}
		for _, s := range cfg.Settings {
			if s.Key == "env_file" && s.Value != places.Replace(test.shown) {
				t.Errorf("%s %v is shown as %s, want %s", test.setting, test.flags, s.Value, places.Replace(test.shown))
			}
		}
	}
}
