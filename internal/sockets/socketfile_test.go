package sockets

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// secret is a file that nobody has asked the app to touch.
func secret(t *testing.T) (path string, untouched func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(path, nil, 0o600))
	before, err := os.Stat(path)
	check(t, err)
	return path, func() {
		t.Helper()
		after, err := os.Stat(path)
		check(t, err)
		then, now := before.Sys().(*syscall.Stat_t), after.Sys().(*syscall.Stat_t)
		if before.Mode() != after.Mode() || then.Uid != now.Uid || then.Nlink != now.Nlink {
			t.Errorf("the mode of a file beside it is %v, was %v; of uid %d, was %d; %d links, were %d",
				after.Mode(), before.Mode(), now.Uid, then.Uid, now.Nlink, then.Nlink)
		}
	}
}

// Whoever may write to the directory puts a link where the socket was: a new
// mode is the socket's or nobody's.
func TestUnixModeFollowsNoLink(t *testing.T) {
	sameFiles(t)
	path := socketPath(t)
	target, untouched := secret(t)
	s := open(t, 1, unixAt(path))
	check(t, os.Remove(path))
	check(t, os.Symlink(target, path))
	wider := unixAt(path)
	wider.Perm = 0o666
	_, err := s.Open([]Listener{wider}, 1)
	check(t, err)
	wantNotices(t, s.Set, "cannot set the mode of unix://"+path+": somebody else's file is at its path")
	untouched()
	info, err := os.Lstat(fileAt(path).second)
	check(t, err)
	if info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v", info.Mode())
	}
}

// The link is there as soon as bind(2) has returned, or as the second name.
func TestUnixClaimsItsOwnFile(t *testing.T) {
	sameFiles(t)
	target, untouched := secret(t)
	another := func(path string) {
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		check(t, err)
		t.Cleanup(func() { ln.Close() })
	}
	for name, replace := range map[string]func(path string){
		"link":   func(path string) { check(t, os.Symlink(target, path)) },
		"file":   func(path string) { check(t, os.WriteFile(path, nil, 0o600)) },
		"socket": another,
	} {
		t.Run(name, func(t *testing.T) {
			f := fileAt(socketPath(t))
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			check(t, err)
			defer unix.Close(fd)
			check(t, unix.Bind(fd, &unix.SockaddrUnix{Name: f.path}))
			check(t, f.identify(fd, f.path))
			check(t, f.link(f.path, f.second))

			check(t, os.Remove(f.path))
			replace(f.path)
			for what, err := range map[string]error{"claim": f.identify(fd, f.path), "chmod": f.chmod(0o666), "link": f.link(f.path, f.second+"2")} {
				if !errors.Is(err, errNotOurs) {
					t.Errorf("%s: %v", what, err)
				}
			}
			check(t, os.Remove(f.path))
			check(t, os.Remove(f.second))
			replace(f.second)
			if err := f.link(f.second, f.path); !errors.Is(err, errNotOurs) {
				t.Errorf("the path back: %v", err)
			}
			untouched()
		})
	}
	wantError(t, (&socketFile{path: "/run/app.sock"}).explain(unixAt("/run/app.sock"), errNotOurs), "somebody has just made a file there")
	if err := (&socketFile{}).on("/nonexistent", nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// The file is the app's user's, follows another one, and no link.
func TestUnixOwner(t *testing.T) {
	needRoot(t)
	sameFiles(t)
	path := socketPath(t)
	of := func(uid, gid uint32) Listener {
		l := unixAt(path)
		l.Owner = &Owner{uid, gid}
		return l
	}
	owner := func() Owner {
		t.Helper()
		info, err := os.Lstat(path)
		check(t, err)
		stat := info.Sys().(*syscall.Stat_t)
		return Owner{stat.Uid, stat.Gid}
	}
	s := open(t, 1, of(65534, 1))
	if got := owner(); got != (Owner{65534, 1}) {
		t.Errorf("the file is of %+v", got)
	}
	check(t, os.Remove(path))
	if changed, err := s.RestoreAll(); len(changed) != 1 || err != nil {
		t.Errorf("restored %v, %v", changed, err)
	}
	s.Notices()
	for _, l := range []Listener{of(2, 3), unixAt(path)} {
		_, err := s.Open([]Listener{l}, 1)
		check(t, err)
		if got := owner(); got != l.owner() {
			t.Errorf("the file is of %+v, want %+v", got, l.owner())
		}
	}
	wantNotices(t, s.Set)

	target, untouched := secret(t)
	check(t, os.Remove(path))
	check(t, os.Symlink(target, path))
	_, err := s.Open([]Listener{of(65534, 65534)}, 1)
	check(t, err)
	wantNotices(t, s.Set, "cannot set the owner of unix://"+path+": somebody else's file is at its path")
	untouched()
}
