package output

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/forkd/forkd/internal/safefile"
)

// Who owns a directory above the log file's could have it made somewhere else.
func TestReopenIsNotLed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make directories of another user's")
	}
	root := t.TempDir()
	theirs, ours := filepath.Join(root, "theirs"), filepath.Join(root, "ours")
	path := filepath.Join(theirs, "logs", "out.log")
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Mkdir(ours, 0o755), os.Lchown(theirs, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := LogFiles(file)[0]
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := f.reopen(); err != nil {
		t.Errorf("where nobody has touched anything: %v", err)
	}
	logs := filepath.Dir(path)
	if err := errors.Join(os.Rename(logs, logs+".1"), os.Symlink(ours, logs), os.Lchown(logs, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if err := f.reopen(); !errors.Is(err, safefile.ErrRedirected) || len(made(t, ours)) > 0 {
		t.Errorf("%v; in a directory of root's there is %q now", err, made(t, ours))
	}
}

// made lists what has been made in a directory.
func made(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}
