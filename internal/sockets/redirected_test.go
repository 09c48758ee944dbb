package sockets

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// swappable is a listener of nobody's, whose directory a user may swap, and one of root's
// beside that.
func swappable(t *testing.T, uid int) (l Listener, dir, roots string) {
	t.Helper()
	needRoot(t)
	open := t.TempDir()
	check(t, os.Chmod(filepath.Dir(open), 0o755)) // of this test alone
	above := filepath.Join(open, "above")
	dir, roots = filepath.Join(above, "dir"), filepath.Join(above, "roots")
	for _, made := range []string{above, dir, roots} {
		check(t, os.Mkdir(made, 0o755))
	}
	for _, theirs := range []string{above, dir} {
		check(t, os.Chown(theirs, uid, uid))
	}
	l = unixAt(filepath.Join(dir, "app.sock"))
	l.Owner = &Owner{nobody, nobody}
	return l, dir, roots
}

// Whoever may rename the directory puts root's in its place, or root's link to it. Nothing is
// made or removed there, and the path is back when a directory of that user's is.
func TestUnixRedirectedToRoots(t *testing.T) {
	for name, swap := range map[string]func(dir, roots string) error{
		"link":      func(dir, roots string) error { return os.Symlink(roots, dir) },
		"directory": func(dir, roots string) error { return os.Rename(roots, dir) },
	} {
		t.Run(name, func(t *testing.T) {
			sameFiles(t)
			l, dir, roots := swappable(t, nobody)
			dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(roots, "app.sock"), Net: "unix"})
			check(t, err)
			dead.SetUnlinkOnClose(false)
			dead.Close()
			before, err := os.Lstat(filepath.Join(roots, "app.sock"))
			check(t, err)

			s := open(t, 1, l)
			check(t, os.Rename(dir, dir+".old"))
			check(t, swap(dir, roots))
			check(t, unix.Shutdown(s.bound[0].user(0).fd, unix.SHUT_RDWR)) // it would be bound again
			for range 3 {
				if undone, err := s.Restore(0); undone != "" || err != nil {
					t.Errorf("restored %q, %v", undone, err)
				}
			}
			wantNotices(t, s.Set, "no other can be bound yet: cannot listen on unix://"+l.Path+": another user may have the path lead elsewhere, so that the socket is made with the rights of uid 65534 alone, which may not make or remove files in "+dir)
			there := map[string]string{"link": roots, "directory": dir}[name]
			wantFiles(t, filepath.Join(there, "app.sock"), "app.sock")
			if after, err := os.Lstat(filepath.Join(there, "app.sock")); !os.SameFile(before, after) {
				t.Errorf("root's own file there is another, %v", err)
			}

			check(t, os.Rename(dir, dir+".swapped"))
			check(t, os.Mkdir(dir, 0o755))
			check(t, os.Chown(dir, nobody, nobody))
			wantRestored(t, s.Set, 0, "a worker has shut the socket down")
			wantServed(t, s, l.Path)
		})
	}
}

// The user with whose rights the socket is made is another one than its owner, or root has
// it: the file's owner is as configured, and its path is linked again.
func TestUnixRedirectorIsNotTheOwner(t *testing.T) {
	sameFiles(t)
	const deployer = 1000
	theirs, _, _ := swappable(t, deployer)
	ours := theirs
	ours.Owner = nil
	for _, l := range []Listener{theirs, ours} {
		s := open(t, 1, l)
		before, err := s.files(0)
		check(t, err)
		check(t, os.Remove(l.Path))
		wantRestored(t, s.Set, 0, "unix path bound again: "+l.Path+" was unlinked")
		wantServed(t, s, l.Path)
		if after, err := s.files(0); err != nil || after[0] != before[0] {
			t.Errorf("files %v, were %v; %v", after, before, err)
		}
		wantNotices(t, s.Set)
		var stat unix.Stat_t
		check(t, unix.Lstat(l.Path, &stat))
		if got := (Owner{stat.Uid, stat.Gid}); got != l.owner() {
			t.Errorf("the file is of %+v, want %+v", got, l.owner())
		}
		s.Close()
		wantFiles(t, l.Path)
	}
}

// A directory of root's in another user's, who could swap it but not write to it, is refused.
func TestUnixDirectoryOfRootsInAnothers(t *testing.T) {
	sameFiles(t)
	_, _, roots := swappable(t, nobody)
	l := unixAt(filepath.Join(roots, "app.sock"))
	_, err := openApp([]Listener{l}, 1)
	wantError(t, err, "another user may have the path lead elsewhere", "give "+roots+" to that user, or choose a path whose directories are root's")
}
