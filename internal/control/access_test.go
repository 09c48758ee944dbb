package control

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// somebody is whom a test asks as.
type somebody struct {
	uid    int
	gid    int
	groups []uint32
}

const stranger = 65534

// knock asks the app to stop, as somebody else where the test is root's, and
// returns the status line.
func knock(t *testing.T, at Location, as somebody) string {
	t.Helper()
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if os.Geteuid() == 0 {
			if err := become(as); err != nil {
				answers <- answer{err: err}
				return
			}
		}
		conn, err := dial(at.socket())
		if err != nil {
			answers <- answer{err: err}
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		line, err := bufio.NewReader(conn).ReadString('\n')
		answers <- answer{strings.TrimSpace(line), err}
	}()
	a := <-answers
	if a.err != nil {
		return a.err.Error()
	}
	return a.line
}

// become changes this thread alone: the raw system calls.
func become(as somebody) error {
	var groups unsafe.Pointer
	if len(as.groups) > 0 {
		groups = unsafe.Pointer(&as.groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(as.groups)), uintptr(groups), 0); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(as.gid), uintptr(as.gid), uintptr(as.gid)); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(as.uid), uintptr(as.uid), uintptr(as.uid)); errno != 0 {
		return errno
	}
	return nil
}

// open lets everybody reach what is in a directory of a test's: the mode of a
// socket there is checked first.
func open(t *testing.T, dir string) {
	t.Helper()
	for path := dir; path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o711); err != nil {
			t.Fatal(err)
		}
	}
}

// other is a uid that this process is not; only root can ask as somebody else:
// for an ordinary user, let the app be somebody else's.
func other() int {
	if os.Geteuid() == 0 {
		return 0
	}
	return os.Geteuid() + 1
}

func TestStrangerIsRefused(t *testing.T) {
	at := serving(t, &fake{app: sample(), stop: func(bool) { t.Error("stopped") }}, patient(), other())
	if code, _, _ := ask(t, at, "GET", "/v1/status", ""); other() == os.Geteuid() && code != 200 {
		t.Fatalf("the owner is refused: %d", code)
	}
	open(t, at.Dir)
	if err := os.Chmod(at.socket(), 0o666); err != nil {
		t.Fatal(err)
	}
	if line := knock(t, at, somebody{uid: stranger, gid: stranger}); line != "HTTP/1.1 403 Forbidden" {
		t.Errorf("a stranger got %q", line)
	}
}

// With control.group its members are let in, by their first group or another,
// and nobody else is.
func TestGroupIsAdmitted(t *testing.T) {
	group := os.Getegid()
	if os.Geteuid() == 0 {
		group = 12345
	}
	many := make([]uint32, 100) // more than the first try has room for
	for i := range many {
		many[i] = uint32(20000 + i)
	}
	stops := 0
	at := servingAt(t, &fake{app: sample(), stop: func(bool) { stops++ }}, patient(), access{owner: other(), group: group})
	info, err := os.Stat(at.socket())
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if line := knock(t, at, somebody{uid: stranger, gid: group}); line != "HTTP/1.1 202 Accepted" {
		t.Errorf("a member by the first group got %q", line)
	}
	if os.Geteuid() != 0 {
		return // the rest needs other groups than one has
	}
	member := somebody{uid: stranger, gid: stranger, groups: append(slices.Clone(many), uint32(group))}
	if line := knock(t, at, member); line != "HTTP/1.1 202 Accepted" {
		t.Errorf("a member by a supplementary group got %q", line)
	}
	if line := knock(t, at, somebody{uid: stranger, gid: stranger}); line != "connect: permission denied" && !strings.HasSuffix(line, "permission denied") {
		t.Errorf("no member got past the mode: %q", line)
	}
	if err := os.Chmod(at.socket(), 0o666); err != nil {
		t.Fatal(err)
	}
	if line := knock(t, at, somebody{uid: stranger, gid: stranger, groups: many}); line != "HTTP/1.1 403 Forbidden" {
		t.Errorf("no member got %q", line)
	}
	if stops != 2 {
		t.Errorf("%d stops", stops)
	}
}

// Root may give a socket to any group: then somebody else tries, in a process of
// its own.
func TestGroupThatOneIsNotIn(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	try := exec.Command("/proc/self/exe")
	try.Env = append(os.Environ(), groupVariable+"="+dir)
	if os.Geteuid() == 0 {
		const nobody = 65534
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		try.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	said, err := try.CombinedOutput()
	want := "to group 12345 (control.group): operation not permitted: be root, or a member of that group\n"
	if err == nil || !strings.HasSuffix(string(said), want) {
		t.Errorf("%v: %s", err, said)
	}
}

// A group that could not come to the socket is refused, with nothing left behind.
func TestGroupThatIsShutOut(t *testing.T) {
	group := os.Getegid()
	if os.Geteuid() == 0 {
		group = 12345
	}
	root := t.TempDir()
	open(t, root)
	dir := filepath.Join(root, "a", "b")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(root, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path  string
		mode  os.FileMode
		group int
		shut  bool
	}{
		{"a/b", 0o700, group, true},
		{"a/b", 0o701, group, os.Geteuid() != 0}, // an ordinary user's only group is that of the directory
		{"a/b", 0o711, group, false},
		{"a", 0o750, group, os.Geteuid() == 0},
		{"a", 0o700, group, true},
		{"a", 0o700, -1, false},
	} {
		if err := os.Chmod(filepath.Join(root, test.path), test.mode); err != nil {
			t.Fatal(err)
		}
		for _, at := range []string{dir, link, filepath.Join(dir, "made")} {
			p, err := createIn(at, "shop", test.group)
			if err == nil {
				p.Remove()
			}
			want := "its members may not enter " + filepath.Join(root, test.path) + ": set FORKD_RUNTIME_DIR"
			if (err != nil) != test.shut || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s is %v, the app in %s: %v", test.path, test.mode, at, err)
			}
		}
		if err := os.Chmod(filepath.Join(root, test.path), 0o755); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}
