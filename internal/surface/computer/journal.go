package computer

import (
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
// An input explains at most one request that is not GET or HEAD, so one click
// cannot cover two writes; and when it has, no older one stands in for it.
//
// Limits: it is told facts of the document as it was just before the input.
// A submit handler that changes the form's action afterwards makes the request
// unexplained (it fails towards suspicion); a script that sends, within 3 s, its
// own request to its own origin before the one that the person meant is
// explained in its place. A document may not be one of these at all (a worker).
type Journal struct {
	now func() time.Time

	mu     sync.Mutex
	inputs []pressed // oldest first
	last   explained
}

type pressed struct {
	id      string
	at      time.Time
	in      Kind
	key     string
	element action.Element
	spent   bool // explained a request that changes
}

type explained struct {
	id string
	at time.Time
}

// NewJournal makes an empty journal for one task.
func NewJournal() *Journal { return &Journal{now: time.Now} }

// Note remembers an input that may cause a request: a press, or Enter or Space.
func (j *Journal) Note(id string, in Input, e action.Element) {
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
	j.inputs = append(j.inputs, pressed{id: id, at: j.now(), in: in.Kind, key: in.Key, element: e})
}

// Forget takes an input out that the page did not get.
func (j *Journal) Forget(id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.inputs = slices.DeleteFunc(j.inputs, func(p pressed) bool { return p.id == id })
}

// Explain returns the ID of the permitted input that explains r at time at, or "".
func (j *Journal) Explain(r action.Request, at time.Time) string {
	id, _ := j.Why(r, at)
	return id
}

// Why is Explain with the rule that matched.
func (j *Journal) Why(r action.Request, at time.Time) (id, rule string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	safe := r.Method == "GET" || r.Method == "HEAD"
	for i := len(j.inputs) - 1; i >= 0; i-- {
		p := &j.inputs[i]
		age := at.Sub(p.at)
		if age < 0 || age > window {
			continue
		}
		rule := p.explains(r, age)
		if rule == "" {
			continue
		}
		if !safe && p.spent {
			return "", "" // an older one was for something else
		}
		if !safe {
			p.spent = true
		}
		j.last = explained{p.id, at}
		return p.id, rule
	}
	if safe && r.RedirectOf != "" && j.last.id != "" && !at.Before(j.last.at) && at.Sub(j.last.at) <= window {
		j.last.at = at
		return j.last.id, RuleRedirect
	}
	return "", ""
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
