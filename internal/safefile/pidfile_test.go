package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// files lists what is in a directory.
func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func makeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPIDFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "shop.pid")
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for _, stale := range []string{"", fmt.Sprintln(ended.Process.Pid), fmt.Sprint(os.Getpid())} {
		if stale != "" {
			makeFile(t, path, stale)
		}
		p, err := WritePIDFile(path)
		if err != nil {
			t.Fatalf("over %q: %v", stale, err)
		}
		text, err := os.ReadFile(path)
		info, _ := os.Stat(path)
		if err != nil || string(text) != fmt.Sprintln(os.Getpid()) || info.Mode() != 0o644 || files(t, dir) != "shop.pid" {
			t.Errorf("over %q: it says %q, mode %v, %v; beside it: %s", stale, text, info.Mode(), err, files(t, dir))
		}
		// Another master's is refused and stays.
		if _, err := WritePIDFile(path); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("runs (pid %d): choose another pid_file", os.Getpid())) {
			t.Errorf("a second one: %v", err)
		}
		p.Remove()
		if left := files(t, dir); left != "" {
			t.Errorf("left behind: %s", left)
		}
	}
}

// What is not this master's any more stays.
func TestPIDFileOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop.pid")
	for name, change := range map[string]func() error{
		"overwritten": func() error { return os.WriteFile(path, []byte("1\n"), 0o600) },
		"replaced": func() error {
			return errors.Join(os.Remove(path), os.WriteFile(path, fmt.Appendln(nil, os.Getpid()), 0o600))
		},
		"a directory": func() error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		p, err := WritePIDFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		p.Remove()
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing is followed, overwritten or waited for.
func TestPIDFileRefused(t *testing.T) {
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "shop.pid"), filepath.Join(dir, "victim")
	long := strings.Repeat("1", 200)
	for name, test := range map[string]struct {
		make func() error
		want string
	}{
		"text":      {func() error { return os.WriteFile(path, []byte("root:x:0:0\n"), 0o600) }, "holds no pid"},
		"empty":     {func() error { return os.WriteFile(path, nil, 0o600) }, "holds no pid"},
		"long":      {func() error { return os.WriteFile(path, []byte(long), 0o600) }, "holds no pid"},
		"link":      {func() error { return os.Symlink(victim, path) }, "no regular file"},
		"hard link": {func() error { return os.Link(victim, path) }, "holds no pid"},
		"pipe":      {func() error { return syscall.Mkfifo(path, 0o600) }, "no regular file"},
		"directory": {func() error { return os.Mkdir(path, 0o700) }, "no regular file"},
	} {
		makeFile(t, victim, "precious")
		if err := test.make(); err != nil {
			t.Fatal(err)
		}
		_, err := WritePIDFile(path)
		if err == nil || !strings.Contains(err.Error(), "cannot write the pid file "+path+": ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", name, err, test.want)
		}
		if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" || files(t, dir) != "shop.pid victim" {
			t.Errorf("%s: the victim says %q, %v; there are %s", name, text, err, files(t, dir))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := WritePIDFile(filepath.Join(dir, "none", "shop.pid")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

// Who may lead a directory elsewhere: the owners of what it is in, not of itself.
func TestRedirector(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make what is another's")
	}
	root := t.TempDir()
	for _, dir := range []struct {
		name string
		uid  int
		mode os.FileMode
	}{
		{"ours", 0, 0o755},
		{"ours/theirs", 1000, 0o755},
		{"ours/theirs/ours", 0, 0o755},
		{"ours/theirs/other", 1001, 0o755},
		{"ours/theirs/other/ours", 0, 0o755},
		{"tmp", 0, 0o777 | os.ModeSticky},
		{"tmp/ours", 0, 0o755},
		{"tmp/theirs", 1000, 0o755},
		{"open", 0, 0o777},
		{"open/ours", 0, 0o755},
	} {
		path := filepath.Join(root, dir.name)
		if err := errors.Join(os.Mkdir(path, 0o755), os.Chmod(path, dir.mode), os.Chown(path, dir.uid, -1)); err != nil {
			t.Fatal(err)
		}
	}
	for name, uid := range map[string]int{"link": 0, "ours/link": 1000} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.Symlink(filepath.Join(root, "ours"), path), os.Lchown(path, uid, -1)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]int{
		"ours": 0, "ours/theirs": 0, "ours/theirs/ours": 1000, "ours/theirs/other/ours": anybody, "ours/theirs/other": 1000,
		"tmp": 0, "tmp/ours": 0, "tmp/theirs": 1000, "open": 0, "open/ours": anybody,
		"link": 0, "link/theirs/ours": 1000, "ours/link": 1000,
	} {
		if got, err := Redirector(filepath.Join(root, name)); got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", name, got, err, want)
		}
	}
	if _, err := Redirector(filepath.Join(root, "none")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("none: %v", err)
	}
}

// A link is followed where the path is this user's or root's own, and one of
// another user's only to a directory of that user's.
func TestOpenDir(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"ours", "theirs"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	makeFile(t, filepath.Join(root, "file"), "")
	for name, to := range map[string]string{
		"theirs/a": "../ours", "theirs/b": filepath.Join(root, "ours"), "theirs/c": ".", "theirs/d": "a",
		"ours/a": "../theirs", "ours/b": "../ours", "ours/loop": "loop", "ours/none": "nothing",
	} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	isRoot := os.Geteuid() == 0
	if isRoot {
		for _, name := range []string{"theirs", "theirs/a", "theirs/b", "theirs/c", "theirs/d"} {
			if err := os.Lchown(filepath.Join(root, name), 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, want := range map[string]error{
		"": nil, "ours": nil, "ours/a": nil, "ours/b/../ours": nil, "theirs": nil, "theirs/c": nil, "ours/a/c/": nil,
		"theirs/a": ErrRedirected, "theirs/b": ErrRedirected, "theirs/d": ErrRedirected, "ours/a/a": ErrRedirected,
		"file": unix.ENOTDIR, "file/x": unix.ENOTDIR, "ours/loop": unix.ELOOP, "ours/none": unix.ENOENT, "none": unix.ENOENT,
	} {
		if errors.Is(want, ErrRedirected) && !isRoot {
			continue // only root can make what is another's
		}
		path := root + "/" + name
		dir, err := OpenDir(path)
		if !errors.Is(err, want) || (err == nil) != (dir >= 0) {
			t.Errorf("%s: descriptor %d, %v; want %v", name, dir, err, want)
		}
		if err != nil {
			continue
		}
		var opened, named unix.Stat_t
		if err := errors.Join(unix.Fstat(dir, &opened), unix.Stat(path, &named)); err != nil || opened.Ino != named.Ino {
			t.Errorf("%s: opened another, %v", name, err)
		}
		unix.Close(dir)
	}
}
