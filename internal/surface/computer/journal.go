package computer

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Rules by which an input explains a request, from strong to weak.
const (
	RuleForm     = "form"     // the pressed control submits the form that the request carries
	RuleLink     = "link"     // the request is what the pressed link leads to
	RuleRedirect = "redirect" // a GET that an explained request of the same window led to
	RuleScript   = "script"   // the page's script, soon after a press that by itself leads nowhere
)

const (
	journalSize  = 64
	window       = 10 * time.Second // form, link, redirect
	scriptWindow = 3 * time.Second
)

// Journal remembers the last permitted inputs and says which one explains a
// request that is about to leave. It is a finding aid, not an authority: a
// request that nothing explains is suspicious, a request that is explained is
// decided all the same.
//
// Rules, first match of the newest input wins:
//
//   - form: same origin and path as the action of the form whose submit control
//     was clicked (or whose field got Enter), same method; at most 10 s later.
//   - link: GET of the origin and path that the pressed link has; at most 10 s later.
//   - redirect: GET or HEAD, marked by the egress as led to by a response, at
//     most 10 s after a request that was explained; takes over its explanation.
//   - script: any method, to the origin of the frame whose control was clicked, or
//     got Enter or Space, if that by itself leads nowhere (no link, no form, or such
//     as lead to the document itself); at most 3 s later. Weaker: the page's author
//     chose the request. Enter in a text area counts: some pages send by it.
//
// What changes something needs more:
//
//   - The browser's word (Senders): the request came out of the very frame that
//     got the input, which had input a moment ago. A form or link that opens in
//     another window or frame is let off the first. Workers, service workers, other
//     frames and windows, also of the same origin, have no such word.
//   - One input explains one change, and when it has, no older input stands in for
//     it. A control that sends several (delete what is selected) has the first
//     explained; each of the others is the page's own doing, which the shipped rules
//     hold for a person, or deny where it is privileged. That one press could mean
//     many is known to nobody but the page's author. An application whose bulk
//     action is to pass sends it as one request, and its connector says what it is.
//   - A redirect explains none.
//
// Limits: it is told facts of the document as it was just before the input.
// A submit handler that changes the form's action afterwards makes the request
// unexplained (it fails towards suspicion); a script of the pressed document
// itself that sends, within 3 s, its own request to its own origin before the one
// that the person meant is explained in its place.
type Journal struct {
	ask Senders
	now func() time.Time

	mu     sync.Mutex
	inputs []pressed // oldest first
	last   explained
}

// Sender is what the browser says of who sends a request.
type Sender struct {
	Frame   string // the browser's own name of the frame, as in action.Element
	Gesture bool   // the frame had input a moment ago
}

// Senders asks the browser, once for each request. It waits for an answer and
// reports false where the browser does not vouch for anybody.
type Senders func(ctx context.Context, r action.Request) (Sender, bool)

type pressed struct {
	id      string
	at      time.Time
	in      Kind
	key     string
	element action.Element
	shown   []action.Evidence // of the input's record
	spent   bool              // explained a request that changes
}

type explained struct {
	id string
	at time.Time
}

// NewJournal makes an empty journal for one task. Without ask no change is ever
// explained.
func NewJournal(ask Senders) *Journal { return &Journal{ask: ask, now: time.Now} }

// Note remembers an input that may cause a request: a press, or Enter or Space.
// shown is the evidence of its record.
func (j *Journal) Note(id string, in Input, e action.Element, shown ...action.Evidence) {
	switch in.Kind {
	case Click, Down, Up, Drag:
	case Key:
		if in.Key != "Enter" && in.Key != " " {
			return
		}
	default:
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.inputs) == journalSize {
		j.inputs = append(j.inputs[:0], j.inputs[1:]...)
	}
	j.inputs = append(j.inputs, pressed{id: id, at: j.now(), in: in.Kind, key: in.Key, element: e, shown: shown})
}

// Forget takes an input out that the page did not get.
func (j *Journal) Forget(id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.inputs = slices.DeleteFunc(j.inputs, func(p pressed) bool { return p.id == id })
}

// Explain returns the ID of the permitted input that explains r at time at, or
// "". changes says that r changes something, as its connector sees it; then on
// and shown are what the input was on and the evidence of its record.
func (j *Journal) Explain(ctx context.Context, r action.Request, changes bool, at time.Time) (id string, on *action.Element, shown []action.Evidence) {
	p, _ := j.why(ctx, r, changes, at)
	if p.id != "" && changes {
		on, shown = &p.element, p.shown
	}
	return p.id, on, shown
}

// Why says by which rule an input explains a request.
func (j *Journal) Why(ctx context.Context, r action.Request, changes bool, at time.Time) (id, rule string) {
	p, rule := j.why(ctx, r, changes, at)
	return p.id, rule
}

func (j *Journal) why(ctx context.Context, r action.Request, changes bool, at time.Time) (pressed, string) {
	if !changes {
		return j.match(r, nil, at)
	}
	// The browser is asked without the lock and only where it matters: its answer
	// may be a moment away.
	if _, rule := j.find(r, at); rule == "" || j.ask == nil {
		return pressed{}, ""
	}
	who, ok := j.ask(ctx, r)
	if !ok || !who.Gesture {
		return pressed{}, ""
	}
	return j.match(r, &who, at)
}

