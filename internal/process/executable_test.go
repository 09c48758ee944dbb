package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, []byte(readFile(t, from)), 0o755); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *Executable {
	t.Helper()
	e, err := OpenExecutable(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// replace puts a script in the place of path, by rename.
func replace(t *testing.T, path string) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte("#!/bin/sh\necho new\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

func TestRestoreByPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shop")
	copyFile(t, "/bin/sh", path)
	e := open(t, path)
	got, file, err := e.Restore()
	if got != path || file != nil || err != nil {
		t.Errorf("got %s, %v, %v", got, file, err)
	}
}

// A program that was replaced by rename still runs, under its own name, with
// the descriptors and arguments of any other.
func TestRestoreByDescriptor(t *testing.T) {
	c := newChildren(t)
	for name, after := range map[string]func(path string){
		"replaced": func(path string) { replace(t, path) },
		"removed":  func(path string) { os.Remove(path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "shop")
			copyFile(t, "/bin/sh", path)
			e := open(t, path)
			after(path)
			got, file, err := e.Restore()
			if got != path || file == nil || err != nil {
				t.Fatalf("got %s, %v, %v", got, file, err)
			}
			spec := shell(`echo "old $1 $LISTEN_PID"; read x`)
			spec.Args = append(spec.Args, "sh", "one")
			spec.Path, spec.File, spec.PIDIn = got, file, []string{"LISTEN_PID"}
			spec.User = &Credential{UID: nobody, GID: nobody}
			w := start(t, c, spec)
			if got, want := w.line(t), fmt.Sprintf("old one %d", w.PID()); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if got := strings.TrimSpace(readFile(t, fmt.Sprintf("/proc/%d/comm", w.PID()))); got != "shop" {
				t.Errorf("is called %s", got)
			}
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.PID()))
			if err != nil || len(entries) != 3 {
				t.Errorf("descriptors %v, %v", entries, err)
			}
		})
	}
}

func TestNotRestorable(t *testing.T) {
	t.Run("script", func(t *testing.T) {
		path := writeProgram(t, "shop", "#!/bin/sh\n", 0o755)
		e := open(t, path)
		if got, file, err := e.Restore(); got != path || file != nil || err != nil {
			t.Errorf("unchanged: %s, %v, %v", got, file, err)
		}
		replace(t, path)
		if _, _, err := e.Restore(); err == nil || !strings.Contains(err.Error(), "only be run by its path") {
			t.Errorf("replaced: %v", err)
		}
	})
	t.Run("overwritten", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "shop")
		copyFile(t, "/bin/true", path)
		e := open(t, path)
		copyFile(t, "/bin/false", path)
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := e.Restore(); err == nil || !strings.Contains(err.Error(), "overwritten in place") {
			t.Errorf("got %v", err)
		}
	})
}
