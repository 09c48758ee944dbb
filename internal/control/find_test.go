package control

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
	all := List()
	for _, want := range []Location{{"shop", first}, {"shop", second}, {"blog", second}} {
		if !slices.Contains(all, want) {
			t.Errorf("%v is not listed in %v", want, all)
		}
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
