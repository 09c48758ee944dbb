package sockets

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A user who may swap the directory of a unix socket, as workers of another user may, has a
// root master make no file where that user could not.
func TestUnixRedirected(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: another user's directory is made")
	}
	sameFiles(t)
	root := t.TempDir()
	theirs, ours := filepath.Join(root, "theirs"), filepath.Join(root, "ours")
	dir, aside := filepath.Join(theirs, "dir"), filepath.Join(theirs, "aside")
	for _, name := range []string{ours, theirs, dir} {
		check(t, os.Mkdir(name, 0o755))
	}
	check(t, os.Chmod(filepath.Dir(root), 0o755))
	check(t, os.Chown(theirs, nobody, nobody))
	check(t, os.Chown(dir, nobody, nobody))
	path := filepath.Join(dir, "s")
	a := open(t, 2, unixAt(path))
	wantServed(t, a, path)
	swap := func() {
		check(t, os.Rename(dir, aside))
		check(t, os.Symlink(ours, dir))
		check(t, os.Lchown(dir, nobody, nobody))
	}
	unswap := func() {
		check(t, os.Remove(dir))
		check(t, os.Rename(aside, dir))
	}
	wantEmpty := func() {
		t.Helper()
		if entries, err := os.ReadDir(ours); err != nil || len(entries) > 0 {
			t.Fatalf("in a directory of root's: %v, %v", entries, err)
		}
	}
	swap()
	_, _ = a.RestoreAll()
	wantEmpty()
	unswap()
	check(t, os.Remove(path))
	swap()
	_, _ = a.RestoreAll()
	wantEmpty()
	unswap()
	// The same in a race.
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				swap()
				unswap()
			}
		}
	}()
	for began := time.Now(); time.Since(began) < 300*time.Millisecond; {
		_, _ = a.RestoreAll()
		wantEmpty()
		for _, name := range []string{path, filepath.Join(dir, ".s.forkd")} {
			_ = os.Remove(name)
		}
	}
	close(stop)
	<-stopped
	_ = os.Remove(path) // the socket that was there in the race
	if _, err := a.RestoreAll(); err != nil {
		t.Error(err)
	}
	wantServed(t, a, path)
}
