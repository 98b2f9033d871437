package pdu

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"strings"
	"testing"
)

// TestAccessorsInline asks the compiler whether every method of BHS inlines:
// header views cost nothing only then.
func TestAccessorsInline(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "bhs.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv == nil {
			continue
		}
		if id, ok := fn.Recv.List[0].Type.(*ast.Ident); ok && id.Name == "BHS" {
			names = append(names, fn.Name.Name)
		}
	}
	if len(names) < 60 {
		t.Fatalf("only %d methods found", len(names))
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go tool")
	}
	out, err := exec.Command(goTool, "build", "-gcflags=-m", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	facts := string(out)
	for _, n := range append(names, "SNLess") {
		want := "can inline BHS." + n + "\n"
		if n == "SNLess" {
			want = "can inline SNLess\n"
		}
		if !strings.Contains(facts, want) {
			t.Errorf("%s does not inline", n)
		}
	}
}
