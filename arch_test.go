// Package forkd_test keeps the arrows between the packages of the module: who
// may import whom, and what may be linked into whose programs.
package forkd_test

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/forkd/forkd"

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath string
	Imports    []string // of the package itself, without its tests
	Deps       []string // everything that is linked with it
}

// A rule forbids one kind of import. Paths are relative to the module, except
// for those of the standard library and of other modules; "x/..." is x and all
// that is below it, "..." is any package of the module.
type rule struct {
	from   string
	to     []string
	except []string
	linked bool // indirect imports count too
	why    string
}

func rules() []rule {
	const leaf = "it is a leaf that everything else stands on: it must be readable, testable and importable alone"
	return []rule{
		{from: "...", to: []string{"cmd/..."}, why: "a command is the outermost layer: what two of them share belongs into a package"},
		{from: "internal/pool", to: []string{"..."}, why: leaf},
		{from: "ipc", to: []string{"..."}, why: leaf},
		{from: "systemd", to: []string{"..."}, why: leaf},
		{from: "internal/placeholder", to: []string{"..."}, why: leaf},
		{from: "internal/advise", to: []string{"..."}, why: leaf},
		{from: "internal/closing", to: []string{"..."}, why: leaf},
		{from: "internal/openmetrics", to: []string{"..."}, why: leaf},
		{from: "internal/pace", to: []string{"..."}, why: leaf},
		{from: "internal/procfs", to: []string{"..."}, why: leaf},
		{from: "internal/safefile", to: []string{"..."}, why: leaf},
		{from: "internal/capture", to: []string{"..."}, except: []string{"internal/closing", "internal/pace", "internal/procfs"}, why: "it answers calls, whatever sockets and workers they are about"},
		{from: "internal/output", to: []string{"..."}, except: []string{"internal/pace", "internal/safefile"}, why: "it copies lines, whoever writes them"},
		{from: "internal/eventlog", to: []string{"..."}, except: []string{"internal/pool", "internal/control", "internal/output", "internal/state"}, why: "it turns what the core says into the shape that clients see, and knows nobody who acts"},
		{from: "internal/workerlink", to: []string{"..."}, except: []string{"ipc", "internal/closing", "internal/pace", "internal/process"}, why: "it carries the words of one worker, whatever they mean for the app"},
		{from: "internal/adopt", to: []string{"..."}, except: []string{"internal/control", "internal/pool", "internal/process", "internal/procfs", "internal/sockets", "systemd"}, why: "it finds processes, what becomes of them is the loop's"},
		{from: "internal/control", to: []string{"..."}, except: []string{"ipc", "internal/closing", "internal/openmetrics", "internal/output", "internal/procfs"}, why: "it checks messages by the contract with workers, and knows nothing else of them or of the loop"},
		{from: "internal/redisconfig", to: []string{"..."}, why: leaf},
		{from: "internal/doctor", to: []string{"..."}, except: []string{"internal/capture", "internal/cgroup", "internal/control", "internal/process", "internal/procfs", "internal/sockets", "internal/state"}, why: "it asks what a master asks, and knows none"},
		{from: "internal/state", to: []string{"..."}, except: []string{"internal/control", "internal/safefile"}, why: "it keeps the shapes that clients see, and knows nobody who acts"},
		{from: "internal/fleet", to: []string{"..."}, except: []string{"internal/advise", "internal/control", "internal/closing", "internal/redisconfig"}, why: "it reports the shape of a status and of events, and knows nothing of what makes them"},
		{from: "internal/fleetserve", to: []string{"..."}, except: []string{"internal/advise", "internal/control", "internal/fleet", "internal/openmetrics"}, why: "it shows what the fleet's reader has read, and decides nothing"},
		{from: "internal/haproxy", to: []string{"..."}, except: []string{"internal/control", "internal/fleet"}, why: "it compares what the fleet's reader has read with what HAProxy has"},
		{from: "internal/sockets", to: []string{"..."}, except: []string{"internal/closing", "internal/procfs", "internal/safefile"}, why: "it knows sockets, not who serves them"},
		{from: "internal/cgroup", to: []string{"..."}, why: leaf},
		{from: "internal/process", to: []string{"..."}, except: []string{"ipc", "internal/cgroup", "internal/procfs"}, why: "it knows processes, not the apps that they belong to"},
		{
			from: "internal/pool",
			to:   []string{"os/...", "net/...", "syscall/...", "log/...", "context", "sync/...", "math/rand/...", "crypto/rand", "golang.org/x/sys/..."},
			why:  "the core is pure: time, chance and the world come in as events and go out as actions, so that it can be tested without any of them",
		},
		{
			from: "internal/advise",
			to:   []string{"os/...", "net/...", "syscall/...", "log/...", "context", "sync/...", "math/rand/...", "crypto/rand", "github.com/..."},
			why:  "the advice is pure: time and figures come in and an advice goes out, so that hours of a thousand hosts are tested in seconds",
		},
		{from: "worker/...", to: []string{"..."}, except: []string{"ipc", "worker/..."}, why: "its users compile it into their servers: it knows the contract, never the master"},
		{from: "worker", to: []string{"worker/..."}, why: "whoever wants one kind of server must not get the others with it"},
		{from: "worker/httpserve", to: []string{"worker/fasthttpserve"}, why: "whoever wants one kind of server must not get the others with it"},
		{from: "worker/fasthttpserve", to: []string{"worker/httpserve"}, why: "whoever wants one kind of server must not get the others with it"},
		{from: "supervisor", to: []string{"worker/...", "internal/config"}, why: "the master and its workers meet in ipc only, and the master is told its settings, it does not read them"},
		{
			from:   "internal/config",
			to:     []string{"..."},
			except: []string{"supervisor", "internal/pool", "internal/sockets", "internal/redisconfig", "internal/control", "internal/placeholder", "internal/cgroup", "ipc"},
			why:    "it fills the settings of these in, in their words and by their checks, and starts none of them",
		},
		{
			from:   "cmd/forkd",
			to:     []string{"..."},
			except: []string{"supervisor", "internal/advise", "internal/config", "internal/control", "internal/doctor", "internal/fleet", "internal/fleetserve", "internal/haproxy", "internal/output", "internal/redisconfig", "internal/process", "internal/state", "systemd"},
			why:    "a command reads its arguments and calls one of these",
		},
		{from: "examples/...", to: []string{"..."}, except: []string{"worker/...", "examples/websocket/chat"}, why: "an example shows what a user of the module can do, and users see no more than this"},
		{
			from: "supervisor", to: []string{"github.com/redis/...", "github.com/alicebob/...", "github.com/yuin/gopher-lua/...", "internal/fleet"}, linked: true,
			why: "nothing of Redis runs, grows or crashes in the master: the fleet agent is a process beside it",
		},
		{from: "cmd/forkd", to: []string{"github.com/valyala/fasthttp/..."}, linked: true, why: "the master never touches a connection: a web server in it is dead weight in memory"},
		{from: "worker", to: []string{"github.com/valyala/fasthttp/..."}, linked: true, why: "whoever does not use fasthttp must not compile it"},
		{from: "worker/httpserve", to: []string{"github.com/valyala/fasthttp/..."}, linked: true, why: "whoever does not use fasthttp must not compile it"},
	}
}

