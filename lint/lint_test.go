// Package lint holds the rules of the source tree as tests: who imports whom
// (docs/ARCHITECTURE.md), how long files and functions may be, and what no
// source file may contain.
package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tnvfs/tnv"

// Limits of a file's and a function's length in lines. What passes them says why
// in a comment that begins with the word of longMark, in the file's head or the
// function's documentation.
const (
	maxFile  = 1000
	maxFunc  = 120
	longMark = "Long because "
)

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	GoFiles      []string // without tests
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// root is the directory of the module.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("the module is not at %s: %v", dir, err)
	}
	return dir
}

// packages lists the module's packages.
func packages(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = root(t)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")] = p
	}
	if len(all) < 5 {
		t.Fatalf("only %d packages: is the whole module there?", len(all))
	}
	return all
}

// readTable reads the import table of docs/ARCHITECTURE.md: each row names
// packages (in backticks, first column) and what of ours they import (last column).
func readTable(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), "docs", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	table, err := parseTable(string(b))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func parseTable(text string) (map[string][]string, error) {
	table := map[string][]string{}
	in := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		cells := strings.Split(strings.Trim(line, "|"), "|")
		switch {
		case strings.HasPrefix(line, "| package |"):
			in = true
			continue
		case !strings.HasPrefix(line, "|"):
			in = false
		}
		if !in || len(cells) < 3 || strings.HasPrefix(line, "|---") {
			continue
		}
		allowed := strings.FieldsFunc(cells[len(cells)-1], func(r rune) bool { return r == ',' || r == ' ' || r == '`' })
		for i, name := range strings.Split(cells[0], "`") {
			if i%2 == 1 { // between backticks
				if name == "tnv" {
					name = ""
				}
				table[name] = allowed
			}
		}
	}
	if len(table) < 5 {
		return nil, fmt.Errorf("the import table has %d rows: is its head still `| package |`?", len(table))
	}
	return table, nil
}

// may tells whether a row of the table allows an import.
func may(allowed []string, target string) bool {
	for _, a := range allowed {
		switch {
		case a == "all", a == target, a == "tnv" && target == "":
			return true
		case strings.HasSuffix(a, "/*") && (target+"/" == a[:len(a)-1] || strings.HasPrefix(target, a[:len(a)-1])):
			return true
		}
	}
	return false
}

// rowOf finds the row of a package: its own, or that of the nearest one above it.
func rowOf(table map[string][]string, p string) ([]string, string, bool) {
	for q := p; q != "." && q != ""; q = filepath.Dir(q) {
		if a, ok := table[q]; ok {
			return a, q, true
		}
	}
	a, ok := table[""]
	return a, "", ok && p == ""
}

func TestImports(t *testing.T) {
	table := readTable(t)
	for name, p := range packages(t) {
		if len(p.GoFiles) == 0 { // tests only: they may use all
			continue
		}
		allowed, row, ok := rowOf(table, name)
		if !ok {
			t.Errorf("package %s stands in no row of the table in docs/ARCHITECTURE.md", name)
			continue
		}
		for _, imp := range p.Imports {
			if imp != module && !strings.HasPrefix(imp, module+"/") {
				if name == "" && strings.Contains(strings.Split(imp, "/")[0], ".") {
					t.Errorf("the root package imports %s: it may import the standard library only", imp)
				}
				continue
			}
			target := strings.TrimPrefix(strings.TrimPrefix(imp, module), "/")
			below := target == row || strings.HasPrefix(target, row+"/")
			if !(row != "" && below) && !may(allowed, target) {
				t.Errorf("package %s imports %s: docs/ARCHITECTURE.md allows it %v", name, target, allowed)
			}
		}
	}
}

// The checks themselves: they must be able to fail.
func TestRulesBite(t *testing.T) {
	table, err := parseTable("| package | holds | imports |\n|---|---|---|\n| `tnv` (root) | x | - |\n| `kv` | `x` y | tnv |\n| `a`, `b` | x | `kv/*`, tnv |\n| `c` | x | all |\n| `d` | x | tnv |\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		from, to string
		want     bool
	}{{"a", "", true}, {"b", "kv/mem", true}, {"b", "kv", true}, {"a", "kvx", false}, {"kv", "a", false}, {"d", "kv", false}, {"c", "a", true}} {
		allowed, _, ok := rowOf(table, c.from)
		if !ok || may(allowed, c.to) != c.want {
			t.Errorf("%s imports %s: allowed %v by %v, want %v", c.from, c.to, !c.want, allowed, c.want)
		}
	}
	if _, _, ok := rowOf(table, "unknown/x"); ok {
		t.Error("an unknown package has a row")
	}
	src := "package x\n\nfunc f() {\n" + strings.Repeat("\t_ = 1\n", maxFunc) + "}\n"
	if got := longIn("x.go", src); len(got) != 1 {
		t.Errorf("a function of %d lines gives %v", maxFunc+2, got)
	}
	if got := longIn("x.go", strings.Replace(src, "func f", "// Long because it is a test.\nfunc f", 1)); len(got) != 0 {
		t.Errorf("a function with a reason gives %v", got)
	}
	if got := longIn("x.go", "package x\n"+strings.Repeat("// x\n", maxFile)); len(got) != 1 {
		t.Errorf("a file of %d lines gives %v", maxFile+1, got)
	}
}

// sources calls fn for each Go file of the module.
func sources(t *testing.T, fn func(path, text string)) {
	t.Helper()
	err := filepath.WalkDir(root(t), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 1 || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		b, err := os.ReadFile(p)
		if err == nil {
			fn(p, string(b))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// longIn lists what is too long in a file and does not say why.
func longIn(path, text string) (found []string) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, text, parser.ParseComments)
	if err != nil {
		return []string{err.Error()}
	}
	head := text[:fset.Position(f.Package).Offset]
	if n := strings.Count(text, "\n"); n > maxFile && !strings.Contains(head, longMark) {
		found = append(found, fmt.Sprintf("%s has %d lines, more than %d: split it by concept", path, n, maxFile))
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
		if n > maxFunc && !strings.Contains(fn.Doc.Text(), longMark) {
			found = append(found, fmt.Sprintf("%s: func %s has %d lines, more than %d", path, fn.Name.Name, n, maxFunc))
		}
	}
	return found
}

func TestLengths(t *testing.T) {
	sources(t, func(path, text string) {
		for _, f := range longIn(path, text) {
			t.Error(f)
		}
	})
}

// Names that say nothing of what a package is about.
func TestPackageNames(t *testing.T) {
	for name := range packages(t) {
		if base := filepath.Base(name); slices.Contains([]string{"util", "utils", "common", "helpers", "misc"}, base) {
			t.Errorf("package %s: name it after its concept", name)
		}
	}
}

// Nothing is registered in init: what a program does begins in main.
func TestNoInit(t *testing.T) {
	sources(t, func(path, text string) {
		f, err := parser.ParseFile(token.NewFileSet(), path, text, 0)
		if err != nil {
			t.Error(err)
			return
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function", path)
			}
		}
	})
}
