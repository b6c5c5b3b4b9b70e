package sallyport_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// docs/threats.txt names what attackers do; the doc comment of a test names the
// threats that the test carries out and what must stop them:
//
//	// Threats: T23, T28 (browser); T13 (guardrail, grant)
//
// docs/threats.md is made of both. SALLYPORT_WRITE=1 go test . -run TestThreats
// writes it.

// stoppers are the words for what stops a threat: the layers of a decision, as
// records name them, and what stands before or behind the gate.
var stoppers = map[string]string{
	string(action.LayerForm):      "no canonical form can be made of it, so there is nothing to decide",
	string(action.LayerAuthority): "task, fence, certification or budget do not cover it",
	string(action.LayerGuardrail): "the tenant's policy forbids it, whatever the task says",
	string(action.LayerGrant):     "the task was not given it",
	string(action.LayerHold):      "it waits for a person",
	string(action.LayerLedger):    "it cannot be recorded, or the record shows that it was changed",
	string(action.LayerShadow):    "it is in a stage where nothing takes effect",
	string(action.LayerDispatch):  "at the last step it is not what was decided, or its task is over",
	"approval":                    "who signs, what was signed, once: the engine of approvals",
	"browser":                     "grounding, the guard in each document, and what the browser is set to refuse",
	"containment":                 "namespaces, users, system call filter and limits of what runs",
	"door":                        "a door itself: what it never passes on, puts in, or dials",
	"lease":                       "credentials end with the task, and the application is asked",
	"policy":                      "what the tenant declares is refused as it is read",
	"watch":                       "what production does is held against what was certified, and ends the certification",
}

// ids are T1 and on for the list of computer use, and a letter for the groups of
// the list of bad inputs.
var (
	threatID   = regexp.MustCompile(`^[A-IKMPR-TW][0-9]{1,2}$`)
	threatLine = regexp.MustCompile(`(?m)^Threats: (.*)$`)
	claim      = regexp.MustCompile(`^([A-Z0-9, ]+) \(([a-z, ]+)\)$`)
)

// groups in the order of the page, by the letter of their ids.
var groups = []struct{ letter, title string }{
	{"T", "Computer use"}, {"A", "URL and origin"}, {"B", "Addresses and names"}, {"C", "Framing and headers"}, {"D", "Paths"},
	{"E", "Identity"}, {"F", "Tokens"}, {"G", "Tools"}, {"H", "The browser"}, {"I", "Approvals"}, {"K", "Leases and kill"}, {"M", "Exhaustion"},
	{"P", "Parts that others signed"}, {"R", "Roles"}, {"S", "Signals"}, {"W", "Behaviour"},
}

type threat struct {
	id, says string
	note     string // "", or starts with one of the words of notes
	tests    []threatTest
}

type threatTest struct{ pkg, name, by string }

// notes are the ways to say that a threat is not, or not wholly, tried.
var notes = map[string]string{
	"partly":      "", // tests, and what they leave out
	"not stopped": "nothing stops it",
	"not built":   "the door that it needs is not there, and no defence of that door either",
	"not tried":   "no test carries it out, whether or not something stops it",
}

func threats(t *testing.T) []*threat {
	t.Helper()
	var all []*threat
	seen := map[string]bool{}
	for line := range strings.Lines(string(read(t, "docs/threats.txt"))) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := append(strings.Split(line, " | "), "")
		x := &threat{id: f[0], says: f[1], note: f[2]}
		kind, why, _ := strings.Cut(x.note, ": ")
		_, known := notes[kind]
		switch {
		case len(f) < 3 || len(f) > 4 || !threatID.MatchString(x.id) || x.says == "":
			t.Errorf("docs/threats.txt: %q: want id | sentence, or id | sentence | note", line)
		case seen[x.id]:
			t.Errorf("docs/threats.txt: %s is there twice", x.id)
		case x.note != "" && (!known || why == ""):
			t.Errorf("docs/threats.txt: %s: the note %q does not start with one of %q and a reason", x.id, x.note, slices.Sorted(maps.Keys(notes)))
		}
		seen[x.id] = true
		all = append(all, x)
	}
	return all
}

// claims collects what tests say of themselves, and what elsewhere says of those
// that cannot.
func claims(t *testing.T, all []*threat) {
	t.Helper()
	byID := map[string]*threat{}
	for _, x := range all {
		byID[x.id] = x
	}
	rest := maps.Clone(elsewhere)
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		pkg := filepath.ToSlash(filepath.Dir(file))
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil {
				continue
			}
			var texts []string
			for _, m := range threatLine.FindAllStringSubmatch(fn.Doc.Text(), -1) {
				texts = append(texts, m[1])
			}
			if s, ok := rest[pkg+"."+fn.Name.Name]; ok {
				delete(rest, pkg+"."+fn.Name.Name)
				if texts != nil {
					t.Errorf("%s.%s says itself what it tries: take it out of elsewhere", pkg, fn.Name.Name)
				}
				texts = append(texts, s)
			}
			if texts != nil && !testName.MatchString(fn.Name.Name) {
				t.Errorf("%s: %s names threats and is no test", file, fn.Name.Name)
			}
			for _, s := range texts {
				add(t, byID, pkg, fn.Name.Name, s)
			}
		}
	}
	for name := range rest {
		t.Errorf("elsewhere names %s, which is not there", name)
	}
}

