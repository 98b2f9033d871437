package lint

import (
	"go/ast"
	"go/token"
	"go/types"
	"strconv"
	"strings"
)

// free rooms lie above the reactors, are no part of a running target, or are
// the edge itself.
var free = append([]string{"control", "bench", "cmd", "reactor/clock", "internal/sys"}, tools...)

func deterministic(p *pkg) (out []finding) {
	if p.in(free...) || testOnly(p.room) {
		return nil
	}
	for _, f := range p.product() {
		edge := marked(p, f, "spindle:edge")
		for _, spec := range f.ast.Imports {
			if path, _ := strconv.Unquote(spec.Path.Value); path == "crypto/rand" && !edge(spec) {
				out = append(out, p.at(spec, "crypto/rand: entropy is an edge, take a reader"))
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if n == nil || edge(n) {
				return n != nil
			}
			if why := chance(p, n); why != "" {
				out = append(out, p.at(n, "%s in %s", why, p.room))
			}
			return true
		})
	}
	return out
}

// chance names what is nondeterministic about a node; "" if nothing is.
func chance(p *pkg, n ast.Node) string {
	switch n := n.(type) {
	case *ast.GoStmt:
		return "go statement"
	case *ast.SelectStmt:
		if ways(n) > 1 {
			return "select with several ways"
		}
	case *ast.SelectorExpr:
		switch pkg, name := pkgOf(p, n), n.Sel.Name; {
		case pkg == "time" && clockCall[name]:
			return "time." + name
		case pkg == "sync" && name == "Pool":
			return "sync.Pool"
		case strings.HasPrefix(pkg, "math/rand") && isFunc(p, n) && !strings.HasPrefix(name, "New"):
			return "global " + pkg + "." + name
		}
	}
	return ""
}

var clockCall = map[string]bool{"Now": true, "Since": true, "Until": true, "Sleep": true, "After": true, "AfterFunc": true, "NewTimer": true, "NewTicker": true, "Tick": true}

// ways counts the communications of a select.
func ways(s *ast.SelectStmt) (n int) {
	for _, c := range s.Body.List {
		if c.(*ast.CommClause).Comm != nil {
			n++
		}
	}
	return n
}

// mapRange lets cmd and control sort what they print; below, an order that
// does not matter is explained.
func mapRange(p *pkg) (out []finding) {
	if p.in(free...) || testOnly(p.room) {
		return nil
	}
	for _, f := range p.product() {
		ordered := marked(p, f, "spindle:ordered")
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if r, ok := n.(*ast.RangeStmt); ok && isMap(p, r.X) && !ordered(r) {
				out = append(out, p.at(r, "range over a map"))
			}
			return true
		})
	}
	return out
}

// marked returns a test whether a node is covered by a "//mark WHY" comment: on
// its line, on the line above, or in the doc comment of its function.
func marked(p *pkg, f *file, mark string) func(ast.Node) bool {
	lines := map[int]bool{}
	type span struct{ from, to token.Pos }
	var funcs []span
	has := func(g *ast.CommentGroup) (line int, ok bool) {
		if g == nil {
			return 0, false
		}
		for _, c := range g.List {
			if why, ok := strings.CutPrefix(c.Text, "//"+mark+" "); ok && strings.TrimSpace(why) != "" {
				return p.fset.Position(c.Pos()).Line, true
			}
		}
		return 0, false
	}
	for _, g := range f.ast.Comments {
		if line, ok := has(g); ok {
			lines[line] = true
		}
	}
	for _, d := range f.ast.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			if _, ok := has(fn.Doc); ok {
				funcs = append(funcs, span{fn.Pos(), fn.End()})
			}
		}
	}
	return func(n ast.Node) bool {
		for _, s := range funcs {
			if s.from <= n.Pos() && n.Pos() < s.to {
				return true
			}
		}
		line := p.fset.Position(n.Pos()).Line
		return lines[line] || lines[line-1]
	}
}

// pkgOf is the import path that a selector's left side names, or "".
func pkgOf(p *pkg, sel *ast.SelectorExpr) string {
	id, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	name, ok := p.info.Uses[id].(*types.PkgName)
	if !ok {
		return ""
	}
	return name.Imported().Path()
}

func isFunc(p *pkg, sel *ast.SelectorExpr) bool {
	_, ok := p.info.Uses[sel.Sel].(*types.Func)
	return ok
}

func isMap(p *pkg, x ast.Expr) bool { return underlying[*types.Map](p, x) }

func isChan(p *pkg, x ast.Expr) bool { return underlying[*types.Chan](p, x) }

func underlying[T types.Type](p *pkg, x ast.Expr) bool {
	t := p.info.TypeOf(x)
	if t == nil {
		return false
	}
	_, ok := t.Underlying().(T)
	return ok
}
