// Package deb_test makes the Debian package, and installs, uses, upgrades, removes and
// purges it by dpkg under a real systemd.
package deb_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/forkd/forkd/test/machine"
)

func TestPackage(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), "make", "-C", "../..", "deb").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file, err := filepath.Abs("../../bin/forkd.deb")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(machine.Run(t, nil, "testdata/lifecycle.sh", file))
}
