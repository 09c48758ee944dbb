package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What says why a program ended is shown, whatever language it is in.
func TestTelling(t *testing.T) {
	for name, test := range map[string]struct{ output, want string }{
		"node": {
			"ready\n/srv/server.js:3\nthrow new Error(\"boom\");\n^\n\n\x1b[31mError: boom\x1b[0m\n    at Object.<anonymous> (/srv/server.js:3:7)\n" + strings.Repeat("    at node:internal/x\n", 7) + "\nNode.js v18.19.0\n",
			"ready\n/srv/server.js:3\nthrow new Error(\"boom\");\n^\nError: boom\n    at Object.<anonymous> (/srv/server.js:3:7)\n    … 7 more lines\nNode.js v18.19.0",
		},
		"node, with more below": {
			"Error: boom\n    at f (x.js:1:1)\n" + strings.Repeat("    at node:internal/x\n", 7) + "one\ntwo\nthree\nfour\nfive\nsix\nseven",
			"Error: boom\n    … 3 more lines\ntwo\nthree\nfour\nfive\nsix\nseven",
		},
		"python": {
			"Traceback (most recent call last):\n" + strings.Repeat("  File \"/usr/lib/x.py\", line 1, in f\n    g()\n    ^^^\n", 4) + "  File \"app.py\", line 3, in <module>\n    import nosuch\nModuleNotFoundError: No module named 'nosuch'\n",
			"Traceback (most recent call last):\n    … 12 more lines\n  File \"app.py\", line 3, in <module>\n    import nosuch\nModuleNotFoundError: No module named 'nosuch'",
		},
		"go": {
			"panic: boom\n\ngoroutine 1 [running]:\nmain.f(...)\n\t/srv/main.go:9 +0x1d\nmain.main()\n\t/srv/main.go:5 +0x1d\nexit status 2\n",
			"panic: boom\ngoroutine 1 [running]:\nmain.f(...)\n\t/srv/main.go:9 +0x1d\n    … 2 more lines\nexit status 2",
		},
		"no trace":  {"a\nb\n c\n", "a\nb\n c"},
		"the last":  {"1\n2\n3\n4\n5\n6\n7\n8\n9\n", "2\n3\n4\n5\n6\n7\n8\n9"},
		"not a cut": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(tellingLines(strings.Split(test.output, "\n"), 8), "\n")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