func TestImports(t *testing.T) {
	packages := list(t)
	for _, r := range rules() {
		applied := false
		for _, p := range packages {
			from, ours := strings.CutPrefix(p.ImportPath, module+"/")
			if !ours || !matches(r.from, from) {
				continue
			}
			applied = true
			for _, to := range r.broken(p, packages) {
				t.Errorf("%s must not import %s: %s", from, to, r.why)
			}
		}
		if !applied {
			t.Errorf("the rule for %s holds for no package: has it moved? (%s)", r.from, r.why)
		}
	}
}

// broken returns what p imports against the rule, each with the way there.
func (r rule) broken(p listed, packages map[string]listed) []string {
	imports := p.Imports
	if r.linked {
		imports = p.Deps
	}
	var found []string
	for _, path := range imports {
		if path == p.ImportPath || !r.forbids(path) {
			continue
		}
		if r.linked {
			path += " (by way of " + strings.Join(way(p.ImportPath, path, packages), " -> ") + ")"
		}
		found = append(found, path)
	}
	return found
}

func (r rule) forbids(path string) bool {
	name, ours := strings.CutPrefix(path, module+"/")
	hit := func(pattern string) bool {
		if pattern == "..." {
			return ours
		}
		return matches(pattern, name)
	}
	return slices.ContainsFunc(r.to, hit) && !slices.ContainsFunc(r.except, hit)
}

func matches(pattern, path string) bool {
	if pattern == "..." {
		return true
	}
	if stem, below := strings.CutSuffix(pattern, "/..."); below {
		return path == stem || strings.HasPrefix(path, stem+"/")
	}
	return path == pattern
}

// way is a shortest chain of imports that leads from one package to another.
func way(from, to string, packages map[string]listed) []string {
	came := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0 && came[to] == ""; queue = queue[1:] {
		for _, next := range packages[queue[0]].Imports {
			if _, seen := came[next]; !seen {
				came[next] = queue[0]
				queue = append(queue, next)
			}
		}
	}
	var chain []string
	for at := came[to]; at != ""; at = came[at] {
		chain = append(chain, strings.TrimPrefix(at, module+"/"))
	}
	slices.Reverse(chain)
	return chain
}

// TestRulesNamePackages keeps a rule from outliving what it speaks of: a
// package that has moved would be free of its rule in silence.
func TestRulesNamePackages(t *testing.T) {
	packages := list(t)
	ours := slices.DeleteFunc(slices.Collect(maps.Keys(packages)), func(path string) bool {
		return !strings.HasPrefix(path, module+"/")
	})
	for _, r := range rules() {
		for _, pattern := range slices.Concat(r.to, r.except) {
			first, _, _ := strings.Cut(pattern, "/")
			if pattern == "..." || !slices.Contains([]string{"cmd", "examples", "internal", "ipc", "supervisor", "systemd", "worker"}, first) {
				continue
			}
			named := func(path string) bool { return matches(pattern, strings.TrimPrefix(path, module+"/")) }
			if !slices.ContainsFunc(ours, named) {
				t.Errorf("the rule for %s names %s, which is no package", r.from, pattern)
			}
		}
	}
}

// list returns every package of the module and everything linked with them.
func list(t *testing.T) map[string]listed {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports,Deps", "./...").Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("cannot list the packages: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("cannot list the packages: %v", err)
	}
	packages := map[string]listed{}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("cannot read what go list says: %v", err)
		}
		packages[p.ImportPath] = p
	}
}
