package clients

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
)

// results are the scenarios of one client in one profile.
type results struct {
	all     []scenario
	scripts []string // that the client sent
}

func (r *results) check(t *testing.T) {
	t.Helper()
	for _, s := range r.all {
		t.Run(s.Name, func(t *testing.T) {
			if s.Error != "" {
				t.Error(s.Error)
			}
		})
	}
}

// runs keep what was run already, for the tests that look at the same run: each
// client runs once in a profile.
var runs = struct {
	sync.Mutex
	done map[string]*results
}{done: map[string]*results{}}

// ran are the results of a client, run now if it was not before.
func ran(t *testing.T, file string, profile cdp.Profile) *results {
	t.Helper()
	runs.Lock()
	defer runs.Unlock()
	key := file + " " + string(profile)
	if r := runs.done[key]; r != nil {
		return r
	}
	w := open(t, profile, nil)
	r := &results{all: w.run(t, file), scripts: w.tap.scripts(t)}
	runs.done[key] = r
	return r
}

var compared = []struct{ title, module, file string }{
	{"Playwright, `connectOverCDP`", "playwright-core", "playwright.mjs"},
	{"Puppeteer, `connect`", "puppeteer-core", "puppeteer.mjs"},
	{"Playwright's MCP server, `--cdp-endpoint`", "@playwright/mcp", "mcp.mjs"},
}

const refusedEverywhere = "Refused in every profile"

// TestCompatibility: docs/compatibility.md says what the clients did.
// SALLYPORT_WRITE=1 writes it.
func TestCompatibility(t *testing.T) {
	var b bytes.Buffer
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("# What unmodified clients can do\n")
	say("Made by `TestCompatibility` of what each client did against a real browser, scenario by scenario; it fails when this page is")
	say("old. A scenario is a line of [test/clients](../test/clients). The profile is the agent's `browser.protocol`: *sealed* has no such door and refuses")
	say("every client as it connects (`cdp_sealed`); *pinned* evaluates only the drivers' own helper scripts; *open* the client's own too.")
	say("A scenario that looks by a script of its own at what came of it counts as refused in *pinned*.")
	say("Policy allows everything here: what a task is not given is refused besides, as it is for the screen.\n")
	say("| client | version | open | pinned | sealed |\n| --- | --- | --- | --- | --- |")
	for _, c := range compared {
		open, pinned := ran(t, c.file, cdp.Open).all, ran(t, c.file, cdp.Pinned).all
		say("| %s | %s | %s | %s | none |", c.title, version(t, c.module), share(open), share(pinned))
	}
	answered, refused := browserUse(t, cdp.Open), browserUse(t, cdp.Pinned)
	say("| browser-use, `BrowserSession(cdp_url)` | %s | %s | %s | none |", browserUseVersion, answered.share(), refused.share())
	for _, c := range compared {
		say("\n## %s\n", c.title)
		table(say, ran(t, c.file, cdp.Open).all, ran(t, c.file, cdp.Pinned).all)
	}
	say("\n## browser-use\n")
	say("Its client's own requests, recorded at a bare browser and sent again through the door (`TestBrowserUse`), request by request.\n")
	say("| | open | pinned |\n| --- | --- | --- |")
	for _, step := range answered.steps {
		say("| %s | %s | %s |", step, answered.row(step), refused.row(step))
	}
	if t.Failed() {
		return
	}
	const file = "../../docs/compatibility.md"
	if os.Getenv("SALLYPORT_WRITE") != "" {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil || string(have) != b.String() {
		t.Errorf("docs/compatibility.md is old: SALLYPORT_WRITE=1 go test ./test/clients -run TestCompatibility writes it (%v); now:\n%s", err, changes(string(have), b.String()))
	}
}

func share(all []scenario) string {
	n := 0
	for _, s := range all {
		if s.Error == "" {
			n++
		}
	}
	return fmt.Sprintf("%d of %d", n, len(all))
}

// table has a line for each feature, and the names of what does not work.
func table(say func(string, ...any), open, pinned []scenario) {
	say("| feature | open | pinned | refused |\n| --- | --- | --- | --- |")
	var features []string
	by := func(all []scenario, f string) []scenario {
		return slices.DeleteFunc(slices.Clone(all), func(s scenario) bool { return s.Feature != f })
	}
	for _, s := range open {
		if !slices.Contains(features, s.Feature) && s.Feature != refusedEverywhere {
			features = append(features, s.Feature)
		}
	}
	for _, f := range features {
		o, p := by(open, f), by(pinned, f)
		say("| %s | %s | %s | %s |", f, share(o), share(p), strings.Join(slices.Concat(broken("", "no answer in time", o), broken("in pinned ", "no answer in time", p)), "; "))
	}
	all := by(open, refusedEverywhere)
	for i := range all { // that it is refused is what the scenario wants
		all[i].Name, all[i].Error = strings.TrimPrefix(all[i].Name, "refused_"), "refused"
	}
	say("\nRefused in every profile: %s.", strings.Join(broken("", "by the client itself", all), "; "))
}

// broken are the names of what failed, by the codes of why.
func broken(where, silent string, all []scenario) []string {
	names := map[string][]string{}
	var order []string
	for _, s := range all {
		if s.Error == "" {
			continue
		}
		why := strings.Join(s.codes, ", ")
		if why == "" {
			why = silent
		}
		if names[why] == nil {
			order = append(order, why)
		}
		names[why] = append(names[why], s.Name)
	}
	slices.Sort(order)
	var out []string
	for _, why := range order {
		out = append(out, fmt.Sprintf("%s`%s`: %s", where, why, strings.Join(names[why], ", ")))
	}
	return out
}

// changes are the lines of one text that the other lacks.
func changes(was, is string) string {
	var out []string
	a, b := strings.Split(was, "\n"), strings.Split(is, "\n")
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// TestSealedClients: in the profile sealed no client gets so far as a scenario.
func TestSealedClients(t *testing.T) {
	w := open(t, cdp.Sealed, nil)
	if err := install(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"playwright.mjs", "puppeteer.mjs"} {
		cmd := exec.CommandContext(t.Context(), "node", file, w.url)
		out, err := cmd.CombinedOutput()
		if err == nil || bytes.Contains(out, []byte(`{"name"`)) || !bytes.Contains(out, []byte("403")) && !bytes.Contains(out, []byte("Failed to fetch browser webSocket URL")) {
			t.Errorf("%s: got %v: %.2000s", file, err, out)
		}
	}
}
