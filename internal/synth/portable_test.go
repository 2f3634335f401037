package synth

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestSourceIsPortable checks two rules in the source, which make the images the same on every
// architecture. No product can be fused with an addition. Only exactly rounded functions of package
// math are used.
func TestSourceIsPortable(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	fileSet := token.NewFileSet()
	var files []*ast.File
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".go") && !strings.HasSuffix(e.Name(), "_test.go") {
			file, err := parser.ParseFile(fileSet, e.Name(), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
	}
	// Imports are not resolved, so ignore the error. An expression of unknown type must follow the
	// rule for floating-point products.
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	config := types.Config{Error: func(error) {}}
	config.Check("synth", fileSet, files, info)

	products := 0
	for _, file := range files {
		rounded := map[ast.Expr]bool{}
		ast.Inspect(file, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.CallExpr:
				if name, ok := node.Fun.(*ast.Ident); ok && name.Name == "float64" {
					rounded[node.Args[0]] = true
				}
			case *ast.AssignStmt:
				if node.Tok == token.MUL_ASSIGN {
					t.Errorf("%v: write x = float64(x*y) for x *= y", fileSet.Position(node.Pos()))
				}
			case *ast.BinaryExpr:
				value := info.Types[node]
				kind, ok := value.Type.(*types.Basic)
				if node.Op != token.MUL || value.Value != nil || ok && kind.Info()&types.IsInteger != 0 {
					break
				}
				products++
				if !rounded[node] {
					t.Errorf("%v: write float64(x*y) for x*y, which Go may fuse with an addition", fileSet.Position(node.Pos()))
				}
			case *ast.SelectorExpr:
				exact := []string{"Sqrt", "Floor", "Ceil", "Abs", "Inf", "Sqrt2"}
				if name, ok := node.X.(*ast.Ident); ok && name.Name == "math" && !slices.Contains(exact, node.Sel.Name) {
					t.Errorf("%v: math.%s is not exactly rounded everywhere", fileSet.Position(node.Pos()), node.Sel.Name)
				}
			}
			return true
		})
	}
	if products < 30 {
		t.Errorf("found %d products in the package, want at least 30; check that the test reads the source", products)
	}
}
