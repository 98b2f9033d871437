package lint

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// hotFuncs are the functions whose doc comment says //spindle:hot.
func hotFuncs(p *pkg) (out []*ast.FuncDecl) {
	for _, f := range p.product() {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Doc == nil || fn.Body == nil {
				continue
			}
			for _, c := range fn.Doc.List {
				if strings.TrimSpace(c.Text) == "//spindle:hot" {
					out = append(out, fn)
				}
			}
		}
	}
	return out
}

func hotFunctions(p *pkg) (out []finding) {
	explained := map[int]bool{} // lines whose append is explained, file by file
	for _, fn := range hotFuncs(p) {
		clear(explained)
		for _, f := range p.product() {
			if f.ast.Pos() <= fn.Pos() && fn.Pos() < f.ast.End() {
				capacityLines(p, f, explained)
			}
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			if isPanic(p, n) {
				return false // the last thing a process does may allocate
			}
			for _, why := range cold(p, n) {
				if why == "append" {
					if line := p.fset.Position(n.Pos()).Line; explained[line] || explained[line-1] {
						continue
					}
					why = "append: say in a comment here why it stays within the capacity"
				}
				out = append(out, p.at(n, "%s: %s", fn.Name.Name, why))
			}
			return true
		})
	}
	return out
}

// capacityLines notes the lines with a comment that speaks of capacity.
func capacityLines(p *pkg, f *file, lines map[int]bool) {
	for _, g := range f.ast.Comments {
		for _, c := range g.List {
			if strings.Contains(c.Text, "capacity") {
				lines[p.fset.Position(c.Pos()).Line] = true
			}
		}
	}
}

// cold names what does not belong in a hot function about one node.
func cold(p *pkg, n ast.Node) (why []string) {
	switch n := n.(type) {
	case *ast.DeferStmt:
		why = append(why, "defer")
	case *ast.GoStmt:
		why = append(why, "go statement")
	case *ast.FuncLit:
		why = append(why, "closure")
	case *ast.SendStmt:
		why = append(why, "channel send")
	case *ast.SelectStmt:
		why = append(why, "select")
	case *ast.UnaryExpr:
		if n.Op == token.ARROW {
			why = append(why, "channel receive")
		}
	case *ast.RangeStmt:
		if isMap(p, n.X) || isChan(p, n.X) {
			why = append(why, "range over a map or channel")
		}
	case *ast.IndexExpr:
		if isMap(p, n.X) {
			why = append(why, "map lookup")
		}
	case *ast.CompositeLit:
		if isMap(p, n) {
			why = append(why, "map literal")
		}
	case *ast.TypeAssertExpr:
		if isAny(p.info.TypeOf(n.X)) {
			why = append(why, "assertion on any")
		}
	case *ast.CallExpr:
		why = coldCall(p, n)
	}
	return why
}

func coldCall(p *pkg, call *ast.CallExpr) (why []string) {
	if tv := p.info.Types[call.Fun]; tv.IsType() {
		if types.IsInterface(tv.Type) && len(call.Args) == 1 && boxes(p, call.Args[0]) {
			why = append(why, "conversion to "+tv.Type.String())
		}
		return why
	}
	switch fun := ast.Unparen(call.Fun).(type) {
	case *ast.Ident:
		if _, builtin := p.info.Uses[fun].(*types.Builtin); builtin {
			switch fun.Name {
			case "append":
				return []string{"append"}
			case "delete", "print", "println":
				return []string{fun.Name}
			case "make":
				if isMap(p, call) || isChan(p, call) {
					return []string{"make of a map or channel"}
				}
			}
			return nil
		}
	case *ast.SelectorExpr:
		switch pkg, name := pkgOf(p, fun), fun.Sel.Name; {
		case pkg == "fmt", pkg == "log", pkg == "log/slog", pkg == "reflect":
			return []string{pkg + "." + name}
		case pkg == "time" && clockCall[name]:
			return []string{"time." + name}
		}
		if fn, ok := p.info.Uses[fun.Sel].(*types.Func); ok && fn.Pkg() != nil && fn.Pkg().Path() == "sync" {
			return []string{"sync: " + fn.Name()}
		}
	}
	return boxedArgs(p, call)
}

