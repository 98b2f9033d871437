package lint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const module = "spindle"

// file is one Go file, whether or not this build's tags choose it.
type file struct {
	name string // base name
	src  []byte
	ast  *ast.File
	test bool
	used bool // chosen by the build tags: type-checked
}

// pkg is one package of the module.
type pkg struct {
	room    string // import path without the module: "reactor/ring"
	name    string
	dir     string
	imports []string // of its non-test files
	files   []*file
	fset    *token.FileSet
	info    *types.Info
}

// finding is one breach of a rule.
type finding struct {
	pos token.Position
	msg string
}

func (f finding) String() string {
	name := f.pos.Filename
	if rel, err := filepath.Rel(root(), name); err == nil {
		name = rel
	}
	return fmt.Sprintf("%s:%d: %s", name, f.pos.Line, f.msg)
}

func (p *pkg) at(n ast.Node, format string, args ...any) finding {
	return finding{p.fset.Position(n.Pos()), fmt.Sprintf(format, args...)}
}

// in tells whether the package is one of rooms or lies below one.
func (p *pkg) in(rooms ...string) bool {
	for _, r := range rooms {
		if p.room == r || strings.HasPrefix(p.room, r+"/") {
			return true
		}
	}
	return false
}

// product files are what ships: used by this build and no test.
func (p *pkg) product() (out []*file) {
	for _, f := range p.files {
		if f.used && !f.test {
			out = append(out, f)
		}
	}
	return out
}

var root = sync.OnceValue(func() string {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		panic(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
})

// listed is what `go list -json` says of a package.
type listed struct {
	ImportPath, Name, Dir, Export string
	GoFiles, CgoFiles, Imports    []string
	Standard, DepOnly             bool
	Error                         *struct{ Err string }
}

// load lists, parses and type-checks packages. Dependencies are read from the
// compiler's export data, so that only the module itself is checked.
func load(t *testing.T, patterns ...string) []*pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e", "-export", "-deps",
		"-json=ImportPath,Name,Dir,Export,GoFiles,CgoFiles,Imports,Standard,DepOnly,Error"}, patterns...)...)
	cmd.Dir = root()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	exports := map[string]string{}
	var mine []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := dec.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[l.ImportPath] = l.Export
		if !l.Standard && !l.DepOnly && strings.HasPrefix(l.ImportPath, module+"/") {
			mine = append(mine, l)
		}
	}
	fset := token.NewFileSet()
	imp := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data for %s: does it build?", path)
		}
		return os.Open(exports[path])
	})
	var pkgs []*pkg
	for _, l := range mine {
		l.GoFiles = append(l.GoFiles, l.CgoFiles...)
		if len(l.GoFiles) == 0 {
			continue // tests only
		}
		p, err := check(fset, imp, l)
		if err != nil {
			t.Errorf("%s: %v", l.ImportPath, err)
			continue
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) == 0 {
		t.Fatalf("no packages match %v: %s", patterns, &stderr)
	}
	return pkgs
}

// check parses every Go file of a package and type-checks those it is built from.
func check(fset *token.FileSet, imp types.Importer, l listed) (*pkg, error) {
	p := &pkg{
		room: strings.TrimPrefix(l.ImportPath, module+"/"), name: l.Name, dir: l.Dir, imports: l.Imports, fset: fset,
		info: &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}},
	}
	names, err := filepath.Glob(filepath.Join(l.Dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var built []*ast.File
	for _, n := range names {
		src, err := os.ReadFile(n)
		if err != nil {
			return nil, err
		}
		f := &file{name: filepath.Base(n), src: src, test: strings.HasSuffix(n, "_test.go")}
		if f.ast, err = parser.ParseFile(fset, n, src, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return nil, err
		}
		for _, g := range l.GoFiles {
			f.used = f.used || g == f.name
		}
		if f.used {
			built = append(built, f.ast)
		}
		p.files = append(p.files, f)
	}
	conf := types.Config{Importer: imp, FakeImportC: true}
	if strings.Contains(p.room, "/testdata/imports/") || len(l.CgoFiles) > 0 {
		conf.Error = func(error) {} // these samples name packages for their place alone; C has no types here
	}
	if _, err = conf.Check(l.ImportPath, fset, built, p.info); conf.Error != nil {
		err = nil
	}
	return p, err
}

var house struct {
	sync.Once
	pkgs []*pkg
}

// thisModule loads the whole module once.
func thisModule(t *testing.T) []*pkg {
	house.Do(func() { house.pkgs = load(t, "./...") })
	if house.pkgs == nil {
		t.Fatal("the module did not load")
	}
	return house.pkgs
}
