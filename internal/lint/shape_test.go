package lint

import (
	"bytes"
	"go/ast"
	"go/token"
	"go/types"
	"strings"
)

const (
	maxFuncLines = 100
	maxFileLines = 800
)

// lengths holds the files that ship to both limits and tests to the second.
func lengths(p *pkg) (out []finding) {
	for _, f := range p.files {
		if n := bytes.Count(f.src, []byte("\n")); n > maxFileLines {
			out = append(out, p.at(f.ast, "%s has %d lines", f.name, n))
		}
		if f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				if n := p.fset.Position(fn.End()).Line - p.fset.Position(fn.Pos()).Line + 1; n > maxFuncLines {
					out = append(out, p.at(fn, "%s has %d lines", fn.Name.Name, n))
				}
			}
		}
	}
	return out
}

func packageDocs(p *pkg) (out []finding) {
	var doc string
	for _, f := range p.product() {
		if f.ast.Doc != nil {
			doc += f.ast.Doc.Text()
		}
	}
	where := p.product()[0].ast
	switch {
	case doc == "":
		out = append(out, p.at(where, "package %s has no package comment", p.name))
	case p.name == "main":
	case !strings.Contains(doc, "Threading:"):
		out = append(out, p.at(where, "the comment of package %s has no \"Threading:\"", p.name))
	case !strings.Contains(doc, "Memory:"):
		out = append(out, p.at(where, "the comment of package %s has no \"Memory:\"", p.name))
	}
	return out
}

// exportedDocs asks for a comment on exported declarations of the data path. A
// group has one for all; one-line methods are a table to be read as such.
func exportedDocs(p *pkg) (out []finding) {
	if !p.in("reactor", "bdev", "scsi", "iscsi", "iser", "verbs", "internal/sys") {
		return nil
	}
	for _, f := range p.product() {
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				line := p.fset.Position(d.End()).Line == p.fset.Position(d.Pos()).Line
				if d.Name.IsExported() && d.Doc == nil && !wellKnown[d.Name.Name] && (d.Recv == nil || !line && exportedReceiver(d)) {
					out = append(out, p.at(d, "%s has no comment", d.Name.Name))
				}
			case *ast.GenDecl:
				out = append(out, undocumented(p, d)...)
			}
		}
	}
	return out
}

// wellKnown methods mean the same everywhere.
var wellKnown = map[string]bool{"String": true, "Error": true, "Unwrap": true, "MarshalJSON": true, "UnmarshalJSON": true}

func exportedReceiver(d *ast.FuncDecl) bool {
	x := d.Recv.List[0].Type
	if s, ok := x.(*ast.StarExpr); ok {
		x = s.X
	}
	if i, ok := x.(*ast.IndexExpr); ok {
		x = i.X
	}
	id, ok := x.(*ast.Ident)
	return ok && id.IsExported()
}

// undocumented: a type always has a comment; constants and variables that
// stand alone too. In a group the names, their type or a neighbour's comment
// carry the meaning.
func undocumented(p *pkg, d *ast.GenDecl) (out []finding) {
	if d.Doc != nil {
		return nil
	}
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && s.Comment == nil {
				out = append(out, p.at(s, "%s has no comment", s.Name.Name))
			}
		case *ast.ValueSpec:
			if s.Names[0].IsExported() && s.Doc == nil && s.Comment == nil && len(d.Specs) == 1 {
				out = append(out, p.at(s, "%s has no comment", s.Names[0].Name))
			}
		}
	}
	return out
}

func registries(p *pkg) (out []finding) {
	for _, f := range p.product() {
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.Name == "init" && d.Recv == nil {
					out = append(out, p.at(d, "init function"))
				}
			case *ast.GenDecl:
				if d.Tok == token.VAR {
					out = append(out, registryVars(p, d)...)
				}
			}
		}
	}
	return out
}

// registryVars finds package-level variables that are there to be filled: a
// map, slice or sync.Map that starts out empty.
func registryVars(p *pkg, d *ast.GenDecl) (out []finding) {
	for _, s := range d.Specs {
		v := s.(*ast.ValueSpec)
		for i, name := range v.Names {
			obj := p.info.Defs[name]
			if obj == nil || name.Name == "_" {
				continue
			}
			empty := len(v.Values) == 0
			if i < len(v.Values) {
				switch x := v.Values[i].(type) {
				case *ast.CompositeLit:
					empty = len(x.Elts) == 0
				case *ast.CallExpr:
					id, ok := x.Fun.(*ast.Ident)
					empty = ok && id.Name == "make"
				}
			}
			switch obj.Type().Underlying().(type) {
			case *types.Map, *types.Slice:
				if empty {
					out = append(out, p.at(name, "%s is a package-level registry", name.Name))
				}
			default:
				if obj.Type().String() == "sync.Map" {
					out = append(out, p.at(name, "%s is a package-level registry", name.Name))
				}
			}
		}
	}
	return out
}
