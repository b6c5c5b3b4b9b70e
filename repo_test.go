// Package sallyport_test holds the repository to its own rules: who may import
// whom, what is committed, and that the documents speak of things that exist.
// Each failure says why it matters.
package sallyport_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/sallyport-dev/sallyport"

// layer is a set of packages that may import the same things. Paths are
// relative to the module; a path in may that ends in /... stands for all below.
type layer struct {
	name     string
	packages []string
	may      []string
	why      string
}

const testHelpers = "test helpers"

var leaves = []string{"internal/action", "internal/prefer", "internal/canon", "internal/record", "internal/durable", "internal/reach", "internal/totp"}

// layers says who may import whom. The first three columns of the question
// "may X import Y" are here; exceptions, each with its reason, are below.
var layers = []layer{
	{"leaves", leaves, []string{"internal/action"},
		"everything stands on these: no I/O beyond files, and no way back up"},
	{"public", []string{"receipt"}, nil,
		"an auditor builds the verifier alone; it must not need to trust the product"},
	{"engines", []string{"internal/boundary", "internal/connector", "internal/capability", "internal/identity", "internal/policy",
		"internal/approval", "internal/lease", "internal/lease/kubernetes", "internal/lease/ldap", "internal/lease/oauth", "internal/lease/postgres",
		"internal/lease/rest", "internal/lease/ssh", "internal/lease/sts", "internal/lease/vault", "internal/ledger", "internal/seal", "internal/seal/kms", "internal/certify", "internal/readiness", "internal/replay", "internal/resource", "internal/separation", "internal/signals", "internal/outbox", "internal/notify", "internal/reconcile", "internal/watch"},
		append([]string{"receipt"}, leaves...),
		"engines that know each other, a store or a surface cannot be tested or replaced one by one"},
	{"door", []string{"internal/gate", "internal/task"}, leaves,
		"the gate decides through interfaces that it declares itself, so that the order of steps is in one place"},
	{"edges", []string{"internal/surface/cdp", "internal/surface/computer", "internal/surface/database", "internal/surface/egress", "internal/surface/inference", "internal/surface/local", "internal/surface/mcp", "internal/surface/ssh", "internal/browser", "internal/contain"},
		append([]string{"internal/gate", "internal/surface/local"}, leaves...),
		"parsers of hostile input live here: an edge that could reach policy, leases or the ledger could grant or write evidence"},
	{"faces", []string{"internal/api", "internal/api/client", "internal/cli"},
		append([]string{"receipt", "internal/api", "internal/api/client", "internal/server", "internal/approval", "internal/capability", "internal/certify",
			"internal/lease", "internal/ledger", "internal/notify", "internal/policy", "internal/readiness", "internal/replay", "internal/resource", "internal/seal", "internal/separation", "internal/signals", "internal/task", "internal/watch"}, leaves...),
		"a face asks the server; it must not hold a door open itself (no surface, browser, gate or identity)"},
	{"wiring", []string{"internal/server"},
		append([]string{"receipt", "internal/approval", "internal/boundary", "internal/browser", "internal/capability", "internal/certify", "internal/connector",
			"internal/contain", "internal/gate", "internal/identity", "internal/lease", "internal/lease/...", "internal/ledger", "internal/notify", "internal/policy", "internal/readiness", "internal/reconcile", "internal/replay", "internal/resource",
			"internal/seal", "internal/seal/kms", "internal/separation", "internal/signals", "internal/store", "internal/surface/...", "internal/task", "internal/watch"}, leaves...),
		"the server wires engines and edges; it must not know its faces, nor the sample estate that it is shown on"},
	{"connections", []string{"internal/pgpool"}, nil, "lends connections of a database, and knows nothing of what is asked on them"},
	{"store", []string{"internal/store"}, []string{"internal/ledger", "internal/record", "internal/pgpool"},
		"the store keeps bytes for the ledger and knows nothing of what they mean"},
	{"estate", []string{"internal/estate", "internal/estate/marks", "internal/estate/provider", "internal/estate/agent"},
		[]string{"internal/estate", "internal/estate/marks", "internal/canon"},
		"the estate is the target: if it knew the boundary, showing the boundary on it would prove nothing"},
	{"examples", []string{"examples/helpdesk"}, nil, "examples are files that a reader copies"},
	{"commands", []string{"cmd/sallyport", "internal/demo"}, []string{"receipt", "internal/...", "examples/..."},
		"commands put everything together"},
	{testHelpers, []string{"bench", "test/...", "internal/gate/gatetest", "internal/identity/spiretest", "internal/lease/leasetest", "internal/ledger/ledgertest", "internal/store/pgtest", "internal/api/apitest"},
		[]string{"receipt", "internal/...", "examples/...", "test/..."},
		"helpers of tests; nothing but tests imports them"},
}

