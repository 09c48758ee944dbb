package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra/doc"
)

// TestManPages writes the man pages to FORKD_MAN_DIR, for packaging/install; without it
// to a directory of the test. They come of the commands' help. What writes them must not
// be in forkd, which it would make larger and slower to start.
func TestManPages(t *testing.T) {
	dir := os.Getenv("FORKD_MAN_DIR")
	if dir == "" {
		dir = t.TempDir()
	}
	root := newRoot(stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr}, nil)
	root.DisableAutoGenTag = true
	date := time.Unix(0, 0).UTC() // the same build gives the same pages
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "forkd", Manual: "forkd", Date: &date}, dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"forkd.1", "forkd-run.1", "forkd-fleet-advise.1"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() < 500 {
			t.Errorf("%s: %v, %+v", name, err, info)
		}
	}
}
