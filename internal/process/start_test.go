package process

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func writeProgram(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStartFails(t *testing.T) {
	c := newChildren(t)
	loader, _ := interpreterOf(interpretedELF)
	if loader == "" {
		t.Fatalf("%s has no loader", interpretedELF)
	}
	elfWithoutLoader := strings.Replace(readFile(t, interpretedELF), loader+"\x00", strings.Repeat("x", len(loader))+"\x00", 1)
	noexec := t.TempDir()
	if err := unix.Mount("tmpfs", noexec, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(noexec, unix.MNT_DETACH) })
	for _, name := range []string{"p", "sh"} {
		if err := os.WriteFile(filepath.Join(noexec, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	private := writeProgram(t, "p", "#!/bin/sh\n", 0o755)
	if err := errors.Join(os.Chmod(filepath.Dir(private), 0o700), os.Chmod(filepath.Dir(filepath.Dir(private)), 0o755)); err != nil {
		t.Fatal(err)
	}
	busy, err := os.OpenFile(writeProgram(t, "p", readFile(t, interpretedELF), 0o755), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	foreign := []byte(readFile(t, interpretedELF)[:64])
	foreign[18], foreign[19] = 0xf7, 0 // EM_BPF: no machine's own
	another := &Credential{UID: nobody, GID: nobody}
	for _, test := range []struct {
		name  string
		spec  Spec
		want  string // %s: the path
		errno syscall.Errno
	}{
		{"missing", Spec{Path: "/no/such/program"}, "cannot execute %s: no such file or directory", unix.ENOENT},
		{"not executable", Spec{Path: writeProgram(t, "p", "#!/bin/sh\n", 0o644)}, "cannot execute %s: not executable: chmod +x %s", unix.EACCES},
		{"a directory", Spec{Path: t.TempDir()}, "cannot execute %s: it is a directory", unix.EACCES},
		{"a noexec mount", Spec{Path: noexec + "/p"}, "cannot execute %s: the file system of %s is mounted noexec: mount it with exec, or put the program elsewhere", unix.EACCES},
		{"no interpreter", Spec{Path: writeProgram(t, "p", "#! /no/such/node x\n", 0o755)}, "cannot execute %s: its interpreter /no/such/node is missing", unix.ENOENT},
		{"bad interpreter", Spec{Path: writeProgram(t, "p", "#!/etc/passwd\n", 0o755)}, "cannot execute %s: its interpreter /etc/passwd can't be run: not executable: chmod +x /etc/passwd", unix.EACCES},
		{"noexec interpreter", Spec{Path: writeProgram(t, "p", "#!"+noexec+"/sh\n", 0o755)}, "cannot execute %s: its interpreter " + noexec + "/sh can't be run: the file system of " + noexec + "/sh is mounted noexec: mount it with exec, or put the program elsewhere", unix.EACCES},
		{"Windows line ends", Spec{Path: writeProgram(t, "p", "#!/bin/sh\r\necho\r\n", 0o755)}, `cannot execute %s: its first line ends in a carriage return, as Windows writes it: sed -i 's/\r$//' %s`, unix.ENOENT},
		{"no loader", Spec{Path: writeProgram(t, "p", elfWithoutLoader, 0o755)}, "cannot execute %s: its interpreter " + strings.Repeat("x", len(loader)) + " is missing", unix.ENOENT},
		{"no program", Spec{Path: writeProgram(t, "p", "echo hello\n", 0o755)}, "cannot execute %s: it is no program for this machine, and no script that begins with #!", unix.ENOEXEC},
		{"another machine", Spec{Path: writeProgram(t, "p", string(foreign), 0o755)}, "cannot execute %s: it is no program for this machine, and no script that begins with #!", unix.ENOEXEC},
		{"too long", Spec{Path: "/bin/true", Env: []string{"A=" + strings.Repeat("x", 1<<20)}}, "cannot execute %s: its arguments and environment are too long", unix.E2BIG},
		{"being written", Spec{Path: busy.Name()}, "cannot execute %s: it is open for writing: wait until it is written, and replace a program by rename, not in place", unix.ETXTBSY},
		{"no directory", Spec{Path: "/bin/true", Dir: "/no/such"}, "cannot enter directory /no/such: no such file or directory", unix.ENOENT},
		{"not for the user", Spec{Path: writeProgram(t, "p", "#!/bin/sh\n", 0o700), User: another}, "cannot execute %s: user 65534 may not execute %s: chmod o+x %s, or give it to a group of that user", unix.EACCES},
		{
			"not there for the user",
			Spec{Path: private, User: another},
			"cannot execute %s: user 65534 may not enter the directory " + filepath.Dir(private) + ": chmod o+x " + filepath.Dir(private) + ", or put it elsewhere", unix.EACCES,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.spec.Args, test.spec.Umask = []string{"p"}, -1
			_, err := tryStart(t, c, test.spec)
			var start *StartError
			want := strings.ReplaceAll(test.want, "%s", test.spec.Path)
			if !errors.As(err, &start) || err.Error() != want || !errors.Is(err, test.errno) {
				t.Fatalf("got  %v\nwant %s", err, want)
			}
			if final := test.spec.Dir == "" && test.errno != unix.E2BIG && test.errno != unix.ETXTBSY; start.Final != final {
				t.Errorf("%v: final is %t", err, start.Final)
			}
		})
	}
	if n := childCount(); n != 0 {
		t.Errorf("%d children left", n)
	}
}

const interpretedELF = "/bin/cat"

func TestStartRefuses(t *testing.T) {
	c := newChildren(t)
	spec := shell("true")
	spec.User = &Credential{UID: math.MaxUint32, GID: 1}
	if _, err := c.Start(spec); err == nil || !strings.Contains(err.Error(), "unchanged") {
		t.Errorf("got %v", err)
	}
	spec.User = &Credential{UID: nobody - 1, GID: nobody}
	const refusal = "cannot change to user 65533, group 65534: operation not permitted: "
	for _, test := range []struct {
		as      *Credential
		prepare []string
		want    string
	}{
		{&Credential{UID: nobody, GID: nobody}, nil, "only root may change the user; leave out user and group, or start as root"},
		{nil, []string{"root that changes no user"}, "this root is without CAP_SETUID or CAP_SETGID, as in a container that drops them"},
	} {
		got := start(t, c, master(t, job{Spec: spec, Prepare: test.prepare}, test.as)).rest(t)
		if got != refusal+test.want {
			t.Errorf("got  %s\nwant %s", got, refusal+test.want)
		}
	}
}

func TestStartAfterServe(t *testing.T) {
	c := New()
	defer c.Close()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	c.Serve(ctx)
	spec := shell("true")
	if _, err := c.Start(spec); err == nil {
		t.Error("started without a thread to fork on")
	}
}

// usedDescriptors counts this process's own.
func usedDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestManyAtOnceLeakNothing(t *testing.T) {
	c := newChildren(t)
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	before, routines := usedDescriptors(t), runtime.NumGoroutine()
	const n = 200
	exits := make(chan error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			spec := shell(fmt.Sprintf("exit %d", i))
			spec.Files = []int{fd, fd, fd}
			if i%10 == 0 {
				spec.Path = "/no/such/program"
			}
			p, err := c.Start(spec)
			if i%10 == 0 {
				if !errors.Is(err, unix.ENOENT) {
					exits <- fmt.Errorf("%d: started: %w", i, err)
					return
				}
				exits <- nil
				return
			}
			if err != nil {
				exits <- err
				return
			}
			p.Watch(func(e Exit) {
				if e.Code != i || e.Signal != 0 || e.Leftovers {
					exits <- fmt.Errorf("%d ended with %v (%+v)", i, e, e)
					return
				}
				exits <- nil
			}, func() { exits <- fmt.Errorf("%d had no group to end", i) })
		})
	}
	all.Wait()
	for range n {
		if err := receive(t, exits, "an exit"); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "every child reaped", func() bool { return childCount() == 0 })
	// A pidfd is closed after its process was reaped.
	eventually(t, fmt.Sprintf("%d descriptors, as before", before), func() bool { return usedDescriptors(t) == before })
	eventually(t, "every goroutine ended", func() bool { return runtime.NumGoroutine() <= routines })
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.workers) != 0 || len(c.calls) != 0 {
		t.Errorf("%d workers and %d calls left", len(c.workers), len(c.calls))
	}
}