// add reads "T23, T28 (browser); T13 (guardrail, grant)".
func add(t *testing.T, byID map[string]*threat, pkg, name, text string) {
	t.Helper()
	for part := range strings.SplitSeq(strings.TrimSuffix(text, "."), "; ") {
		m := claim.FindStringSubmatch(part)
		if m == nil {
			t.Errorf("%s.%s: %q: want ids (what stops them), ...", pkg, name, part)
			continue
		}
		for by := range strings.SplitSeq(m[2], ", ") {
			if stoppers[by] == "" {
				t.Errorf("%s.%s: %q is no word for what stops a threat; there are %q", pkg, name, by, slices.Sorted(maps.Keys(stoppers)))
			}
		}
		for id := range strings.SplitSeq(m[1], ", ") {
			x := byID[id]
			if x == nil {
				t.Errorf("%s.%s: there is no threat %q in docs/threats.txt", pkg, name, id)
				continue
			}
			x.tests = append(x.tests, threatTest{pkg, name, m[2]})
		}
	}
}

// TestThreats: each threat has a test that carries it out or a reason why not,
// each test names threats that exist, and the page says the same as both.
func TestThreats(t *testing.T) {
	all := threats(t)
	claims(t, all)
	for _, x := range all {
		kind, _, _ := strings.Cut(x.note, ":")
		switch {
		case len(x.tests) == 0 && (x.note == "" || kind == "partly"):
			t.Errorf("%s (%s) has no test and no reason why not", x.id, x.says)
		case len(x.tests) > 0 && x.note != "" && kind != "partly":
			t.Errorf("%s has the test %s, so it is not %q", x.id, x.tests[0].name, kind)
		}
		slices.SortFunc(x.tests, func(a, b threatTest) int {
			return strings.Compare(a.pkg+" "+a.name+a.by, b.pkg+" "+b.name+b.by)
		})
	}
	if t.Failed() {
		return
	}
	const file = "docs/threats.md"
	want := page(all)
	if os.Getenv("SALLYPORT_WRITE") != "" {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(read(t, file), want) {
		t.Errorf("%s is not what docs/threats.txt and the tests say: SALLYPORT_WRITE=1 go test . -run TestThreats", file)
	}
}

func page(all []*threat) []byte {
	var b bytes.Buffer
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("# Threats and the tests that carry them out\n")
	say("Made of [threats.txt](threats.txt) and of what the tests say of themselves (`TestThreats`, which fails when this page is")
	say("old or a threat has neither test nor reason). A test is named here if it does what the sentence says, against the")
	say("real thing or against the one part of the product that must stop it. See [the threat model](threat-model.md) for who")
	say("attacks, and for what stays.\n")
	count := map[string]int{}
	for _, x := range all {
		kind, _, _ := strings.Cut(x.note, ":")
		count[kind]++
	}
	say("%d threats: %d tried whole, %d in part, %d not stopped, %d not built, %d not tried.\n", len(all), count[""], count["partly"], count["not stopped"], count["not built"], count["not tried"])
	say("## What stops them\n")
	for _, w := range slices.Sorted(maps.Keys(stoppers)) {
		say("- **%s**: %s", w, stoppers[w])
	}
	say("\n## Not tried whole\n")
	for _, kind := range []string{"not stopped", "not built", "not tried", "partly"} {
		if count[kind] == 0 {
			continue
		}
		head := kind
		if notes[kind] != "" {
			head += " (" + notes[kind] + ")"
		}
		say("**%s**\n", strings.ToUpper(head[:1])+head[1:])
		for _, x := range all {
			if why, ok := strings.CutPrefix(x.note, kind+": "); ok {
				say("- %s: %s", x.id, why)
			}
		}
		say("")
	}
	for _, g := range groups {
		say("## %s\n\n| | the attacker | tried by, stopped by |\n| --- | --- | --- |", g.title)
		for _, x := range all {
			if !strings.HasPrefix(x.id, g.letter) {
				continue
			}
			var tests []string
			for _, y := range x.tests {
				tests = append(tests, fmt.Sprintf("`%s` in %s: %s", y.name, strings.TrimPrefix(y.pkg, "internal/"), y.by))
			}
			if kind, _, _ := strings.Cut(x.note, ":"); len(tests) == 0 {
				tests = []string{"*" + kind + "*"}
			} else if kind != "" {
				tests = append(tests, "*in part*")
			}
			say("| %s | %s | %s |", x.id, x.says, strings.Join(tests, "<br>"))
		}
		say("")
	}
	return append(bytes.TrimRight(b.Bytes(), "\n"), '\n')
}

// elsewhere is what tests try that do not say it themselves.
var elsewhere = map[string]string{
	"internal/surface/computer.TestBatchStopsAtTheFirstDenial":       "T35 (guardrail)",
	"internal/surface/computer.TestDragEndSwapped":                   "T30 (dispatch)",
	"internal/surface/computer.TestJournalOneWriteForOnePress":       "T19 (guardrail)",
	"internal/surface/computer.TestKillCutsTheWait":                  "T57 (authority)",
	"internal/surface/computer.TestMalformedIsRefusedAndRecorded":    "T2, M1 (form)",
	"internal/surface/computer.TestNewlineInTextIsAKeyOfItsOwn":      "T29 (guardrail)",
	"internal/surface/computer.TestPasswordIsNotRecorded":            "T44, T54 (door)",
	"internal/surface/computer.TestRealBrowserSwapDuringTheDecision": "T28, H6 (browser)",
	"internal/surface/computer.TestScaledDisplay":                    "T36 (form)",
	"internal/surface/computer.TestStrayMouseUp":                     "T30 (form)",
	"internal/surface/computer.TestTargetSwappedAfterTheDecision":    "T28, H6, I5 (dispatch)",
	"internal/surface/computer.TestWrongMethodTypeAndOrigin":         "T8, B5, H2 (form)",
}
