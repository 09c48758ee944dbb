package supervisor

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"testing"
)

// Each action of the pool has a case wherever actions are switched over, and no
// default hides a new one. The linter sees sum types of one package only.
func TestEveryActionHasItsCases(t *testing.T) {
	function := func(file string, is func(*ast.FuncDecl) bool) (found []*ast.FuncDecl) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && is(f) {
				found = append(found, f)
			}
		}
		return found
	}
	actions := map[string]bool{}
	for _, f := range function("../internal/pool/action.go", func(f *ast.FuncDecl) bool { return f.Name.Name == "action" }) {
		actions[f.Recv.List[0].Type.(*ast.Ident).Name] = true
	}
	if len(actions) < 10 {
		t.Fatalf("found only the actions %v", actions)
	}
	for file, name := range map[string]string{"log.go": "logActions", "executor.go": "perform", "../internal/eventlog/record.go": "Record"} {
		missing := maps.Clone(actions)
		for _, f := range function(file, func(f *ast.FuncDecl) bool { return f.Name.Name == name }) {
			ast.Inspect(f.Body, func(n ast.Node) bool {
				clause, ok := n.(*ast.CaseClause)
				if ok && clause.List == nil {
					t.Errorf("%s in %s has a default", name, file)
				}
				if ok {
					for _, c := range clause.List {
						if action, ok := c.(*ast.SelectorExpr); ok {
							delete(missing, action.Sel.Name)
						}
					}
				}
				return true
			})
		}
		if len(missing) > 0 {
			t.Errorf("%s in %s has no case for %v", name, file, slices.Sorted(maps.Keys(missing)))
		}
	}
}
