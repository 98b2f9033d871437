package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Packages whose coverage counts, and whose tests make it: their own, the
// simulator, and what plays scripts and operation lists against the target.
var (
	coverOf = []string{"./iscsi", "./iscsi/login", "./iscsi/pdu", "./iscsi/tcp", "./scsi"}
	coverBy = []string{"./iscsi/...", "./scsi/...", "./internal/sim/...", "./internal/metamorphic"}
)

// coverGoal is the least share of statements, in percent.
const coverGoal = 85.0

// whyUncovered says, a line each, why statements of a function are not covered:
// "path Function reason".
const whyUncovered = "docs/uncovered.txt"

// span is a run of statements without a branch, as coverage profiles have it.
type span struct {
	file  string // import path and name
	line  int
	stmts int
	hit   bool
}

// readProfile merges the profiles of several test binaries.
func readProfile(r io.Reader) ([]span, error) {
	at := map[string]int{}
	var spans []span
	in := bufio.NewScanner(r)
	for in.Scan() {
		text := in.Text()
		if strings.HasPrefix(text, "mode:") {
			continue
		}
		var s span
		var count int
		place, rest, _ := strings.Cut(text, " ")
		colon := strings.LastIndexByte(place, ':')
		if _, err := fmt.Sscanf(rest, "%d %d", &s.stmts, &count); err != nil || colon < 0 {
			return nil, fmt.Errorf("coverage profile: %q", text)
		}
		if _, err := fmt.Sscanf(place[colon+1:], "%d.", &s.line); err != nil {
			return nil, fmt.Errorf("coverage profile: %q", text)
		}
		s.file, s.hit = place[:colon], count > 0
		if i, ok := at[place]; ok {
			spans[i].hit = spans[i].hit || s.hit
			continue
		}
		at[place] = len(spans)
		spans = append(spans, s)
	}
	return spans, in.Err()
}

// share is covered and all statements.
type share struct{ hit, all int }

func (s *share) add(p span) {
	s.all += p.stmts
	if p.hit {
		s.hit += p.stmts
	}
}

func (s share) percent() float64 { return 100 * float64(s.hit) / float64(max(s.all, 1)) }

// function is a declared function and its share.
type function struct {
	path, name string // path without the module
	line, end  int
	share
}

// functions lists what a file declares.
func functions(path string) ([]function, error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, nil, 0)
	if err != nil {
		return nil, err
	}
	var list []function
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			name := fn.Name.Name
			if fn.Recv != nil {
				t := fn.Recv.List[0].Type
				if star, ok := t.(*ast.StarExpr); ok {
					t = star.X
				}
				if id, ok := t.(*ast.Ident); ok {
					name = id.Name + "." + name
				}
			}
			list = append(list, function{path: path, name: name, line: set.Position(fn.Pos()).Line, end: set.Position(fn.End()).Line})
		}
	}
	return list, nil
}

// readReasons reads whyUncovered: "path Function" -> reason.
func readReasons(r io.Reader) (map[string]string, error) {
	why := map[string]string{}
	in := bufio.NewScanner(r)
	for in.Scan() {
		text := strings.TrimSpace(in.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		w := strings.SplitN(text, " ", 3)
		if len(w) < 3 {
			return nil, fmt.Errorf("%s: %q gives no reason", whyUncovered, text)
		}
		why[w[0]+" "+w[1]] = w[2]
	}
	return why, in.Err()
}

// report prints the shares by package and what is not covered, and returns the
// total share.
func report(w io.Writer, spans []span, why map[string]string) (share, error) {
	var total share
	packages := map[string]*share{}
	files := map[string][]function{}
	var order []string
	for _, s := range spans {
		path := strings.TrimPrefix(s.file, "spindle/")
		dir := filepath.Dir(path)
		if packages[dir] == nil {
			packages[dir] = &share{}
			order = append(order, dir)
		}
		packages[dir].add(s)
		total.add(s)
		if files[path] == nil {
			list, err := functions(path)
			if err != nil {
				return total, err
			}
			files[path] = list
		}
		for i := range files[path] {
			if f := &files[path][i]; f.line <= s.line && s.line <= f.end {
				f.add(s)
			}
		}
	}
	var open []function
	for _, list := range files {
		for _, f := range list {
			if f.hit < f.all {
				open = append(open, f)
			}
		}
	}
	slices.SortFunc(open, func(a, b function) int {
		return cmpOr(strings.Compare(filepath.Dir(a.path), filepath.Dir(b.path)), (b.all-b.hit)-(a.all-a.hit), strings.Compare(a.path+a.name, b.path+b.name))
	})
	fmt.Fprintln(w, "not covered, by statements:")
	for _, f := range open {
		reason := why[f.path+" "+f.name]
		if reason == "" {
			reason = "-"
		}
		fmt.Fprintf(w, "  %3d of %3d  %s:%d %s: %s\n", f.all-f.hit, f.all, f.path, f.line, f.name, reason)
	}
	slices.Sort(order)
	for _, dir := range order {
		fmt.Fprintf(w, "%6.1f %%  %s (%d statements)\n", packages[dir].percent(), dir, packages[dir].all)
	}
	fmt.Fprintf(w, "%6.1f %%  in all (%d statements), goal %.0f %%\n", total.percent(), total.all, coverGoal)
	return total, nil
}

// cmpOr is the first that is not 0.
func cmpOr(n ...int) int {
	for _, v := range n {
		if v != 0 {
			return v
		}
	}
	return 0
}

// runCover measures the protocol engine and the device server by all the tests
// that run them.
func runCover(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("cover", flag.ContinueOnError)
	keep := flags.String("profile", "", "keep the profile in this file")
	from := flags.String("from", "", "report on a profile that was kept, without a run")
	if err := flags.Parse(args); err != nil {
		return err
	}
	name := *from
	if name == "" {
		var done func()
		var err error
		if name, done, err = coverRun(ctx, *keep); err != nil {
			return err
		}
		defer done()
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	spans, err := readProfile(f)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(whyUncovered)
	if err != nil {
		return err
	}
	why, err := readReasons(strings.NewReader(string(text)))
	if err != nil {
		return err
	}
	total, err := report(os.Stdout, spans, why)
	if err == nil && total.percent() < coverGoal {
		err = fmt.Errorf("%.1f %% of statements, the goal is %.0f %%", total.percent(), coverGoal)
	}
	return err
}

// coverRun runs the tests and returns their profile, in a file of that name or a
// temporary one.
func coverRun(ctx context.Context, name string) (profile string, done func(), err error) {
	done = func() {}
	if name == "" {
		dir, err := os.MkdirTemp("", "spindle-cover-")
		if err != nil {
			return "", nil, err
		}
		name = filepath.Join(dir, "profile")
		done = func() { _ = os.RemoveAll(dir) }
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-p", "1", "-count", "1", "-timeout", "5m",
		"-coverpkg", strings.Join(coverOf, ","), "-coverprofile", name}, coverBy...)...)
	cmd.Stderr = os.Stderr
	if out, err := cmd.Output(); err != nil {
		done()
		return "", nil, fmt.Errorf("go test: %w\n%s", err, out)
	}
	return name, done, nil
}
