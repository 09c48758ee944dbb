package output

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// logged is a log of the files' complaints.
type logged struct{ bytes.Buffer }

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func TestFilesAreBoundedAndRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	var complaints logged
	l := new(Log)
	l.KeepIn(NewFiles(dir, "shop", MinSize, 3, complaints.logger()))
	const lines = 5000
	var want []string
	for i := range lines {
		text := fmt.Sprintf("%d %s", i, strings.Repeat("x", 50))
		write(l, Source{0, 1, 77, Stdout}, text+"\n")
		want = append(want, text)
	}
	l.Close()
	if complaints.Len() > 0 {
		t.Error(complaints.String())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		if info, err := e.Info(); err != nil || info.Size() > MinSize {
			t.Errorf("%s has %d bytes (%v)", e.Name(), info.Size(), err)
		}
	}
	if diff := cmp.Diff([]string{"shop.log", "shop.log.1", "shop.log.2"}, names); diff != "" {
		t.Fatal(diff)
	}
	all, err := ReadFiles(dir, "shop", Query{N: All})
	if err != nil || len(all) < 1000 || len(all) >= lines {
		t.Fatalf("%d lines, %v", len(all), err)
	}
	if diff := cmp.Diff(want[lines-len(all):], texts(all)); diff != "" {
		t.Error(diff)
	}
	if some, err := ReadFiles(dir, "shop", Query{N: 1500, Slot: new(0)}); err != nil || cmp.Diff(all[len(all)-1500:], some) != "" {
		t.Errorf("the newest 1500 of them: %d, %v", len(some), err)
	}
	if some, err := ReadFiles(dir, "shop", Query{N: All, Since: all[len(all)-2].Time}); err != nil || cmp.Diff(all[len(all)-1:], some) != "" {
		t.Errorf("what has come since the last but one: %d, %v", len(some), err)
	}
	if _, err := ReadFiles(dir, "shed", Query{N: All}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of an app without files: %v", err)
	}
}

// keep returns files, and a function that writes a line to them a second later than the last
// one.
func keep(t *testing.T, dir string, complaints *logged) func(text string) {
	f := NewFiles(dir, "shop", MinSize, 2, complaints.logger())
	t.Cleanup(f.Close)
	var c clock
	return func(text string) {
		time.Sleep(lookInterval)
		if _, err := f.Write(appendRecord(nil, &c, time.Now(), Source{0, 1, 77, Stdout}.header(), []byte(text))); err != nil {
			t.Fatal(err)
		}
	}
}

func kept(t *testing.T, dir string) []string {
	t.Helper()
	lines, err := ReadFiles(dir, "shop", Query{N: All})
	if err != nil {
		t.Fatal(err)
	}
	return texts(lines)
}

// The zeros that a power cut leaves hide no line that follows.
func TestFilesWithZeros(t *testing.T) {
	dir := t.TempDir()
	text := "2026-11-28T07:01:10.123456Z 0 1 7 stdout one\n" + strings.Repeat("\x00", 1<<20) + "\n2026-11-28T07:01:10.123457Z 0 1 7 stdout two\n"
	if err := os.WriteFile(filepath.Join(dir, FileName("shop")), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if lines, err := ReadFiles(dir, "shop", Query{N: All}); err != nil || len(lines) != 2 || lines[1].Line != "two" {
		t.Errorf("%+v, %v", lines, err)
	}
}

// A file that is moved, removed or goes with its directory is made again, and a line that
// was torn spoils no other.
func TestFilesComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "log")
		path := filepath.Join(dir, "shop.log")
		var complaints logged
		write := keep(t, dir, &complaints)
		write("one")
		if err := os.Rename(path, path+".moved"); err != nil {
			t.Fatal(err)
		}
		write("two")
		if diff := cmp.Diff([]string{"two"}, kept(t, dir)); diff != "" {
			t.Error(diff)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		write("three")
		if diff := cmp.Diff([]string{"three"}, kept(t, dir)); diff != "" {
			t.Error(diff)
		}
		if err := os.WriteFile(path+".new", []byte("2026-11-28T07:01:10.123456Z 0 1 77 stdout tor"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		write("four")
		if diff := cmp.Diff([]string{"tor", "four"}, kept(t, dir)); diff != "" {
			t.Error(diff)
		}
		if complaints.Len() > 0 {
			t.Error(complaints.String())
		}
	})
}

