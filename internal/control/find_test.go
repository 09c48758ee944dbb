package control

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFindAcrossDirectories(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	t.Setenv("FORKD_RUNTIME_DIR", first)
	t.Setenv("RUNTIME_DIRECTORY", "")
	t.Setenv("XDG_RUNTIME_DIR", second)
	second = filepath.Join(second, "forkd")
	for _, p := range []struct{ dir, app string }{{first, "shop"}, {second, "shop"}, {second, "blog"}} {
		place, err := createIn(p.dir, p.app, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer place.Remove()
	}
	if at, err := Find("blog"); err != nil || at.Path() != filepath.Join(second, "blog") {
		t.Errorf("blog: %v, %v", at, err)
	}
	if _, err := Find("shop"); err == nil || !strings.Contains(err.Error(), first+"/shop or "+second+"/shop") {
		t.Errorf("shop: %v; want both places named", err)
	}
	if at, err := Find(second + "/shop"); err != nil || at.Dir != second || at.Name != "shop" {
		t.Errorf("DIR/APP: %v, %v", at, err)
	}
	for _, name := range []string{"nosuch", "..", "", first + "/nosuch"} {
		if _, err := Find(name); !isNoApp(err) {
			t.Errorf("%q: %v; want no such app", name, err)
		}
	}
	all := Look().Live
	for _, want := range []Location{{"shop", first}, {"shop", second}, {"blog", second}} {
		if !slices.Contains(all, want) {
			t.Errorf("%v is not listed in %v", want, all)
		}
	}
}

// Of the directories in /tmp those count that are their owners' alone, and one may be so
// deep that its path is none of a socket.
func TestPrivateOfAll(t *testing.T) {
	tmp, own := t.TempDir(), filepath.Base(private())
	unit := filepath.Join(tmp, "systemd-private-"+strings.Repeat("0", 90), "tmp")
	dirs := []string{filepath.Join(tmp, own), filepath.Join(unit, own)}
	for _, dir := range append(dirs, filepath.Join(tmp, "forkd-12345"), filepath.Join(tmp, "sub", own)) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	open := filepath.Join(tmp, "systemd-private-open", "tmp", own)
	if err := errors.Join(os.MkdirAll(open, 0o755), os.Chmod(open, 0o755), os.Symlink(dirs[0], filepath.Join(filepath.Dir(open), "forkd-1"))); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // anybody may make one
		theirs := filepath.Join(tmp, "systemd-private-1", "tmp", "forkd-0")
		if err := errors.Join(os.MkdirAll(theirs, 0o700), os.Chown(filepath.Join(tmp, "systemd-private-1"), 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(dirs, privateOfAll(tmp)); diff != "" {
		t.Error(diff)
	}
	place, err := createIn(dirs[0], "shop", -1)
	if err != nil {
		t.Fatal(err)
	}
	defer place.Remove()
	if err := errors.Join(os.Remove(dirs[1]), os.Rename(dirs[0], dirs[1])); err != nil { // its master has it as /tmp
		t.Fatal(err)
	}
	if at, err := Find(dirs[1] + "/shop"); err != nil || at.Dir != dirs[1] {
		t.Errorf("%v, %v", at, err)
	}
}

func TestDirsInOrder(t *testing.T) {
	t.Setenv("FORKD_RUNTIME_DIR", "/a")
	t.Setenv("RUNTIME_DIRECTORY", "/b/shop:/c/other")
	t.Setenv("XDG_RUNTIME_DIR", "/d")
	got := slices.DeleteFunc(own(), func(dir string) bool { return dir == "/run/forkd" }) // root's
	if want := []string{"/a", "/b", "/d/forkd", private()}; !slices.Equal(got, want) {
		t.Errorf("directories %v, want %v", got, want)
	}
}

func TestDirsNamesEachOnce(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("FORKD_RUNTIME_DIR", dir)
	t.Setenv("RUNTIME_DIRECTORY", dir+"/shop")
	n := 0
	for _, d := range searchDirs() {
		if d == dir {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%s comes %d times", dir, n)
	}
}

func TestValidName(t *testing.T) {
	for _, name := range []string{"a", "0", "Z", "a.b_c-d", "9-", "a..", strings.Repeat("x", MaxName)} {
		if !ValidName(name) {
			t.Errorf("%q is refused", name)
		}
	}
	for _, name := range []string{"", ".", "..", "-a", "_a", ".a", "a/b", "a b", "a\n", "é", "a\xff", "a\x00", strings.Repeat("x", MaxName+1)} {
		if ValidName(name) {
			t.Errorf("%q is taken", name)
		}
	}
}
