package clients

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
)

const browserUseVersion = "0.13.8"

// recorded is one request of browser-use's client. See the head of
// browseruse.jsonl for how it was recorded and what was left out.
type recorded struct {
	Step, Method string
	Session      bool
	Params       map[string]any
}

// replayed is what became of the recording in one profile.
type replayed struct {
	steps    []string
	sent     map[string]int
	refused  map[string][]string // by step: method and code
	click    string              // what the page counted
	typed    string
	title    string
	inputs   []string // operations that were allowed
	scrolled bool
}

func (r *replayed) share() string {
	n, no := 0, 0
	for _, s := range r.steps {
		n, no = n+r.sent[s], no+len(r.refused[s])
	}
	return fmt.Sprintf("%d of %d requests", n-no, n)
}

func (r *replayed) row(step string) string {
	text := fmt.Sprintf("%d of %d", r.sent[step]-len(r.refused[step]), r.sent[step])
	if no := slices.Compact(slices.Sorted(slices.Values(r.refused[step]))); len(no) > 0 {
		text += ", without " + strings.Join(no, ", ")
	}
	return text
}

var replays = map[cdp.Profile]*replayed{}

// browserUse sends the recording through the door, once in a profile.
func browserUse(t *testing.T, profile cdp.Profile) *replayed {
	t.Helper()
	runs.Lock()
	defer runs.Unlock()
	if r := replays[profile]; r != nil {
		return r
	}
	b, err := os.ReadFile("browseruse.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	var head struct{ Elements map[string]string }
	decode(t, []byte(lines[0]), &head)
	w := open(t, profile, nil)
	p := &player{raw: w.dial(), elements: head.Elements, out: &replayed{sent: map[string]int{}, refused: map[string][]string{}}}
	for _, l := range lines[1:] {
		var q recorded
		decode(t, []byte(l), &q)
		p.play(q)
	}
	if profile == cdp.Open {
		p.out.title = p.eval(p.session, "document.title")
	}
	for _, d := range w.kit.Log.Decisions(t) {
		if d.Decision.Code == "test" || d.Decision.Verdict == "allow" {
			p.out.inputs = append(p.out.inputs, strings.TrimPrefix(d.Action.Operation, "computer."))
		}
	}
	replays[profile] = p.out
	return p.out
}

// player gives recorded requests the names of this browser.
type player struct {
	*raw
	elements              map[string]string
	out                   *replayed
	step, session         string
	page, tab             string
	sessions              map[string]string // by target
	object, entry, frame_ any
}

func (p *player) play(q recorded) {
	p.t.Helper()
	if q.Step != p.step {
		p.settle(p.step)
		p.step, p.out.steps = q.Step, append(p.out.steps, q.Step)
	}
	session := ""
	if q.Session {
		session = p.session
	}
	params := dict{}
	for name, v := range q.Params {
		params[name] = p.name(v)
	}
	if args, ok := params["x"].(func() (float64, float64)); ok {
		params["x"], params["y"] = args()
	}
	m := p.ask(session, q.Method, params)
	p.out.sent[p.step]++
	if no := refusal.FindStringSubmatch(said(m)); no != nil {
		p.out.refused[p.step] = append(p.out.refused[p.step], q.Method+" (`"+no[1]+"`)")
		return
	}
	if m.Error != nil { // a handle of a script that was refused is none
		if p.object != nil {
			p.t.Errorf("%s: %s: %s", q.Step, q.Method, m.Error.Message)
		}
		p.out.refused[p.step] = append(p.out.refused[p.step], q.Method+" (no object)")
		return
	}
	p.learn(q, params, m)
}

// said is the text of an error, also of one that a script is said to have thrown.
func said(m message) string {
	if m.Error != nil {
		return m.Error.Message
	}
	if strings.Contains(string(m.Result), `"exceptionDetails"`) {
		return string(m.Result)
	}
	return ""
}

func (p *player) name(v any) any {
	switch v {
	case "$page":
		if p.page == "" {
			var l struct {
				TargetInfos []struct{ TargetID, Type string }
			}
			p.must("", "Target.getTargets", nil, &l)
			p.page = l.TargetInfos[0].TargetID
		}
		return p.page
	case "$tab":
		return p.tab
	case "$node":
		_, backend := p.node()
		return backend
	case "$object":
		if p.object == nil {
			return "none"
		}
		return p.object
	case "$entry":
		return p.entry
	case "$frame":
		return p.frame_
	case "$x":
		return p.middle
	}
	return v
}

// node is the element of the step.
func (p *player) node() (id, backend int) {
	p.t.Helper()
	var root struct{ Root struct{ NodeID int } }
	var found struct{ NodeID int }
	var node struct{ Node struct{ BackendNodeID int } }
	p.must(p.session, "DOM.getDocument", nil, &root)
	p.must(p.session, "DOM.querySelector", dict{"nodeId": root.Root.NodeID, "selector": p.elements[p.step]}, &found)
	p.must(p.session, "DOM.describeNode", dict{"nodeId": found.NodeID}, &node)
	return found.NodeID, node.Node.BackendNodeID
}

func (p *player) middle() (x, y float64) {
	p.t.Helper()
	id, _ := p.node()
	var r struct{ Quads [][8]float64 }
	p.must(p.session, "DOM.getContentQuads", dict{"nodeId": id}, &r)
	q := r.Quads[0]
	return (q[0] + q[4]) / 2, (q[1] + q[5]) / 2
}

func (p *player) learn(q recorded, params dict, m message) {
	p.t.Helper()
	var r struct {
		SessionID, TargetID string
		Object, Result      struct{ ObjectID any }
		FrameTree           struct{ Frame struct{ ID string } }
		CurrentIndex        int
		Entries             []struct{ ID int }
	}
	if q.Method != "Runtime.getProperties" { // whose result is a list
		decode(p.t, m.Result, &r)
	}
	switch q.Method {
	case "Target.attachToTarget":
		p.session = r.SessionID
		p.sessions = map[string]string{p.page: r.SessionID}
	case "Target.createTarget":
		p.tab = r.TargetID
		p.session = p.attached(p.tab)
		p.must(p.session, "Page.enable", nil, nil)
	case "Target.activateTarget":
		p.session = p.sessions[params["targetId"].(string)]
	case "Page.navigate", "Page.navigateToHistoryEntry":
		p.loaded()
	case "DOM.resolveNode":
		p.object = r.Object.ObjectID
	case "Runtime.evaluate":
		if q.Params["includeCommandLineAPI"] == true {
			// The script itself was left out; this is what it gives.
			var o struct{ Result struct{ ObjectID any } }
			p.must(p.session, "Runtime.evaluate", dict{"expression": "document.body"}, &o)
			p.object = o.Result.ObjectID
		}
	case "Page.getFrameTree":
		p.frame_ = r.FrameTree.Frame.ID
	case "Page.getNavigationHistory":
		p.entry = r.Entries[r.CurrentIndex-1].ID
	}
}

func (p *player) loaded() {
	p.t.Helper()
	p.until(func(m message) bool { return m.Method == "Page.loadEventFired" && m.Session == p.session })
}

// attached is the session that auto-attach made on a target.
func (p *player) attached(target string) string {
	p.t.Helper()
	m := p.until(func(m message) bool {
		return m.Method == "Target.attachedToTarget" && strings.Contains(string(m.Params), target)
	})
	var a struct{ SessionID string }
	decode(p.t, m.Params, &a)
	p.sessions[target] = a.SessionID
	return a.SessionID
}

// settle looks at what a step did, where the client's scripts may.
func (p *player) settle(step string) {
	p.t.Helper()
	open := len(p.out.refused["state"]) == 0
	switch step {
	case "link":
		p.loaded()
	case "click":
		if open {
			p.out.click = p.eval(p.session, "document.getElementById('count').textContent")
		}
	case "type":
		if open {
			p.out.typed = p.eval(p.session, "document.getElementById('name').value")
		}
	case "scroll":
		if open {
			p.out.scrolled = p.eval(p.session, "new Promise(f=>{const g=()=>scrollY>100?f(1):requestAnimationFrame(g);g()})") == "1"
		}
	}
}

// TestBrowserUse: what browser-use's own client sent to a bare browser is
// answered through the door, but for permissions; its click and its text arrive
// once, decided; without its scripts it cannot see, and is told why.
func TestBrowserUse(t *testing.T) {
	r := browserUse(t, cdp.Open)
	for _, step := range r.steps {
		for _, no := range r.refused[step] {
			if no != "Browser.grantPermissions (`cdp_denied_method`)" {
				t.Errorf("%s: refused: %s", step, no)
			}
		}
	}
	if r.click != "1" || r.typed != "Ada" || !r.scrolled {
		t.Errorf("clicks %s, text %q, scrolled %v", r.click, r.typed, r.scrolled)
	}
	for _, op := range []string{"left_click", "key", "scroll", "screenshot"} {
		if !slices.Contains(r.inputs, op) {
			t.Errorf("no %s among what was decided: %q", op, r.inputs)
		}
	}
	p := browserUse(t, cdp.Pinned)
	if !slices.Contains(p.inputs, "left_click") || !slices.Contains(p.refused["state"], "Runtime.evaluate (`cdp_script`)") || len(p.refused["click"]) == 0 {
		t.Errorf("pinned: decided %q, refused %q", p.inputs, p.refused)
	}
}
