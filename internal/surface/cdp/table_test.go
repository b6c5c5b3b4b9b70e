package cdp

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

var update = flag.Bool("update", false, "write protocol.txt from the installed browser")

// installed asks the browser on this machine for its protocol. The browser runs
// by itself here, with a port and without any page of anybody.
func installed(t *testing.T) string {
	t.Helper()
	bin, err := contain.FindChromium("shell")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "--remote-debugging-port=0", "--no-sandbox", "--user-data-dir="+t.TempDir(), "about:blank")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	listening := regexp.MustCompile(`ws://(127\.0\.0\.1:\d+)/`)
	addr := ""
	for lines := bufio.NewScanner(stderr); addr == "" && lines.Scan(); {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			addr = m[1]
		}
	}
	go io.Copy(io.Discard, stderr)
	var v struct{ Browser string }
	get(t, "http://"+addr+"/json/version", &v)
	var doc struct {
		Domains []struct {
			Domain   string
			Commands []struct {
				Name       string
				Parameters []struct{ Name string }
			}
			Events []struct{ Name string }
		}
	}
	get(t, "http://"+addr+"/json/protocol", &doc)
	var methods, events []string
	for _, d := range doc.Domains {
		for _, c := range d.Commands {
			line := d.Domain + "." + c.Name
			for _, p := range c.Parameters {
				line += " " + p.Name
			}
			methods = append(methods, line)
		}
		for _, e := range d.Events {
			events = append(events, "event "+d.Domain+"."+e.Name)
		}
	}
	// By name, not by line: a name may be the beginning of another.
	slices.SortFunc(methods, func(a, b string) int {
		a, _, _ = strings.Cut(a, " ")
		b, _, _ = strings.Cut(b, " ")
		return strings.Compare(a, b)
	})
	slices.Sort(events)
	return "# The protocol of " + v.Browser + ": its methods with their parameters, then its events. Written by go test -run TestInstalledProtocol -update.\n" +
		strings.Join(append(methods, events...), "\n") + "\n"
}

func get(t *testing.T, url string, v any) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		t.Fatal(err)
	}
}