// find is the newest input that explains r, whatever it explained before.
func (j *Journal) find(r action.Request, at time.Time) (int, string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.newest(r, at)
}

// newest needs j.mu.
func (j *Journal) newest(r action.Request, at time.Time) (int, string) {
	for i := len(j.inputs) - 1; i >= 0; i-- {
		if age := at.Sub(j.inputs[i].at); age >= 0 && age <= window {
			if rule := j.inputs[i].explains(r, age); rule != "" {
				return i, rule
			}
		}
	}
	return -1, ""
}

// match finds the input and, for a change, uses it up. who is its sender, or nil
// for what changes nothing.
func (j *Journal) match(r action.Request, who *Sender, at time.Time) (pressed, string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if i, rule := j.newest(r, at); rule != "" {
		p := &j.inputs[i]
		if who != nil {
			if p.spent || !p.sentBy(*who, rule) {
				return pressed{}, "" // an older one was for something else
			}
			p.spent = true
		}
		j.last = explained{p.id, at}
		return *p, rule
	}
	safe := r.Method == "GET" || r.Method == "HEAD"
	if who == nil && safe && r.RedirectOf != "" && j.last.id != "" && !at.Before(j.last.at) && at.Sub(j.last.at) <= window {
		j.last.at = at
		return pressed{id: j.last.id}, RuleRedirect
	}
	return pressed{}, ""
}

// sentBy reports whether the request came out of the frame that got the input,
// or goes by its form or link into the window that these name.
func (p *pressed) sentBy(who Sender, rule string) bool {
	return p.element.Frame != "" && who.Frame == p.element.Frame || rule != RuleScript && p.element.Window != ""
}

// explains reports the rule by which p explains r, or "".
func (p *pressed) explains(r action.Request, age time.Duration) string {
	e := p.element
	switch {
	case e.Uninspectable != "":
		return ""
	case p.submits() && sameTarget(e.FormAction, r) && strings.EqualFold(formMethod(e), r.Method):
		return RuleForm
	case e.Link != "" && r.Method == "GET" && p.key != " " && sameTarget(e.Link, r):
		return RuleLink
	case age <= scriptWindow && p.leftToScript() && (control(e) || p.sends()) && e.FrameOrigin == r.Origin:
		return RuleScript
	}
	return ""
}

// leftToScript reports whether the press by itself leads nowhere else, so that
// what it is for is up to the page's script: no link and no form but such as
// lead to the document itself, which is how pages that are one program write
// them. A press in a field for text only puts the cursor there.
func (p *pressed) leftToScript() bool {
	e := p.element
	if e.Link != "" && !sameDocument(e.Link, e.URL) || p.submits() && !sameDocument(e.FormAction, e.URL) {
		return false
	}
	if e.Tag != "input" || p.key == "Enter" {
		return true
	}
	switch e.InputType {
	case "submit", "image", "button", "reset", "checkbox", "radio":
		return true
	}
	return false
}

// sends reports Enter in a text area whose form, if any, leads to the document
// itself.
func (p *pressed) sends() bool {
	e := p.element
	return p.key == "Enter" && e.Tag == "textarea" && (e.FormAction == "" || sameDocument(e.FormAction, e.URL))
}

// sameDocument compares addresses up to the fragment.
func sameDocument(a, b string) bool {
	a, _, _ = strings.Cut(a, "#")
	b, _, _ = strings.Cut(b, "#")
	return a == b
}

// submits reports whether the input activates the form: a press on its submit
// control, Space on it, or Enter in any of its fields but a text area.
func (p *pressed) submits() bool {
	e := p.element
	if e.FormAction == "" {
		return false
	}
	control := e.InputType == "submit" || e.InputType == "image" || e.Tag == "button" && (e.InputType == "" || e.InputType == "submit")
	if p.key == "Enter" {
		return control || e.Tag == "input"
	}
	return control
}

func formMethod(e action.Element) string {
	if e.FormMethod == "" {
		return "GET"
	}
	return e.FormMethod
}

// control reports whether a press on the element can be meant to do something.
// Tag is a fact; the role is written by the page, and only widens what is
// explained weakly, never what is allowed.
func control(e action.Element) bool {
	switch e.Tag {
	case "button", "input", "select", "summary", "a", "option":
		return true
	}
	switch e.Role {
	case "button", "link", "menuitem", "tab", "checkbox", "switch", "option", "radio":
		return true
	}
	return false
}

// sameTarget compares origin and path; the query of a GET form is made by the
// browser from its fields and is not compared.
func sameTarget(target string, r action.Request) bool {
	u, err := url.Parse(target)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return false
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return originOf(u) == r.Origin && path == r.Path
}

// originOf is scheme://host[:port], lower case, without the default port.
func originOf(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	scheme := strings.ToLower(u.Scheme)
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return scheme + "://" + host
	}
	return scheme + "://" + host + ":" + port
}
