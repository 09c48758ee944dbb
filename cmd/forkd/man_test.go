package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
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
	nameValues(root)
	date := time.Unix(0, 0).UTC() // the same build gives the same pages
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "forkd", Manual: "forkd", Date: &date}, dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "forkd-reload.1"))
	if err != nil {
		t.Fatal(err)
	}
	if want := `\fB--slot\fP=K`; !strings.Contains(string(page), want) {
		t.Errorf("forkd-reload.1 has no %q:\n%s", want, page)
	}
	for _, name := range []string{"forkd.1", "forkd-run.1", "forkd-fleet-advise.1"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() < 500 {
			t.Errorf("%s: %v, %+v", name, err, info)
		}
	}
}

// nameValues has a page say what a flag takes, where it would say what it is when it is
// not given, as if slot 0 were reload's default.
func nameValues(cmd *cobra.Command) {
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		name, _ := pflag.UnquoteUsage(f)
		if none := f.DefValue == "" || f.DefValue == "0" || f.DefValue == "[]" || f.DefValue == "0s"; none && name != "" {
			f.DefValue = name
		}
	})
	for _, c := range cmd.Commands() {
		nameValues(c)
	}
}