// TestInstalledProtocol: a new browser may have new methods; somebody must say
// what becomes of each before it is used.
func TestInstalledProtocol(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	got := installed(t)
	if *update {
		if err := os.WriteFile("protocol.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("protocol.txt")
	if err != nil {
		t.Fatal(err)
	}
	// The version in the head may differ; a list that differs may not.
	_, g, _ := strings.Cut(got, "\n")
	_, w, _ := strings.Cut(string(want), "\n")
	a, b := strings.Split(g, "\n"), strings.Split(w, "\n")
	for _, line := range a {
		if !slices.Contains(b, line) {
			t.Errorf("the installed browser has %q: run with -update, then decide on it in methods.txt", line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			t.Errorf("the installed browser lacks %q: run with -update", line)
		}
	}
}

// protocol reads protocol.txt: parameters by method, and events.
func protocol(t *testing.T) (methods map[string][]string, named map[string]bool) {
	t.Helper()
	b, err := os.ReadFile("protocol.txt")
	if err != nil {
		t.Fatal(err)
	}
	methods, named = map[string][]string{}, map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		f := strings.Fields(line)
		switch {
		case f[0] == "#":
		case f[0] == "event":
			named[f[1]] = true
		default:
			methods[f[0]] = f[1:]
		}
	}
	return methods, named
}

func TestEveryMethodHasALine(t *testing.T) {
	methods, named := protocol(t)
	if len(methods) < 600 {
		t.Fatalf("protocol.txt has %d methods", len(methods))
	}
	for m := range methods {
		if _, ok := table()[m]; !ok {
			t.Errorf("%s has no line in methods.txt: say what becomes of it and why", m)
		}
	}
	for m, r := range table() {
		params, ok := methods[m]
		if !ok {
			t.Errorf("methods.txt: %s is no method of the browser", m)
		}
		for _, p := range r.params {
			if !slices.Contains(params, p) {
				t.Errorf("methods.txt: %s has no parameter %s", m, p)
			}
		}
		if (r.verdict == rewrite) != (answers[m] != nil) {
			t.Errorf("methods.txt: %s is %s, and there is an answer: %v", m, r.verdict, answers[m] != nil)
		}
	}
	for e := range events {
		if !named[e] {
			t.Errorf("%s is no event of the browser", e)
		}
	}
	for m := range answers {
		if table()[m].verdict != rewrite {
			t.Errorf("%s has an answer and no line that says so", m)
		}
	}
}

// TestRefusedInEveryProfile names what must never be passed on.
//
// Threats: T1, T3, T4 (form)
func TestRefusedInEveryProfile(t *testing.T) {
	domains := `Audits.getEncodedResponse Animation Autofill BackgroundService BluetoothEmulation CSS CacheStorage Cast DOMDebugger DOMStorage
		Debugger DeviceAccess DigitalCredentials Extensions FedCm Fetch FileSystem HeapProfiler IO IndexedDB Memory Overlay PWA Profiler Security ServiceWorker
		SmartCardEmulation Storage SystemInfo Tethering Tracing WebAuthn`
	single := `Browser.crash Browser.grantPermissions Browser.setPermission Browser.executeBrowserCommand Browser.getBrowserCommandLine
		DOM.setAttributeValue DOMSnapshot.getSnapshot DOM.setOuterHTML DOM.setNodeValue DOM.removeNode DOM.forceShowPopover DOM.getFileInfo
		Emulation.setScriptExecutionDisabled Emulation.setPageScaleFactor Emulation.setVirtualTimePolicy Emulation.setVisibleSize
		Input.imeSetComposition Input.emulateTouchFromMouseEvent Input.setIgnoreInputEvents
		Input.synthesizeTapGesture Input.synthesizePinchGesture
		Network.getCookies Network.getAllCookies Network.setCookie Network.setCookies Network.deleteCookies Network.clearBrowserCookies Network.getResponseBody
		Network.getRequestPostData Network.setExtraHTTPHeaders Network.getCertificate Network.loadNetworkResource Network.replayXHR Network.setBypassServiceWorker
		Network.streamResourceContent Network.searchInResponseBody Network.configureDurableMessages
		Page.setBypassCSP Page.setDocumentContent Page.addCompilationCache Page.captureSnapshot Page.printToPDF Page.getResourceContent Page.searchInResource
		Page.addScriptToEvaluateOnLoad Page.crash Page.startScreenRecording Page.getAnnotatedPageContent Page.setWebLifecycleState Page.getCookies Page.deleteCookie
		Runtime.compileScript Runtime.runScript Runtime.queryObjects Runtime.terminateExecution
		Target.exposeDevToolsProtocol Target.sendMessageToTarget Target.setRemoteLocations Target.autoAttachRelated Target.openDevTools Target.getDevToolsTarget
		WebMCP.invokeTool No.suchMethod page.navigate Page.Navigate Page.navigate.x`
	check := func(m string) {
		for _, p := range []Profile{Sealed, Pinned, Open} {
			if _, why := lookup(m, p); why == nil {
				t.Errorf("%s passes in profile %s", m, p)
			}
		}
	}
	for _, d := range strings.Fields(domains) {
		n := 0
		for m := range table() {
			if strings.HasPrefix(m, d+".") || m == d {
				check(m)
				n++
			}
		}
		if n == 0 {
			t.Errorf("domain %s has no method", d)
		}
	}
	for _, m := range strings.Fields(single) {
		check(m)
	}
}

func TestProfilesWiden(t *testing.T) {
	n := map[Profile]int{}
	for m := range table() {
		_, pinned := lookup(m, Pinned)
		_, wide := lookup(m, Open)
		if _, sealed := lookup(m, Sealed); sealed == nil {
			t.Errorf("%s passes in profile sealed", m)
		}
		if pinned == nil && wide != nil {
			t.Errorf("%s is in pinned and not in open", m)
		}
		if pinned == nil {
			n[Pinned]++
		}
		if wide == nil {
			n[Open]++
		}
	}
	if n[Pinned] < 50 || n[Open] <= n[Pinned] || n[Open] > 150 {
		t.Errorf("pinned has %d methods, open %d", n[Pinned], n[Open])
	}
	t.Logf("of %d methods: pinned %d, open %d", len(table()), n[Pinned], n[Open])
}

func TestTableMistakes(t *testing.T) {
	for name, text := range map[string]string{
		"columns":        "A.b | allow | open | x\n",
		"twice":          "A.b | allow | open | | why\nA.b | deny | | | why\n",
		"no_reason":      "A.b | allow | open | |\n",
		"verdict":        "A.b | pass | open | | why\n",
		"profile":        "A.b | allow | sealed | | why\n",
		"no_profile":     "A.b | allow | | | why\n",
		"deny_with_more": "A.b | deny | open | | why\n",
	} {
		if _, err := parseTable(text); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
