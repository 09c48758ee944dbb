package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMeasure(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"p/a.go":           "package p\n\nimport \"no/such/other\"\n\nvar x, y = B{}.m, other.C()\n",
		"p/b.go":           "package p\n\ntype B struct{}\n\nfunc (B) m() {}\n",
		"p/c.go":           "package p\n\nfunc c() { c() }\n",
		"p/a_test.go":      "package p\n",
		"p/testdata/x.go":  "no Go\n",
		"ptest/p.go":       "package ptest\n\nimport \"testing\"\n",
		"test/bench/b.go":  "package main\n",
		"test/bench/c.txt": "",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := measure(root)
	want := map[string]row{
		"p":          {files: 3, product: 13, tests: 1, references: 1},
		"ptest":      {tests: 3},
		"test/bench": {tests: 1},
	}
	if err != nil || len(rows) != len(want) {
		t.Fatalf("%v, %v", rows, err)
	}
	for name, w := range want {
		if rows[name] != w {
			t.Errorf("%s: %+v, want %+v", name, rows[name], w)
		}
	}
}
