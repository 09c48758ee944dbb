package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBinaryPath(t *testing.T) {
	path, err := binaryPath("/proc/self/exe")
	if want, _ := os.Executable(); err != nil || path != want {
		t.Errorf("%s, %v; want %s", path, err, want)
	}
	// A file may be called that, and is there.
	dir := t.TempDir()
	odd, link := filepath.Join(dir, "forkd (deleted)"), filepath.Join(dir, "exe")
	if err := os.WriteFile(odd, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(odd, link); err != nil {
		t.Fatal(err)
	}
	if path, err := binaryPath(link); err != nil || path != odd {
		t.Errorf("%s, %v; want %s", path, err, odd)
	}
	if err := os.Remove(odd); err != nil {
		t.Fatal(err)
	}
	if path, err := binaryPath(link); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "forkd")+" is not the forkd that runs here") {
		t.Errorf("%s, %v", path, err)
	}
}