// What can't be written is counted, said once and not each time, and over when it is over.
func TestFilesThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		dir := filepath.Join(root, "log")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		var complaints logged
		write := keep(t, dir, &complaints)
		for range 10 {
			write("lost")
		}
		if n := strings.Count(complaints.String(), "lines are lost"); n != 1 {
			t.Errorf("said %d times: %s", n, complaints.String())
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		write("kept")
		if diff := cmp.Diff([]string{"kept"}, kept(t, dir)); diff != "" {
			t.Error(diff)
		}
		if !strings.Contains(complaints.String(), "written again") || !strings.Contains(complaints.String(), "lost=10\n") {
			t.Error(complaints.String())
		}
	})
}

// One that can't be renamed keeps its size, and what that costs is said.
func TestFilesThatCannotBeRenamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "shop.log.1", "in the way"), 0o700); err != nil {
			t.Fatal(err)
		}
		var complaints logged
		write := keep(t, dir, &complaints)
		for range 100 {
			write(strings.Repeat("x", 4000))
		}
		if info, err := os.Stat(filepath.Join(dir, "shop.log")); err != nil || info.Size() > MinSize {
			t.Errorf("%v, %v", info, err)
		}
		if !strings.Contains(complaints.String(), "it was emptied, as it can't be renamed: ") {
			t.Error(complaints.String())
		}
	})
}

// Links that somebody puts there lead the master nowhere.
func TestFilesAreNotLed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		dir, victim := filepath.Join(root, "log"), filepath.Join(root, "victim")
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(victim, []byte("mine"), 0o600)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "shop.log")
		for name, put := range map[string]func() error{
			"a symbolic link": func() error { return os.Symlink(victim, path) },
			"another name":    func() error { return os.Link(victim, path) },
			"a pipe":          func() error { return unix.Mkfifo(path, 0o600) },
		} {
			var complaints logged
			if err := put(); err != nil {
				t.Fatal(err)
			}
			keep(t, dir, &complaints)("secret")
			if text, err := os.ReadFile(victim); err != nil || string(text) != "mine" {
				t.Errorf("%s: %q, %v", name, text, err)
			}
			if !strings.Contains(complaints.String(), "cannot write the log file") {
				t.Errorf("%s: %q", name, complaints.String())
			}
			if lines, err := ReadFiles(dir, "shop", Query{N: All}); name != "another name" && err == nil {
				t.Errorf("%s is read: %v", name, lines)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A disk that hangs keeps no master from ending.
func TestLogClosesWhileADiskHangs(t *testing.T) {
	files := NewFiles(t.TempDir(), "shop", MinSize, 1, slog.New(slog.DiscardHandler))
	files.mu.Lock() // as a Write that does not return
	defer files.mu.Unlock()
	l := new(Log)
	l.KeepIn(files)
	closed := make(chan struct{})
	go func() {
		l.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Error("the log is still being closed")
	}
}

// A disk that is full costs lines, and is written again when there is room.
func TestFilesOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	synctest.Test(t, func(t *testing.T) {
		var complaints logged
		write := keep(t, dir, &complaints)
		write("first")
		filler := filepath.Join(dir, "filler")
		if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("the disk is not full: %v", err)
		}
		for i := range 5 { // some fit into the file's last page
			write(fmt.Sprint(i, strings.Repeat("y", 1000)))
		}
		if !strings.Contains(complaints.String(), "no space left on device") {
			t.Fatal(complaints.String())
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		write("after")
		lines := kept(t, dir)
		if lines[0] != "first" || lines[len(lines)-1] != "after" {
			t.Errorf("kept %.100q", lines)
		}
		if !strings.Contains(complaints.String(), "written again") {
			t.Error(complaints.String())
		}
	})
}
