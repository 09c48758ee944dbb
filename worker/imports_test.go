package worker_test

import (
	"os/exec"
	"strings"
	"testing"
)

// A program that serves with net/http must not compile fasthttp in, nor anything
// of the master.
func TestImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".", "./httpserve").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		own, ours := strings.CutPrefix(dep, "github.com/forkd/forkd/")
		if ours && own != "ipc" && own != "worker" && own != "worker/httpserve" && own != "worker/internal/serve" {
			t.Errorf("imports %s", dep)
		}
		first, _, _ := strings.Cut(dep, "/") // a dot in it: not the standard library's
		if !ours && strings.Contains(first, ".") && !strings.HasPrefix(dep, "golang.org/x/sys/") {
			t.Errorf("imports %s", dep)
		}
	}
	if out, err = exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output(); err != nil || strings.Contains(string(out), "net/http\n") {
		t.Errorf("worker imports a server: %v", err)
	}
}
