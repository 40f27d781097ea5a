// Package arch holds the import rules of the tree as a test. It parses the sources itself: a test that
// shells out to the go command is cached and stays green.
package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/daybook/daybook"

// layers says which of our packages the packages under a folder may import directly: paths relative to the
// module, "x/..." for x and everything under it. A folder may always import itself.
var layers = []struct {
	folder string
	may    []string
}{
	{"raftmeta", nil},
	{"ledgerfs", []string{"raftmeta", "raftmeta/metatest"}},
	{"broker", []string{"raftmeta", "raftmeta/metatest", "ledgerfs/..."}},
	{"query", []string{"raftmeta", "raftmeta/metatest", "ledgerfs", "ledgerfs/chain", "ledgerfs/topicread", "ledgerfs/topicname", "ledgerfs/message", "ledgerfs/schema"}},
}

// never lists imports that must not exist, even indirectly, outside tests.
var never = [][2]string{
	{"ledgerfs/ledger", "ledgerfs/internal/store"},
	{"ledgerfs/bookie", "ledgerfs/ledger"},
	{"ledgerfs/topicread", "ledgerfs/mledger"},
	{"ledgerfs/mount", "ledgerfs/mledger"},
	{"query/...", "ledgerfs/mledger"},
	{"query/...", "broker/..."},
	{"broker/internal/adminapi", "broker/internal/conn"},
}

// pure packages decide and do nothing else: no network, files, goroutines, clock or log.
var pure = []string{
	"broker/wire", "broker/internal/dispatch", "ledgerfs/internal/quorum", "ledgerfs/internal/placement",
	"query/internal/value",
}

var impure = []string{"net", "net/http", "os", "os/exec", "log", "log/slog", "sync", "syscall", "golang.org/x/sys/unix"}

// only says who may import a package of somebody else's.
var only = map[string][]string{
	"github.com/xwb1989/sqlparser": {"query/internal/syntax"},
}

// A pkg is one package of the module: its imports, without and with those of its tests.
type pkg struct {
	imports, testImports []string
	documented           bool // some file has a package comment
}

func load(t *testing.T) map[string]*pkg {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	pkgs := map[string]*pkg{}
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if name := d.Name(); p != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "data" || name == "mnt" || name == "bin") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); p != root && err == nil {
				return filepath.SkipDir // a module of its own
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := path.Dir(rel)
		if pkgs[dir] == nil {
			pkgs[dir] = &pkg{}
		}
		pkgs[dir].documented = pkgs[dir].documented || f.Doc != nil
		for _, im := range f.Imports {
			name, _ := strconv.Unquote(im.Path.Value)
			if strings.HasSuffix(rel, "_test.go") {
				pkgs[dir].testImports = append(pkgs[dir].testImports, name)
			} else {
				pkgs[dir].imports = append(pkgs[dir].imports, name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 10 {
		t.Fatalf("found only %d packages under %s", len(pkgs), root)
	}
	return pkgs
}

// ours is the path of an import relative to the module.
func ours(imp string) (string, bool) { return strings.CutPrefix(imp, module+"/") }

func matches(pattern, p string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == base || strings.HasPrefix(p, base+"/")
	}
	return p == pattern
}

func under(folder, p string) bool { return matches(folder+"/...", p) }

func TestFoldersImportOnlyWhatTheyMay(t *testing.T) {
	pkgs := load(t)
	for dir, p := range pkgs {
		for _, l := range layers {
			if !under(l.folder, dir) {
				continue
			}
			for _, im := range p.imports {
				o, ok := ours(im)
				if !ok || under(l.folder, o) || slices.ContainsFunc(l.may, func(m string) bool { return matches(m, o) }) {
					continue
				}
				t.Errorf("%s imports %s: %s may import %v of ours", dir, o, l.folder, l.may)
			}
		}
	}
}

func TestForbiddenPathsDoNotExist(t *testing.T) {
	pkgs := load(t)
	for _, n := range never {
		for dir := range pkgs {
			if !matches(n[0], dir) {
				continue
			}
			if way := reach(pkgs, dir, n[1]); way != nil {
				t.Errorf("%s must not reach %s: %s", dir, n[1], strings.Join(way, " → "))
			}
		}
	}
}

// reach finds a chain of imports from a package to one that matches the pattern.
func reach(pkgs map[string]*pkg, from, pattern string) []string {
	seen := map[string]bool{}
	var walk func(p string) []string
	walk = func(p string) []string {
		if seen[p] || pkgs[p] == nil {
			return nil
		}
		seen[p] = true
		for _, im := range pkgs[p].imports {
			o, ok := ours(im)
			if !ok {
				continue
			}
			if matches(pattern, o) && o != from {
				return []string{p, o}
			}
			if way := walk(o); way != nil {
				return append([]string{p}, way...)
			}
		}
		return nil
	}
	return walk(from)
}

func TestPurePackagesDoNoIO(t *testing.T) {
	pkgs := load(t)
	for _, name := range pure {
		p := pkgs[name]
		if p == nil {
			t.Errorf("%s: no such package; update the list", name)
			continue
		}
		for _, im := range p.imports {
			if slices.Contains(impure, im) {
				t.Errorf("%s imports %s: it is to be pure", name, im)
			}
		}
	}
}

func TestParsersStayBehindTheirPackage(t *testing.T) {
	for dir, p := range load(t) {
		for _, im := range slices.Concat(p.imports, p.testImports) {
			if may, ok := only[im]; ok && !slices.ContainsFunc(may, func(m string) bool { return under(m, dir) }) {
				t.Errorf("%s imports %s, which only %v may", dir, im, may)
			}
		}
	}
}

// The official clients are for tests and benchmarks, in modules of their own.
func TestProductHasNoOfficialClient(t *testing.T) {
	for dir, p := range load(t) {
		for _, im := range slices.Concat(p.imports, p.testImports) {
			if strings.HasPrefix(im, "github.com/apache/") {
				t.Errorf("%s imports %s", dir, im)
			}
		}
	}
}

func TestNobodyImportsATestPackageInProductCode(t *testing.T) {
	fakes := []string{"raftmeta/metatest", "ledgerfs/ledgertest", "broker/brokertest"}
	for dir, p := range load(t) {
		if slices.ContainsFunc(append(fakes, "tests"), func(f string) bool { return under(f, dir) }) {
			continue
		}
		for _, im := range p.imports {
			if o, ok := ours(im); ok && slices.Contains(fakes, o) {
				t.Errorf("%s imports %s outside its tests", dir, o)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for dir, p := range load(t) {
		if dir != "." && !p.documented {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

// The table of ARCHITECTURE.md has one line for every package, and no others.
func TestTheMapIsTheTree(t *testing.T) {
	b, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(b), "\n## The map\n")
	table, _, ended := strings.Cut(table, "\n## ")
	if !found || !ended {
		t.Fatal("ARCHITECTURE.md has no section \"The map\"")
	}
	pkgs := load(t)
	lines := map[string]bool{}
	for line := range strings.SplitSeq(table, "\n") {
		cell, ok := strings.CutPrefix(line, "| `")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(cell, "`")
		if lines[name] {
			t.Errorf("%s has two lines", name)
		}
		lines[name] = true
		if _, err := os.Stat("../../" + name + "/go.mod"); pkgs[name] == nil && err != nil {
			t.Errorf("%s has a line, but is no package", name)
		}
	}
	for dir := range pkgs {
		if dir != "." && !lines[dir] {
			t.Errorf("%s has no line", dir)
		}
	}
}
