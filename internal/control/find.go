package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/forkd/forkd/internal/closing"
)

// MaxName is the most bytes of a name.
const MaxName = 48

// NameRule says what ValidName takes, for errors.
const NameRule = "a name has 1 to 48 letters, digits, dots, hyphens and underscores, and begins with a letter or digit"

const alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// ValidName reports whether name may be an app's, or a listener's.
func ValidName(name string) bool {
	return name != "" && len(name) <= MaxName && strings.Trim(name[:1], alphanumeric) == "" && strings.Trim(name, alphanumeric+"._-") == ""
}

// Location is where a live app is found.
type Location struct {
	Name string // of the app
	Dir  string // the directory that holds DIR/APP
}

// Path is the app as a user writes it when its name alone is not enough.
func (l Location) Path() string { return filepath.Join(l.Dir, l.Name) }

// check says why the master of a user can't be this app's, whose directory is the master's own
// (openOwn): the directory's owner may have put a link to another app's socket there.
func (l Location) check(master int) error {
	info, err := os.Lstat(l.Path())
	if err == nil && info.Mode()&fs.ModeSymlink != 0 && (owner(info) == 0 || owner(info) == os.Geteuid()) {
		info, err = os.Stat(l.Path())
	}
	if err == nil && owner(info) != master {
		err = fmt.Errorf("its directory %s is uid %d's, and who answers there is uid %d: a link leads to another app", l.Path(), owner(info), master)
	}
	return err
}

func (l Location) socket() string { return filepath.Join(l.Dir, l.Name, socketName) }

// NoAppError says that no live app has the name.
type NoAppError struct {
	Name string
	Near string // the name probably meant; "": not known

	Stopped bool // it has a file
}

func (e *NoAppError) Error() string {
	if e.Stopped {
		return fmt.Sprintf("%s is stopped: forkd start %s runs it", e.Name, e.Name)
	}
	if e.Near != "" {
		return fmt.Sprintf("no app %q is running: did you mean %s?", e.Name, e.Near)
	}
	return fmt.Sprintf("no app %q is running: forkd status shows those that are", e.Name)
}

// Find looks for a live app in every directory. Name may also be DIR/APP, which
// tells apart two apps of one name. The error is a *NoAppError if there is none.
func Find(name string) (Location, error) {
	return find(name, func(Location) bool { return true })
}

// FindOwn is Find among the apps of this user: others may give theirs any name.
func FindOwn(name string) (Location, error) {
	return find(name, func(l Location) bool {
		info, err := os.Lstat(l.Path())
		return err == nil && owner(info) == os.Geteuid()
	})
}

func find(name string, wanted func(Location) bool) (Location, error) {
	var candidates, live []Location
	if strings.Contains(name, "/") {
		path, err := filepath.Abs(name)
		if err != nil {
			return Location{}, fmt.Errorf("cannot find %s: %v", name, err)
		}
		candidates = []Location{{Name: filepath.Base(path), Dir: filepath.Dir(path)}}
	} else if ValidName(name) {
		for _, dir := range searchDirs() {
			candidates = append(candidates, Location{Name: name, Dir: dir})
		}
	}
	forbidden := ""
	for _, l := range candidates {
		if !wanted(l) {
			continue
		}
		if err := alive(l); err == nil {
			live = append(live, l)
		} else if errors.Is(err, syscall.EACCES) {
			forbidden = l.Path()
		}
	}
	switch {
	case len(live) == 1:
		return live[0], nil
	case len(live) > 1:
		return Location{}, fmt.Errorf("%d apps are named %s: say which, %s or %s", len(live), name, live[0].Path(), live[1].Path())
	case forbidden != "":
		return Location{}, fmt.Errorf("cannot control %s: it is another user's: be that user, or root, or in its control.group", forbidden)
	default:
		return Location{}, &NoAppError{Name: name}
	}
}

// Survey is what there is in the directories, in their order, then that of the names.
type Survey struct {
	Live   []Location // this user may control them
	Others []Location // of other users, who do not let this one
	Dead   []Location // their masters have ended and left their files
}

// Look looks for apps in every directory.
func Look() (s Survey) {
	const maxApps = 1024 // in a directory: it may be another user's
	for _, dir := range searchDirs() {
		file, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
		if err != nil {
			continue
		}
		entries, _ := file.ReadDir(maxApps)
		file.Close()
		slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		for _, e := range entries {
			l := Location{Name: e.Name(), Dir: dir}
			if !e.IsDir() || !ValidName(e.Name()) {
				continue
			}
			switch err := alive(l); {
			case err == nil:
				s.Live = append(s.Live, l)
			case !errors.Is(err, syscall.EACCES):
				s.Dead = append(s.Dead, l)
			case locked(l):
				s.Others = append(s.Others, l)
			}
		}
	}
	return s
}

// OpenLock opens the file in which a master has recorded its workers. Whoever owns the
// directory decides what it says.
func (l Location) OpenLock() (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(l.Path(), lockName), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, fmt.Errorf("%s is no regular file", file.Name())
	}
	return file, nil
}

// locked reports whether a live process has the name of another user's app, as far as can be
// seen from this network namespace: a socket that this user may not use tells nothing.
func locked(l Location) bool {
	info, err := os.Stat(l.Path())
	if err != nil {
		return false
	}
	name, err := lockAddress(l.Dir, l.Name, owner(info))
	if err != nil {
		return false
	}
	conn, err := dial(name)
	if err == nil {
		conn.Close()
	}
	return err == nil || errors.Is(err, unix.EAGAIN)
}

// alive returns nil when a master listens there. One with a full queue is alive, and
// does not answer.
func alive(l Location) error {
	conn, err := dial(l.socket())
	if err == nil {
		conn.Close()
	} else if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return err
}

// maxSocketPath is the most bytes of a socket's path (unix(7)).
const maxSocketPath = 107

// dial connects to a socket that may be anybody's. Close returns at once.
func dial(path string) (*closing.Conn, error) {
	if len(path) > maxSocketPath { // in a unit's own /tmp
		dir, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		path = within(dir, filepath.Base(path))
	}
	conn, err := (&net.Dialer{Control: closing.Refuse}).Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return closing.NewConn(conn.(*net.UnixConn), new(closing.Closer)), nil
}