// exceptions are imports that the table above does not allow, and why they are.
var exceptions = map[string]string{
	"internal/certify -> internal/boundary":            "a certification is of a boundary manifest; the manifest is vocabulary, not an engine that acts",
	"internal/readiness -> internal/boundary":          "reads the bodies of records",
	"internal/readiness -> internal/approval":          "reads the bodies of records",
	"internal/readiness -> internal/certify":           "reads the bodies of records",
	"internal/readiness -> internal/lease":             "reads the bodies of records",
	"internal/readiness -> internal/task":              "reads the bodies of records",
	"internal/readiness -> internal/watch":             "reads the bodies of records",
	"internal/resource -> internal/capability":         "parses the specification that the engine owns",
	"internal/resource -> internal/connector":          "parses the specification that the engine owns",
	"internal/resource -> internal/policy":             "parses the specification that the engine owns",
	"internal/lease/kubernetes -> internal/lease":      "is a source of leases: it implements what the engine asks for",
	"internal/lease/kubernetes -> internal/lease/rest": "asks its upstream in JSON, as another source does",
	"internal/lease/sts -> internal/lease":             "is a source of leases: it implements what the engine asks for",
	"internal/lease/sts -> internal/lease/rest":        "keeps what it sent out of errors, as another source does",
	"internal/lease/vault -> internal/lease":           "is a source of leases: it implements what the engine asks for",
	"internal/lease/vault -> internal/lease/rest":      "asks its upstream in JSON, as another source does",
	"internal/lease/ldap -> internal/lease":            "is a source of leases: it implements what the engine asks for",
	"internal/lease/postgres -> internal/lease":        "is a source of leases: it implements what the engine asks for",
	"internal/lease/postgres -> internal/pgpool":       "borrows its connections",
	"internal/lease/oauth -> internal/lease":           "is a source of leases: it implements what the engine asks for",
	"internal/lease/oauth -> internal/lease/rest":      "keeps what it sent out of errors, as another source does",
	"internal/lease/ssh -> internal/lease":             "is a source of leases: it implements what the engine asks for",
	"internal/browser -> internal/contain":             "a browser runs contained or not at all",
	"internal/api -> internal/contain":                 "doctor examines this machine and decides nothing",
	"internal/cli -> internal/contain":                 "doctor works without a server",
	"internal/cli -> internal/store":                   "ledger commands read the folder of a stopped server",
	"internal/cli -> internal/estate":                  "serves the sample estate",
	"internal/cli -> internal/estate/agent":            "is the sample harness too: one binary",
	"internal/cli -> internal/demo":                    "the demo is a command",
	"internal/notify -> internal/outbox":               "tells by the engine that serves receivers",
	"internal/signals -> internal/outbox":              "tells by the engine that serves receivers",
	"internal/seal/kms -> internal/seal":               "is a way to wrap the keys: it implements what the engine asks for",
}

type pkg struct {
	ImportPath, Dir, Doc, Name         string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

func (p pkg) rel() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

var listed = sync.OnceValues(func() ([]pkg, error) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,Name,GoFiles,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		return nil, err
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p pkg
		if err := d.Decode(&p); err != nil {
			return nil, err
		}
		if p.rel() != "" { // not this one
			all = append(all, p)
		}
	}
	return all, nil
})

func packages(t *testing.T) []pkg {
	t.Helper()
	all, err := listed()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func layerOf(rel string) (layer, bool) {
	for _, l := range layers {
		if matches(l.packages, rel) {
			return l, true
		}
	}
	return layer{}, false
}

func matches(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, all := strings.CutSuffix(p, "...")
		return p == path || all && strings.HasPrefix(path, prefix)
	})
}

// onlyTests says that a package is for tests or measurements and in no binary.
func onlyTests(rel string) bool {
	l, _ := layerOf(rel)
	return l.name == testHelpers
}

func TestLayers(t *testing.T) {
	unused := maps.Clone(exceptions)
	for _, p := range packages(t) {
		from := p.rel()
		l, ok := layerOf(from)
		if !ok {
			t.Errorf("%s is in no layer: say in repo_test.go what it may import; a package without a place ends up importing everything", from)
			continue
		}
		for _, i := range p.Imports {
			to, own := strings.CutPrefix(i, module+"/")
			if !own {
				continue
			}
			if onlyTests(to) && !onlyTests(from) {
				t.Errorf("%s imports %s outside of tests: test helpers weaken what they help to test", from, to)
			}
			if matches(l.may, to) {
				continue
			}
			if exceptions[from+" -> "+to] == "" {
				t.Errorf("%s (%s) imports %s: %s", from, l.name, to, l.why)
			}
			delete(unused, from+" -> "+to)
		}
	}
	for e := range unused {
		t.Errorf("the exception %s is not needed: take it out, so that the list only shrinks", e)
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 { // tests alone
			p.Doc = testDoc(t, p)
		}
		want := "Package " + strings.TrimSuffix(p.Name, "_test") + " "
		if p.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package comment starts %q, want %q: it is where a reader learns what must hold and what is not trusted", p.rel(), p.Doc, want)
		}
	}
}