// cpu is what a set of processes has used.
func cpu(b *testing.B, who int) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStart prints the CPU time of a start beyond that of the program
// itself, started by ForkExec. Run it without -race.
func BenchmarkStart(b *testing.B) {
	const most = 2 * time.Millisecond
	const program = "/bin/true"
	bare := time.Duration(0)
	before := cpu(b, unix.RUSAGE_CHILDREN)
	const n = 100
	for range n {
		pid, err := syscall.ForkExec(program, []string{program}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
		if err != nil {
			b.Fatal(err)
		}
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			_, err = unix.Wait4(pid, nil, 0, nil)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	bare = (cpu(b, unix.RUSAGE_CHILDREN) - before) / n
	c := newChildren(b)
	before, own := cpu(b, unix.RUSAGE_CHILDREN), cpu(b, unix.RUSAGE_SELF)
	for b.Loop() {
		p, err := c.Start(Spec{Path: program, Args: []string{program}, Env: os.Environ(), Files: []int{0, 1, 2}, Umask: -1})
		if err != nil {
			b.Fatal(err)
		}
		<-p.gone
	}
	child := (cpu(b, unix.RUSAGE_CHILDREN)-before)/time.Duration(b.N) - bare
	own = (cpu(b, unix.RUSAGE_SELF) - own) / time.Duration(b.N)
	b.ReportMetric(float64(child.Microseconds())/1000, "child-cpu-ms/op")
	b.ReportMetric(float64(own.Microseconds())/1000, "master-cpu-ms/op")
	if child > most {
		b.Errorf("a child costs %v of CPU, more than %v", child, most)
	}
}