// boxedArgs finds arguments that become an interface by allocating.
func boxedArgs(p *pkg, call *ast.CallExpr) (why []string) {
	sig, ok := p.info.TypeOf(call.Fun).(*types.Signature)
	if !ok || call.Ellipsis.IsValid() {
		return nil
	}
	for i, arg := range call.Args {
		at := min(i, sig.Params().Len()-1)
		param := sig.Params().At(at).Type()
		if sig.Variadic() && at == sig.Params().Len()-1 {
			param = param.(*types.Slice).Elem()
		}
		if _, generic := param.(*types.TypeParam); !generic && types.IsInterface(param) && boxes(p, arg) {
			why = append(why, fmt.Sprintf("argument %d becomes %s", i+1, param))
		}
	}
	return why
}

// boxes tells whether making an interface of x stores x on the heap: pointers,
// interfaces, nil and constants do not.
func boxes(p *pkg, x ast.Expr) bool {
	tv := p.info.Types[x]
	if tv.Value != nil || tv.IsNil() || tv.Type == nil {
		return false
	}
	switch u := tv.Type.Underlying().(type) {
	case *types.Pointer, *types.Interface, *types.Signature, *types.Map, *types.Chan:
		return false
	case *types.Struct:
		return u.NumFields() > 0
	}
	return true
}

func isAny(t types.Type) bool {
	i, ok := t.Underlying().(*types.Interface)
	return ok && i.Empty()
}

func isPanic(p *pkg, n ast.Node) bool {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return false
	}
	id, ok := call.Fun.(*ast.Ident)
	return ok && id.Name == "panic" && p.info.Uses[id] == types.Universe.Lookup("panic")
}

// TestHotFunctionsDoNotAllocate asks the compiler: no value of a hot function
// may escape to the heap. Exact allocation counts are the packages' own tests.
func TestHotFunctionsDoNotAllocate(t *testing.T) {
	count := 0
	for _, p := range thisModule(t) {
		count += len(hotFuncs(p))
		for _, f := range escapes(t, p) {
			t.Error(f)
		}
	}
	if count == 0 {
		t.Error("no function is marked //spindle:hot: the rule has nothing to look at")
	}
	bad := load(t, "./internal/lint/testdata/hot/escape")[0]
	if got := escapes(t, bad); len(got) != 2 {
		t.Errorf("the sample has two escapes, found %v", got)
	}
}

var escapeLine = regexp.MustCompile(`^(?:\./)?(.+\.go):(\d+):\d+: (moved to heap: .*|.* escapes to heap.*)$`)

// escapes are the heap allocations that the compiler reports inside hot functions.
func escapes(t *testing.T, p *pkg) (out []finding) {
	t.Helper()
	hot := hotFuncs(p)
	if len(hot) == 0 {
		return nil
	}
	cmd := exec.Command("go", "build", "-gcflags=-m", ".")
	cmd.Dir = p.dir
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go build -gcflags=-m %s: %v\n%s", p.room, err, text)
	}
	for _, line := range bytes.Split(text, []byte("\n")) {
		m := escapeLine.FindSubmatch(line)
		// A constant that becomes an interface lives in the read-only data;
		// an append is for hotFunctions to judge.
		if m == nil || m[3][0] == '"' || bytes.HasPrefix(m[3], []byte("append ")) {
			continue
		}
		n, _ := strconv.Atoi(string(m[2]))
		for _, fn := range hot {
			from, to := p.fset.Position(fn.Pos()), p.fset.Position(fn.End())
			if filepath.Base(from.Filename) != filepath.Base(string(m[1])) || n < from.Line || n > to.Line || panics(p, fn, n) {
				continue
			}
			out = append(out, finding{token.Position{Filename: from.Filename, Line: n}, fn.Name.Name + ": " + string(m[3])})
		}
	}
	return out
}

// panics tells whether a panic of fn covers the line.
func panics(p *pkg, fn *ast.FuncDecl, line int) (yes bool) {
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		if isPanic(p, n) {
			yes = yes || p.fset.Position(n.Pos()).Line <= line && line <= p.fset.Position(n.End()).Line
		}
		return true
	})
	return yes
}