// testDoc is the package comment of a package that is tests alone.
func testDoc(t *testing.T, p pkg) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(p.Dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if f.Doc != nil {
			return strings.Replace(f.Doc.Text(), f.Name.Name, strings.TrimSuffix(f.Name.Name, "_test"), 1)
		}
	}
	return ""
}

// tracked lists the files that are committed, or would be.
func tracked(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "ls-files", "-co", "--exclude-standard").Output()
	var all []string
	if err == nil {
		all = strings.Fields(string(out))
	} else { // an archive without history
		err = filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !strings.HasPrefix(path, ".git/") && !strings.HasPrefix(path, "bin/") {
				all = append(all, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return slices.DeleteFunc(all, func(f string) bool { _, err := os.Stat(f); return err != nil })
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The patterns are put together so that this file does not match itself.
var forbidden = []struct{ re, why string }{
	{`/wo` + `rk/(main|shared|\.)`, "a path of one machine means nothing to a reader"},
	{`/tm` + `p/sp\b`, "a path of one machine means nothing to a reader"},
	{`(?i)(proxy\.gol` + `ang\.org|registry\.np` + `mjs\.org|pypi\.` + `org|crates\.` + `io/api)`, "the source of packages is the builder's choice, not the repository's"},
	{`\bTO` + `DO\b($|[^(]|\([^#])`, "a plan without an issue number is forgotten: TO" + "DO(#123), or do it"},
	{`(?i)co-auth` + `ored-by`, "text speaks of the product"},
	{`-----BEGIN [A-Z ]*PRIV` + `ATE KEY-----\r?\n[A-Za-z0-9+/=]{40}`, "a key in the repository is everybody's"},
}

func TestCommittedText(t *testing.T) {
	for _, name := range tracked(t) {
		b := read(t, name)
		if bytes.IndexByte(b, 0) >= 0 || strings.HasSuffix(name, ".sum") {
			continue
		}
		for _, f := range forbidden {
			if m := regexp.MustCompile(`(?m)` + f.re).FindIndex(b); m != nil {
				t.Errorf("%s:%d: %q: %s", name, 1+bytes.Count(b[:m[0]], []byte("\n")), b[m[0]:m[1]], f.why)
			}
		}
	}
}

// maxLines is where a file stops being one subject.
const maxLines = 700

func TestGoFiles(t *testing.T) {
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		b := read(t, name)
		if n := bytes.Count(b, []byte("\n")); n > maxLines {
			t.Errorf("%s has %d lines, limit %d: split it by subject", name, n, maxLines)
		}
		if want, err := format.Source(b); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(b, want) {
			t.Errorf("%s is not formatted: a difference that is only spaces hides one that is not; run gofmt -w", name)
		}
		skips(t, name, b)
	}
}

// noPackage are tests of a server and of a tool that no package has.
var noPackage = []string{"internal/lease/vault/live_test.go", "internal/resource/oms_tool_test.go"}

// skips finds tests that skip for another reason than -short: what is skipped
// on the machine that decides is not tested at all.
func skips(t *testing.T, name string, src []byte) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return // said above
	}
	var stack []ast.Node
	ast.Inspect(f, func(n ast.Node) bool {
		if n == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		stack = append(stack, n)
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		s, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, s.Sel.Name) {
			return true
		}
		short := slices.ContainsFunc(stack, func(n ast.Node) bool {
			i, ok := n.(*ast.IfStmt)
			return ok && strings.Contains(string(src[fset.Position(i.Cond.Pos()).Offset:fset.Position(i.Cond.End()).Offset]), "testing.Short()")
		})
		if !short && !slices.Contains(noPackage, filepath.ToSlash(name)) {
			t.Errorf("%s: a skip that testing.Short() does not ask for: what is skipped where it matters is not tested", fset.Position(call.Pos()))
		}
		return true
	})
}

func TestFilesThatMustExist(t *testing.T) {
	for name, why := range map[string]string{
		"LICENSE":      "without it nobody may use the code",
		"SECURITY.md":  "who finds a hole must find where to report it",
		"CHANGELOG.md": "who upgrades must find what is incompatible",
		"README.md":    "the first page",
		"tools/go.mod": "the linters are pinned there",
	} {
		if fi, err := os.Stat(name); err != nil || fi.Size() == 0 {
			t.Errorf("%s is missing: %s", name, why)
		}
	}
	for _, name := range []string{".ci/run", "scripts/deps.sh", "scripts/test.sh", "scripts/long.sh", "scripts/lint.sh"} {
		if fi, err := os.Stat(name); err != nil || fi.Mode().Perm()&0o111 == 0 {
			t.Errorf("%s is not executable: a clean clone could not run it", name)
		}
	}
}
