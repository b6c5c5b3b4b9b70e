package sallyport_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"
)

// documents are the files in which claims are checked.
func documents(t *testing.T) []string {
	return slices.DeleteFunc(tracked(t), func(f string) bool { return !strings.HasSuffix(f, ".md") })
}

var (
	fence     = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```")
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	backticks = regexp.MustCompile("`([^`\n]+)`")
	testName  = regexp.MustCompile(`^(Test|Fuzz|Benchmark)[A-Z0-9]\w*$`)
	funcName  = regexp.MustCompile(`^([a-z0-9]+)\.((?:\w+\.)?\w+)\(\)$`)
)

// prose is a document without its code blocks.
func prose(b []byte) string { return fence.ReplaceAllString(string(b), "") }

func TestLinks(t *testing.T) {
	for _, name := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(prose(read(t, name)), -1) {
			path, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") || strings.HasPrefix(path, "mailto:") {
				continue
			}
			target := name
			if path != "" {
				target = filepath.Join(filepath.Dir(name), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: the link %s leads nowhere", name, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(read(t, target)), anchor) {
				t.Errorf("%s: %s has no heading #%s", name, target, anchor)
			}
		}
	}
}

// anchors are the headings as links name them.
func anchors(b []byte) []string {
	var out []string
	for line := range strings.Lines(prose(b)) {
		if h, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			h = strings.Map(func(r rune) rune {
				switch {
				case r == ' ':
					return '-'
				case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
					return unicode.ToLower(r)
				}
				return -1
			}, strings.TrimSpace(h))
			out = append(out, h)
		}
	}
	return out
}

// declared collects the names of all tests, and of all functions and methods as
// package.Func and package.Type.Method.
func declared(t *testing.T) (tests, funcs map[string]bool) {
	t.Helper()
	tests, funcs = map[string]bool{}, map[string]bool{}
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			id := f.Name.Name + "."
			if fn.Recv != nil {
				typ := fn.Recv.List[0].Type
				if s, ok := typ.(*ast.StarExpr); ok {
					typ = s.X
				}
				if n, ok := typ.(*ast.Ident); ok {
					id += n.Name + "."
				}
			} else if strings.HasSuffix(name, "_test.go") {
				tests[fn.Name.Name] = true
			}
			funcs[id+fn.Name.Name] = true
		}
	}
	return tests, funcs
}

// TestNamesInDocuments: a document may name a test or a function only while it
// exists. A claim whose test is gone is a claim without ground.
func TestNamesInDocuments(t *testing.T) {
	tests, funcs := declared(t)
	for _, name := range documents(t) {
		for _, m := range backticks.FindAllStringSubmatch(prose(read(t, name)), -1) {
			id, _, _ := strings.Cut(m[1], "/") // TestX/case
			if testName.MatchString(id) && !tests[id] {
				t.Errorf("%s: there is no test %s", name, id)
			}
			if f := funcName.FindStringSubmatch(m[1]); f != nil && !funcs[f[1]+"."+f[2]] {
				t.Errorf("%s: there is no function %s", name, m[1])
			}
		}
	}
}

// binary is the released command, built as Makefile does.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sallyport-repo-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "sallyport")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, "./cmd/sallyport")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return path, cmd.Run()
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); !testing.Short() && err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func built(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the binary")
	}
	path, err := binary()
	if err != nil {
		t.Fatalf("the binary does not build with cgo off, so it would not run on another distribution: %v", err)
	}
	return path
}

// TestDocumentedCommands runs each documented command with --help, and looks
// for its flags in the answer.
func TestDocumentedCommands(t *testing.T) {
	bin := built(t)
	help := map[string]string{}
	for _, name := range documents(t) {
		for _, block := range fence.FindAllStringSubmatch(string(read(t, name)), -1) {
			for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
				words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "$ "))
				if len(words) == 0 || words[0] != "sallyport" && words[0] != "bin/sallyport" {
					continue
				}
				command(t, bin, help, name, words[1:])
			}
		}
	}
}

var word = regexp.MustCompile(`^[a-z][a-z-]*$`)

