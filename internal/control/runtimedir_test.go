package control

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestRuntimeDirLeavesNothingBehind(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "a", "b")
	p, err := createIn(dir, "shop", -1)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		"":         fs.ModeDir | 0o711,
		socketName: fs.ModeSocket | 0o600,
		lockName:   0o600,
	} {
		info, err := os.Lstat(p.Path(name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", p.Path(name), info.Mode(), err, want)
		}
	}
	if pid := readPID(p.Path(pidName)); pid != os.Getpid() {
		t.Errorf("pid file says %d, not %d", pid, os.Getpid())
	}
	// What the supervisor puts there goes too, if it is a socket.
	notify, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(notify)
	if err := syscall.Bind(notify, &syscall.SockaddrUnix{Name: p.Path("notify.0")}); err != nil {
		t.Fatal(err)
	}
	p.Remove()
	if left, _ := os.ReadDir(root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Workers of another user reach their notify sockets below the directories that a
// master has made, whatever its umask.
func TestUmaskClosesNoDirectory(t *testing.T) {
	root := t.TempDir()
	before := syscall.Umask(0o077)
	defer syscall.Umask(before)
	p, err := createIn(filepath.Join(root, "a", "b"), "shop", -1)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{"a": 0o755, "a/b": 0o755, "a/b/shop": 0o711} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode().Perm(), err, want)
		}
	}
	p.Remove()
	if left, _ := os.ReadDir(root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNameIsTakenOnce(t *testing.T) {
	dir := t.TempDir()
	p, err := createIn(dir, "shop", -1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = createIn(dir, "shop", -1)
	taken, ok := errors.AsType[*TakenError](err)
	if !ok || taken.PID != os.Getpid() || !strings.Contains(err.Error(), "forkd stop shop") {
		t.Fatalf("second master: %v", err)
	}
	if _, err := os.Stat(p.Path(socketName)); err != nil {
		t.Errorf("the refused master took the socket away: %v", err)
	}
	other, err := createIn(dir, "shop2", -1)
	if err != nil {
		t.Fatalf("another name: %v", err)
	}
	other.Remove()
	p.Remove()
}

// The lock's file is removed by its last owner; whoever has opened it by then
// must not take it for the name.
func TestNameIsTakenOnceAtATime(t *testing.T) {
	dir := t.TempDir()
	var holders, taken atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				p, err := createIn(dir, "shop", -1)
				if _, ok := errors.AsType[*TakenError](err); ok {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d masters have the name", n)
				}
				taken.Add(1)
				holders.Add(-1)
				p.Remove()
			}
		})
	}
	all.Wait()
	if taken.Load() == 0 {
		t.Error("nobody ever had the name")
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDeadMasterIsReplaced(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("FORKD_RUNTIME_DIR", dir)
	dead := startMaster(t, dir)
	if _, err := createIn(dir, "shop", -1); err == nil {
		t.Fatal("a live master's name was given away")
	}
	if _, err := Find("shop"); err != nil {
		t.Fatalf("a live master is not found: %v", err)
	}
	if err := dead.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dead.Wait() // killed
	if _, err := os.Stat(filepath.Join(dir, "shop", socketName)); err != nil {
		t.Fatalf("nothing of the dead master is left to replace: %v", err)
	}
	if _, err := Find("shop"); !isNoApp(err) {
		t.Errorf("a dead master is found: %v", err)
	}
	// Its child lives on, and must not have inherited the lock.
	p, err := createIn(dir, "shop", -1)
	if err != nil {
		t.Fatal(err)
	}
	if pid := readPID(p.Path(pidName)); pid != os.Getpid() {
		t.Errorf("pid file says %d", pid)
	}
	if _, err := Find("shop"); err != nil {
		t.Errorf("the successor is not found: %v", err)
	}
	p.Remove()
}

func TestCreateSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ dir, app, want string }{
		{dir, "../shop", "a name has 1 to 48"},
		{dir, "", "a name has 1 to 48"},
		{dir, strings.Repeat("x", 49), "a name has 1 to 48"},
		{dir, "file", "no directory of yours"},
		{file, "shop", "not a directory: set FORKD_RUNTIME_DIR"},
		{filepath.Join(dir, strings.Repeat("d", 100)), "shop", "set FORKD_RUNTIME_DIR to a shorter one"},
		{"/proc/forkd", "shop", "no such file or directory: set FORKD_RUNTIME_DIR"},
	} {
		_, err := createIn(test.dir, test.app, -1)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s/%s: %v; want %q", test.dir, test.app, err, test.want)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := unusable("/run/forkd/shop/pid", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}); err.Error() !=
		"cannot use /run/forkd/shop/pid: no space left on device: free some space, or set FORKD_RUNTIME_DIR to another disk" {
		t.Error(err)
	}
}

func TestPrivateDirectoryIsOursAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "forkd-"+strconv.Itoa(os.Geteuid()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkPrivate(dir); err != nil {
		t.Error(err)
	}
	link := dir + "-link"
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := checkPrivate(link); err == nil {
		t.Error("a link to a directory was trusted")
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := checkPrivate(dir); err == nil {
		t.Error("a directory that others may enter was trusted")
	}
	if os.Geteuid() != 0 {
		return // only root can give a directory away
	}
	if err := errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if err := checkPrivate(dir); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
		t.Errorf("somebody else's directory: %v", err)
	}
}

func isNoApp(err error) bool {
	_, ok := errors.AsType[*NoAppError](err)
	return ok
}

// What others have put into a directory of this user's, while they could, is
// neither followed nor believed.
func TestRuntimeDirFollowsNothing(t *testing.T) {
	root := t.TempDir()
	dir, victim := filepath.Join(root, "shop"), filepath.Join(root, "victim")
	plant := func(name string) {
		t.Helper()
		err := errors.Join(os.WriteFile(victim, []byte("precious"), 0o600), os.MkdirAll(dir, 0o700), os.Symlink(victim, filepath.Join(dir, name)))
		if err != nil {
			t.Fatal(err)
		}
	}
	intact := func(name string) {
		t.Helper()
		info, err := os.Stat(victim)
		if err != nil || info.Size() != int64(len("precious")) || info.Mode() != 0o600 {
			t.Errorf("%s has led to another file, which has %d bytes and mode %v now: %v", name, info.Size(), info.Mode(), err)
		}
	}
	for _, name := range []string{pidName, "." + pidName, socketName} {
		plant(name)
		p, err := createIn(root, "shop", -1)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		intact(name)
		if pid := readPID(p.Path(pidName)); pid != os.Getpid() {
			t.Errorf("%s: the pid file says %d", name, pid)
		}
		p.Remove()
	}
	plant(lockName)
	if _, err := createIn(root, "shop", -1); err == nil {
		t.Error("a link was locked")
	}
	intact(lockName)
	if os.Geteuid() != 0 {
		return // only root can make another's
	}
	lock := filepath.Join(dir, lockName)
	if err := errors.Join(os.Remove(lock), os.WriteFile(lock, []byte("1 1 1\n"), 0o600), os.Chown(lock, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if _, err := createIn(root, "shop", -1); err == nil || !strings.Contains(err.Error(), lock+": it is no file of yours: remove it") {
		t.Errorf("another's lock: %v", err)
	}
}

// Whatever is removed is made again, and clients who are there are served on.
func TestInspect(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "run")
	p, err := createIn(dir, "shop", -1)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	b := &fake{app: sample()}
	b.happen("up", "")
	go func() {
		served <- newAPI(b, patient(), access{owner: os.Geteuid(), group: -1}).serve(ctx, &p.listener)
	}()
	at := Location{Name: "shop", Dir: dir}
	follower := connect(t, at)
	seen, ended := make(chan Event, 100), make(chan error, 1)
	go func() {
		ended <- follower.Events(t.Context(), "", true, func(_ string, e Event) error { seen <- e; return nil })
	}()
	<-seen

	other := filepath.Join(root, "other")
	for _, test := range []struct {
		name   string
		remove func() error
		want   string
	}{
		{"nothing", func() error { return nil }, ""},
		{"the pid", func() error { return os.Remove(p.Path(pidName)) }, "pid"},
		{"the pid's text", func() error { return os.WriteFile(p.Path(pidName), []byte("1\n"), 0o600) }, "pid"},
		{"the socket", func() error { return os.Remove(p.Path(socketName)) }, "control socket"},
		{"the socket for a file", func() error {
			return errors.Join(os.Remove(p.Path(socketName)), os.WriteFile(p.Path(socketName), nil, 0o600))
		}, "control socket"},
		{"the lock", func() error { return os.Remove(p.Path(lockName)) }, "directory and lock"},
		{"the app's directory", func() error { return os.RemoveAll(p.Dir) }, "directory and lock, pid, control socket"},
		{"the app's directory, moved", func() error { return os.Rename(p.Dir, other) }, "directory and lock, pid, control socket"},
		{"all", func() error { return os.RemoveAll(dir) }, "directory and lock, pid, control socket"},
	} {
		if err := test.remove(); err != nil {
			t.Fatal(err)
		}
		restored, err := p.Inspect()
		if got := strings.Join(restored, ", "); err != nil || got != test.want {
			t.Errorf("%s: restored %q, %v; want %q", test.name, got, err, test.want)
		}
		if restored, err := p.Inspect(); err != nil || len(restored) > 0 {
			t.Errorf("%s: then %q, %v", test.name, restored, err)
		}
		for name, want := range map[string]fs.FileMode{"": fs.ModeDir | 0o711, socketName: fs.ModeSocket | 0o600, lockName: 0o600, pidName: 0o644} {
			if info, err := os.Lstat(p.Path(name)); err != nil || info.Mode() != want {
				t.Errorf("%s: %s: %v, want mode %v", test.name, p.Path(name), err, want)
			}
		}
		if pid := readPID(p.Path(pidName)); pid != os.Getpid() {
			t.Errorf("%s: the pid is %d", test.name, pid)
		}
		if _, err := createIn(dir, "shop", -1); !isTaken(err) {
			t.Errorf("%s: a second master: %v", test.name, err)
		}
		c := connect(t, at)
		if app, err := c.Status(t.Context()); err != nil || app.App != b.app.App {
			t.Errorf("%s: %+v, %v", test.name, app, err)
		}
		b.happen("ready", test.name)
		if e := <-seen; e.Reason != test.name {
			t.Errorf("%s: who followed before sees %+v", test.name, e)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	<-ended
	p.Remove()
	if restored, err := p.Inspect(); err != nil || len(restored) > 0 {
		t.Errorf("after the end %q was restored, %v", restored, err)
	}
	if err := os.RemoveAll(other); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A file for the workers is whole and readable, made again, and gone at the end.
func TestKeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	p, err := createIn(dir, "shop", -1)
	if err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(os.WriteFile(victim, nil, 0o600), os.Symlink(victim, p.Path("."+"x.cjs")), os.Symlink(victim, p.Path("x.cjs"))); err != nil {
		t.Fatal(err)
	}
	expect := func(text string) {
		t.Helper()
		data, err := os.ReadFile(p.Path("x.cjs"))
		info, missing := os.Lstat(p.Path("x.cjs"))
		if err != nil || missing != nil || string(data) != text || info.Mode() != 0o644 {
			t.Errorf("%q, %v, %v", data, info, errors.Join(err, missing))
		}
	}
	defer syscall.Umask(syscall.Umask(0o077))
	for _, text := range []string{"one", "one", "two"} {
		if err := p.Keep("x.cjs", text); err != nil {
			t.Fatal(err)
		}
		expect(text)
	}
	if data, err := os.ReadFile(victim); err != nil || len(data) > 0 {
		t.Errorf("a link was followed: %q, %v", data, err)
	}
	if err := os.Remove(p.Path("x.cjs")); err != nil {
		t.Fatal(err)
	}
	if restored, err := p.Inspect(); err != nil || strings.Join(restored, ", ") != "x.cjs" {
		t.Errorf("restored %q, %v", restored, err)
	}
	expect("two")
	if err := errors.Join(os.WriteFile(p.Path("dead.cjs"), nil, 0o644), os.WriteFile(p.Path("dead.zip"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	p.Remove()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

// Where it can't be made again the error says so, and it is when it can.
func TestInspectSaysWhy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	p, err := createIn(dir, "shop", -1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Remove()
	if err := errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if restored, err := p.Inspect(); err == nil || !strings.Contains(err.Error(), "cannot use "+dir) || len(restored) > 0 {
		t.Errorf("restored %q, %v", restored, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if restored, err := p.Inspect(); err != nil || len(restored) != 3 {
		t.Errorf("restored %q, %v", restored, err)
	}
}

// The name stays taken when its files are gone, and is another's in another
// directory.
func TestNameIsTakenWithoutFiles(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "run")
	p, err := createIn(dir, "shop", -1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Remove()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	_, err = createIn(dir, "shop", -1)
	if taken, ok := errors.AsType[*TakenError](err); !ok || taken.PID != os.Getpid() {
		t.Errorf("a second master: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the refused master has left its directory: %v", err)
	}
	for _, other := range []struct{ dir, app string }{{dir, "shop2"}, {filepath.Join(root, "run2"), "shop"}} {
		q, err := createIn(other.dir, other.app, -1)
		if err != nil {
			t.Fatalf("%s in %s: %v", other.app, other.dir, err)
		}
		if q.Unsure != "" {
			t.Errorf("%s in %s: %s", other.app, other.dir, q.Unsure)
		}
		q.Remove()
	}
}

// Who has only taken the name of the lock that goes with no file keeps nobody from
// starting, and the master takes it when it is free.
func TestNameIsSquatted(t *testing.T) {
	dir := t.TempDir()
	name, err := lockAddress(dir, "shop", os.Geteuid())
	if err != nil {
		t.Fatal(err)
	}
	for _, listens := range []bool{true, false} {
		want := "cannot see who has " + name
		if listens {
			if os.Geteuid() != 0 {
				continue // only root can be another user
			}
			want = "a process of uid 65534 (pid "
		}
		end := squat(t, name, listens)
		p, err := createIn(dir, "shop", -1)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(p.Unsure, want) {
			t.Errorf("unsure: %q, want %q", p.Unsure, want)
		}
		if _, err := createIn(dir, "shop", -1); !isTaken(err) {
			t.Errorf("a second master: %v", err)
		}
		end()
		if _, err := p.Inspect(); err != nil || p.Unsure != "" || p.nameLock == nil {
			t.Errorf("when it is free: unsure %q, %v", p.Unsure, err)
		}
		p.Remove()
	}
}

// squat has another process bind the name, of nobody's where it listens too.
func squat(t *testing.T, name string, listens bool) (end func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), squatVariable+"="+name, "GORACE=atexit_sleep_ms=0")
	if listens {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	return func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// A process that ends is known before it is gone.
func TestEnds(t *testing.T) {
	if ends(os.Getpid()) {
		t.Error("this process ends")
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if ends(pid) {
		t.Error("one that runs ends")
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil || ends(pid) {
		t.Errorf("a stopped one ends, %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// Between taking the signal and acting on it, it looks alive for a moment.
	for late := time.After(time.Minute); !ends(pid); {
		select {
		case <-late:
			t.Fatal("one that was killed does not end")
		case <-time.After(time.Millisecond):
		}
	}
	_ = cmd.Wait() // killed
	if !ends(pid) {
		t.Error("one that is gone does not end")
	}
}
