package process

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestResolve(t *testing.T) {
	root := t.TempDir()
	for name, mode := range map[string]os.FileMode{
		"first/plain": 0o644, "second/plain": 0o755, "second/tool": 0o755, "first/data": 0o644, "app/run": 0o755,
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "first/tool"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"windows": "#!/bin/sh\r\n", "windows-env": "#!/usr/bin/env node\r\n", "windows-perl": "#!/usr/bin/perl -w\r\n", "unix": "#!/bin/sh\necho\r\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "app", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	app, first, second := filepath.Join(root, "app"), filepath.Join(root, "first"), filepath.Join(root, "second")
	path := first + ":" + second
	for _, test := range []struct{ command, path, want string }{
		{"tool", path, second + "/tool"},   // a directory of that name is passed over
		{"plain", path, second + "/plain"}, // as is what can't be executed
		{"./run", path, app + "/run"},
		{"../second/tool", "", second + "/tool"},
		{app + "/run", "", app + "/run"},
		{"./windows-perl", "", app + "/windows-perl"}, // perl takes that
		{"./unix", "", app + "/unix"},
		{"run", path + ":", app + "/run"}, // an empty entry: the working directory
		{"tool", "../second", second + "/tool"},
		{"sh", "", "/bin/sh"},
	} {
		if got, err := Resolve(test.command, app, test.path); got != test.want || err != nil {
			t.Errorf("%s in %s: got %s, %v, want %s", test.command, test.path, got, err, test.want)
		}
	}
	dangling, circle := filepath.Join(root, "current"), filepath.Join(root, "circle")
	if err := errors.Join(os.Symlink("releases/42", dangling), os.Symlink("circle", circle)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ command, path, want string }{
		{"", path, "cannot run a worker: the command is empty"},
		{"nothing", path, "cannot run nothing: command not found in PATH (" + path + ")"},
		{"run", path, "cannot run run: command not found in PATH (" + path + ")"},
		{"nothing", circle, "cannot run nothing: command not found in PATH (" + circle + ")"}, // nobody may enter that
		{"data", path, "cannot run data: not executable: chmod +x " + first + "/data"},
		{"./nothing", path, "cannot run ./nothing: command not found (no file " + app + "/nothing)"},
		{"./run/x", path, "cannot run ./run/x: command not found (no file " + app + "/run/x)"},
		{"./bin/x", path, "cannot run ./bin/x: command not found (no file " + app + "/bin/x)"},
		{"../current/run", path, "cannot run ../current/run: command not found (no file " + dangling + "/run)"},
		{"../current", path, "cannot run ../current: command not found (no file " + dangling + ")"},
		{"../circle", path, "cannot run ../circle: stat " + circle + ": too many levels of symbolic links"},
		{"../first/data", path, "cannot run ../first/data: not executable: chmod +x " + first + "/data"},
		{"../first", path, "cannot run ../first: it is a directory"},
		{"./windows", path, `cannot run ./windows: its first line ends in a carriage return, as Windows writes it: sed -i 's/\r$//' ` + app + "/windows"},
		{"./windows-env", path, `cannot run ./windows-env: its first line ends in a carriage return, as Windows writes it: sed -i 's/\r$//' ` + app + "/windows-env"},
		{"/dev/null", path, "cannot run /dev/null: it is not a regular file"},
	} {
		_, err := Resolve(test.command, app, test.path)
		if _, ok := errors.AsType[*CommandError](err); !ok || err.Error() != test.want {
			t.Errorf("got  %v\nwant %s", err, test.want)
		}
	}
}
