package config

import (
	"errors"
	"strings"
	"testing"
)

// The line at fault is shown, in its own columns, without what may be a secret.
func TestSource(t *testing.T) {
	for content, want := range map[string]string{
		"workers = 'many' # hunter2":                   "workers = 'many'",
		"\tworkers = 'many'":                           " workers = 'many'",
		"passwrd = 'hunter2'":                          "passwrd = '*******'",
		"workers = hunter2":                            "workers = *******",
		"env = { A = 'hunter2', B = 1 }":               "env = { * = '*******', * = * }",
		"env.A = 'x{hunter2'":                          "env.A = '*{*******'",
		"redis.url = 'http://hunter2'":                 "redis.url = '****://*******'",
		"command = ['', '--token=hunter2']":            "command = ['', '--*****=*******']",
		"ready = { mode = 'x', password = 'hunter2' }": "ready = { **** = '*', ******** = '*******' }",
		"[redy]":  "[redy]",
		"hunter2": "*******",
		"x = '" + strings.Repeat("y", 2*maxSource) + "'": "",
		"[[listen]] # hunter2":                           "[[listen]] # *******",
		"umask = '0888'; password = 'hunter2'":           "umask = '****'; ******** = '*******'",
	} {
		_, _, err := loadFile(t, content)
		wrong, ok := errors.AsType[*Error](err)
		if !ok || wrong.Source != want {
			t.Errorf("%q: %q, want %q (%v)", content, wrong.Source, want, err)
		}
	}
}