func command(t *testing.T, bin string, help map[string]string, doc string, words []string) {
	t.Helper()
	text := run(t, bin, help)
	path := "sallyport"
	var rest []string
	for i, w := range words {
		rest = words[i:]
		if !word.MatchString(w) || !regexp.MustCompile(`(?m)^  `+w+` `).MatchString(text) {
			break
		}
		rest = nil
		path += " " + w
		text = run(t, bin, help, strings.Fields(path)[1:]...)
	}
	takes := regexp.MustCompile(`(?m)^  ` + path + ` [A-Z]`).MatchString(text) // an argument of its own
	if strings.Contains(text, "Available Commands:") && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && !takes {
		t.Errorf("%s: there is no command: sallyport %s", doc, strings.Join(words, " "))
		return
	}
	for _, w := range rest {
		if w == "--" || w == "#" || w == "|" || w == ">" {
			break // the rest is not ours
		}
		flag, _, _ := strings.Cut(w, "=")
		if strings.HasPrefix(flag, "-") && !regexp.MustCompile(`(?m)(^|[ ,])`+regexp.QuoteMeta(flag)+`[ ,]`).MatchString(text) {
			t.Errorf("%s: %s has no flag %s", doc, path, flag)
		}
	}
}

func run(t *testing.T, bin string, help map[string]string, args ...string) string {
	t.Helper()
	key := strings.Join(args, " ")
	if help[key] == "" {
		out, err := exec.Command(bin, append(args, "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("sallyport %s --help: %v\n%s", key, err, out)
		}
		help[key] = string(out) + " "
	}
	return help[key]
}

// TestDependencies: docs/dependencies.txt has a line for each module that the
// code imports, with the packages that may import it and the reason. A new line
// is a question to whoever reviews it.
func TestDependencies(t *testing.T) {
	type dependency struct {
		importers []string
		used      map[string]bool
	}
	want := map[string]*dependency{}
	for line := range strings.Lines(string(read(t, "docs/dependencies.txt"))) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, " | ")
		if len(f) != 3 || f[2] == "" {
			t.Fatalf("docs/dependencies.txt: %q: want module | packages | reason", line)
		}
		want[f[0]] = &dependency{strings.Fields(f[1]), map[string]bool{}}
	}
	modules, direct := requirements(t)
	for m := range direct {
		if want[m] == nil {
			t.Errorf("go.mod requires %s and docs/dependencies.txt does not say why", m)
		}
	}
	use := func(from, path string, test bool) {
		m := moduleOf(path, modules)
		if m == "" {
			return
		}
		d := want[m]
		switch {
		case d == nil:
			t.Errorf("%s imports %s: docs/dependencies.txt does not list the module", from, path)
		case test || onlyTests(from):
			d.used["tests"] = true
		case slices.Contains(d.importers, from):
			d.used[from] = true
		default:
			t.Errorf("%s imports %s, which docs/dependencies.txt keeps to %s", from, path, d.importers)
		}
	}
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			use(p.rel(), i, false)
		}
		for _, i := range append(p.TestImports, p.XTestImports...) {
			use(p.rel(), i, true)
		}
	}
	for m, d := range want {
		if !direct[m] {
			t.Errorf("docs/dependencies.txt lists %s, which go.mod does not require directly: run go mod tidy", m)
		}
		for _, p := range d.importers {
			if !d.used[p] {
				t.Errorf("docs/dependencies.txt: %s does not import %s any more", p, m)
			}
		}
	}
}

// requirements are the modules of go.mod, and those of them that are direct.
func requirements(t *testing.T) (all []string, direct map[string]bool) {
	t.Helper()
	out, err := exec.Command("go", "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	direct = map[string]bool{}
	for _, r := range mod.Require {
		all = append(all, r.Path)
		if !r.Indirect {
			direct[r.Path] = true
		}
	}
	return all, direct
}

// moduleOf is the required module that has a package, or "" for our own and the
// standard library.
func moduleOf(path string, modules []string) string {
	best := ""
	for _, m := range modules {
		if (path == m || strings.HasPrefix(path, m+"/")) && len(m) > len(best) {
			best = m
		}
	}
	return best
}
