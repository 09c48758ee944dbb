// Command sizes prints the lines of each package of a checkout of forkd, and the
// references among its files.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// row is a package. It is product unless it is below test or imports testing: then
// all of it counts as tests.
type row struct {
	files, product, tests int
	references            int // pairs of files, one of which uses what the other declares
}

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	rows, err := measure(root)
	if err != nil {
		fmt.Fprintln(os.Stderr, "sizes:", err)
		os.Exit(1)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "product\ttests\tfiles\treferences\t  package")
	var sum row
	for _, name := range slices.SortedFunc(keys(rows), func(a, b string) int { return rows[b].product - rows[a].product }) {
		r := rows[name]
		fmt.Fprintf(table, "%d\t%d\t%d\t%d\t  %s\n", r.product, r.tests, r.files, r.references, name)
		sum.product += r.product
		sum.tests += r.tests
		sum.files += r.files
		sum.references += r.references
	}
	fmt.Fprintf(table, "%d\t%d\t%d\t%d\t  all\n", sum.product, sum.tests, sum.files, sum.references)
	if err := table.Flush(); err != nil {
		os.Exit(1)
	}
}

func keys(rows map[string]row) func(func(string) bool) {
	return func(yield func(string) bool) {
		for name := range rows {
			if !yield(name) {
				return
			}
		}
	}
}

func measure(root string) (map[string]row, error) {
	rows := map[string]row{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); path != root && (name == "testdata" || strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		r, err := measurePackage(path, name == "test" || strings.HasPrefix(name, "test/"))
		if r.product+r.tests > 0 {
			rows[name] = r
		}
		return err
	})
	if err == nil && len(rows) == 0 {
		err = errors.New("no Go files below " + root)
	}
	return rows, err
}

func measurePackage(dir string, isTest bool) (r row, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return r, err
	}
	set := token.NewFileSet()
	var files []*ast.File
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return r, err
		}
		lines := bytes.Count(text, []byte("\n"))
		if strings.HasSuffix(path, "_test.go") {
			r.tests += lines
			continue
		}
		file, err := parser.ParseFile(set, path, text, 0)
		if err != nil {
			return r, err
		}
		isTest = isTest || slices.ContainsFunc(file.Imports, func(s *ast.ImportSpec) bool { return s.Path.Value == `"testing"` })
		files = append(files, file)
		r.product += lines
	}
	r.files = len(files)
	if isTest {
		return row{tests: r.tests + r.product}, nil
	}
	r.references = references(set, files)
	return r, nil
}

// references counts the pairs of files of a package of which the first uses a name,
// a method or a field that the second declares. Imports are not needed for that.
func references(set *token.FileSet, files []*ast.File) int {
	info := types.Info{Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
	config := types.Config{Importer: noImports{}, Error: func(error) {}}
	pkg, _ := config.Check("measured", set, files, &info) // what it could resolve counts
	pairs := map[[2]string]bool{}
	for ident, object := range info.Uses {
		if object.Pkg() != pkg || !object.Pos().IsValid() {
			continue
		}
		from, to := set.Position(ident.Pos()).Filename, set.Position(object.Pos()).Filename
		if from != to {
			pairs[[2]string{from, to}] = true
		}
	}
	return len(pairs)
}

// noImports makes every import an empty package.
type noImports struct{}

// Import implements types.Importer.
func (noImports) Import(path string) (*types.Package, error) {
	pkg := types.NewPackage(path, filepath.Base(path))
	pkg.MarkComplete()
	return pkg, nil
}
