package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// maxHops bounds how deep frames in frames (and shadow roots) are followed.
const maxHops = 16

// Grounded is what an input would act on, at the moment of grounding.
type Grounded struct {
	Element action.Element
	// Fingerprint changes when anything about the element changes that a
	// decision rests on: the node, its document, the frame's origin, tag,
	// link, form action and method, the default button, its rectangle.
	Fingerprint action.Digest
	// X and Y are where, in CSS pixels of the screen. Zero for the keyboard.
	X, Y float64
	// Keyboard says that the focused element was grounded. Element's form is
	// then what Enter would submit.
	Keyboard bool
	// Editable says that text can go into the element.
	Editable bool
	// Rect is the element's x, y, width and height in CSS pixels of its frame.
	Rect [4]float64
	// Page, Frame and Loader are Chromium's names of the page, the frame and
	// the load of its document.
	Page, Frame, Loader string

	node int // that a client named, of a file input
}

// facts are what the guard reads of an element. See guard.js.
type facts struct {
	Node     int        `json:"node"`
	Submit   int        `json:"submit"`
	Tag      string     `json:"tag"`
	Role     string     `json:"role"`
	Name     string     `json:"name"`
	Says     string     `json:"says"` // Name where a change of it is a change of the target
	Text     string     `json:"text"`
	Drawn    []string   `json:"drawn"` // what stands on it without being text
	Link     string     `json:"link"`
	Action   string     `json:"action"`
	Method   string     `json:"method"`
	Type     string     `json:"type"`
	Window   string     `json:"window"`
	URL      string     `json:"url"`
	Origin   string     `json:"origin"`
	Rect     [4]float64 `json:"rect"`
	Blind    string     `json:"blind"`
	Editable bool       `json:"editable"`
	Bare     bool       `json:"bare"` // nothing around it acts by itself
}

// Ground finds what a press at x, y (CSS pixels of the screen) would act on.
// Where nothing can be known, Element.Uninspectable says why and err is nil.
func (b *Browser) Ground(ctx context.Context, x, y float64) (Grounded, error) {
	if err := b.leave(ctx); err != nil {
		return Grounded{}, err
	}
	return b.at(ctx, x, y)
}

func (b *Browser) at(ctx context.Context, x, y float64) (Grounded, error) {
	if !(x >= 0 && y >= 0 && x < float64(b.cfg.Width) && y < float64(b.cfg.Height)) {
		return Grounded{}, fmt.Errorf("%w: point outside the screen", ErrInput)
	}
	return b.settled(ctx, func(ctx context.Context, page *session) (Grounded, error) {
		g, _, err := b.groundPoint(ctx, page, x, y, nil)
		return g, err
	})
}

// GroundFocus finds what a key would act on: the focused element, through
// frames and shadow roots.
func (b *Browser) GroundFocus(ctx context.Context) (Grounded, error) {
	if err := b.leave(ctx); err != nil {
		return Grounded{}, err
	}
	return b.focused(ctx)
}

func (b *Browser) focused(ctx context.Context) (Grounded, error) {
	return b.settled(ctx, func(ctx context.Context, page *session) (Grounded, error) {
		g, _, err := b.groundFocus(ctx, page, nil)
		return g, err
	})
}

// settled runs find on the current page, once more if a document was replaced
// in the middle.
func (b *Browser) settled(ctx context.Context, find func(context.Context, *session) (Grounded, error)) (Grounded, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	var g Grounded
	var err error
	for range 5 {
		page, err := b.current(ctx)
		if err != nil {
			return Grounded{}, err
		}
		if g, err = find(ctx, page); err == nil {
			return g, nil
		}
		if !protocol(err) {
			return Grounded{}, err
		}
	}
	return g, err
}

func (b *Browser) groundPoint(ctx context.Context, page *session, x, y float64, spec *armSpec) (Grounded, place, error) {
	p, why, err := b.locate(ctx, page, x, y)
	if err != nil {
		return Grounded{}, p, err
	}
	g := Grounded{X: x, Y: y, Page: page.target}
	if why != "" {
		return b.blind(g, p, why)
	}
	raw, err := b.on(ctx, p, "ground", spec)
	if err == nil && string(raw) == "null" {
		// A pseudo-element (::before) is a node to the protocol and nothing to
		// script. The element that it belongs to gets the events.
		if why, err = b.owner(ctx, &p); err == nil && why == "" {
			raw, err = b.on(ctx, p, "ground", spec)
		}
	}
	if err == nil && why == "" && bytes.Contains(raw, []byte(`"bare":true`)) {
		why, err = b.closedAround(ctx, p)
	}
	if p.object != "" {
		b.conn.send(p.session.id, "Runtime.releaseObject", obj{"objectId": p.object})
	}
	if err != nil {
		return g, p, err
	}
	if why != "" {
		return b.blind(g, p, why)
	}
	return b.grounded(g, p, raw)
}

// closedAround finds closed shadow roots around an element that nothing acts
// for. What is put into a slot of one acts for what the slot is in, a submit
// button say, and neither the element nor an event tells.
func (b *Browser) closedAround(ctx context.Context, p place) (string, error) {
	list, err := b.conn.eval(ctx, p.session.id, "Runtime.callFunctionOn", obj{
		"functionDeclaration": "function(){return globalThis[" + quote(b.guard.key) + "].hosts(this)}", "objectId": p.object})
	if err != nil {
		return "", err
	}
	var r struct {
		Result []struct {
			Name  string `json:"name"`
			Value remote `json:"value"`
		} `json:"result"`
	}
	if err := b.conn.call(ctx, p.session.id, "Runtime.getProperties", obj{"objectId": list.ObjectID, "ownProperties": true}, &r); err != nil {
		return "", err
	}
	var calls []*call
	for _, x := range r.Result {
		if x.Value.Subtype == "node" {
			calls = append(calls, b.conn.send(p.session.id, "DOM.describeNode", obj{"objectId": x.Value.ObjectID}))
		}
	}
	b.conn.send(p.session.id, "Runtime.releaseObject", obj{"objectId": list.ObjectID})
	for _, k := range calls {
		var d described
		if err := k.get(ctx, &d); err != nil {
			return "", err
		}
		for _, s := range d.Node.Shadow {
			if s.Type == "closed" {
				return "closed_shadow_slot", nil
			}
		}
	}
	return "", nil
}

// owner replaces the node of p by the element that script finds at its point.
func (b *Browser) owner(ctx context.Context, p *place) (string, error) {
	x, y := p.x, p.y
	if parent, ok := p.tree.parent(p.frame.ID); ok {
		var o struct {
			Backend int `json:"backendNodeId"`
		}
		if err := b.conn.call(ctx, p.session.id, "DOM.getFrameOwner", obj{"frameId": p.frame.ID}, &o); err != nil {
			return "", err
		}
		outer := *p
		outer.frame, outer.backend = parent, o.Backend
		var why string
		var err error
		if x, y, why, err = b.intoFrame(ctx, outer, x, y); err != nil || why != "" {
			return why, err
		}
	}
	r, err := b.inWorld(ctx, p.session.id, p.frame.ID, fmt.Sprintf("at(%v,%v)", x, y))
	p.object = r.ObjectID
	if err == nil && r.ObjectID == "" {
		return "no_element", nil
	}
	return "", err
}

// blind is the answer where there is nothing to inspect and nothing to arm.
func (b *Browser) blind(g Grounded, p place, why string) (Grounded, place, error) {
	p.object = ""
	g.Element = action.Element{FrameOrigin: p.top.origin(), TopOrigin: p.top.origin(), URL: p.top.URL, Uninspectable: why}
	g.Frame, g.Loader = p.top.ID, p.top.Loader
	d, err := canon.DigestOf(obj{"page": g.Page, "loader": g.Loader, "x": g.X, "y": g.Y, "why": why})
	g.Fingerprint = d
	return g, p, err
}

func (b *Browser) grounded(g Grounded, p place, raw jsontext.Value) (Grounded, place, error) {
	if string(raw) == "null" {
		return b.blind(g, p, "no_element")
	}
	var f facts
	if err := json.Unmarshal(raw, &f, lax); err != nil {
		return g, p, fmt.Errorf("facts of an element: %w", err)
	}
	origin := p.frame.origin()
	switch {
	case strings.HasPrefix(f.URL, "about:"): // about:blank and about:srcdoc have the origin of who made them
		origin = f.Origin
	case f.Origin != origin: // a sandboxed frame shows its address, and has no origin
		origin = "null"
	}
	top := p.top.origin()
	if p.frame.ID == p.top.ID {
		top = origin
	}
	g.Element = action.Element{
		FrameOrigin: origin, TopOrigin: top, Frames: p.frames(origin), Frame: p.frame.ID, URL: f.URL, Tag: f.Tag,
		Role: clip(f.Role, 40), Name: clip(f.Name, 120), Text: clip(f.Text, 120), Doubts: strings.Join(doubts(f), " "),
		Link: f.Link, FormAction: f.Action, FormMethod: strings.ToUpper(f.Method), Window: clip(f.Window, 40), InputType: f.Type, Uninspectable: f.Blind,
	}
	if why := foreign(f.URL); why != "" {
		g.Element.Uninspectable = why
	}
	g.Frame, g.Loader, g.Rect, g.Editable = p.frame.ID, p.frame.Loader, f.Rect, f.Editable
	var rect [4]int64
	for i, v := range f.Rect {
		rect[i] = int64(math.Round(max(-1e9, min(1e9, v))))
	}
	// Node and Submit are the guard's own numbers of the nodes in this
	// document: they name the actionable element, where Chromium's number
	// would name whatever happens to be drawn on it.
	d, err := canon.DigestOf(obj{
		"page": g.Page, "frame": g.Frame, "loader": g.Loader, "node": f.Node, "submit": f.Submit, "origin": origin, "top": top,
		"topLoader": p.top.Loader, "url": f.URL, "tag": f.Tag, "link": f.Link, "action": f.Action, "method": f.Method, "type": f.Type, "says": f.Says,
		"window": f.Window,
		"rect":   rect, "keyboard": g.Keyboard, "uninspectable": g.Element.Uninspectable})
	g.Fingerprint = d
	return g, p, err
}

// foreign says why a document of this address is not the application's.
func foreign(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "address_unreadable"
	}
	switch u.Scheme {
	case "http", "https", "about", "data", "blob":
		return ""
	}
	return "browser_page"
}

// locate finds the node at a point, through frames with their own process.
func (b *Browser) locate(ctx context.Context, page *session, x, y float64) (place, string, error) {
	p := place{session: page}
	for hop := range maxHops {
		s := p.session
		metrics, tree := b.conn.send(s.id, "Page.getLayoutMetrics", nil), b.conn.send(s.id, "Page.getFrameTree", nil)
		var lm struct {
			Viewport struct {
				X float64 `json:"pageX"`
				Y float64 `json:"pageY"`
			} `json:"cssVisualViewport"`
		}
		if err := metrics.get(ctx, &lm); err != nil {
			return p, "", err
		}
		var ta treeAnswer
		if err := tree.get(ctx, &ta); err != nil {
			return p, "", err
		}
		if hop == 0 {
			p.top = ta.Tree.Frame
		}
		// The method wants whole pixels of the document, not of the viewport.
		var n struct {
			Backend int    `json:"backendNodeId"`
			Frame   string `json:"frameId"`
		}
		err := b.conn.call(ctx, s.id, "DOM.getNodeForLocation", obj{"x": int(math.Floor(x + lm.Viewport.X)), "y": int(math.Floor(y + lm.Viewport.Y)),
			"includeUserAgentShadowDOM": false, "ignorePointerEventsNone": false}, &n)
		if pe := (*protocolError)(nil); errors.As(err, &pe) && strings.Contains(pe.Message, "No node found") {
			return p, "no_node", nil
		}
		if err != nil {
			return p, "", err
		}
		f, ok := ta.Tree.find(n.Frame)
		if !ok {
			return p, "", &protocolError{method: "Page.getFrameTree", Message: "the frame left"}
		}
		p.frame, p.backend, p.tree, p.x, p.y = f, n.Backend, ta.Tree, x, y
		child, err := b.childAt(ctx, page, p)
		if err != nil {
			return p, "", err
		}
		if child == nil {
			p.object, err = b.resolve(ctx, p, n.Backend)
			return p, "", err
		}
		if err := b.usable(ctx, child); err != nil {
			return p, "", err
		}
		var why string
		if x, y, why, err = b.intoFrame(ctx, p, x, y); why != "" || err != nil {
			return p, why, err
		}
		p.above, p.session = append(p.above, ta.Tree.origins(n.Frame)...), child
	}
	return p, "frames_too_deep", nil
}

// childAt is the session of the frame that the found node owns, if it lives in
// its own process.
func (b *Browser) childAt(ctx context.Context, page *session, p place) (*session, error) {
	b.mu.Lock()
	any := false
	for _, s := range b.sessions {
		any = any || s.kind == "iframe"
	}
	b.mu.Unlock()
	if !any {
		return nil, nil
	}
	var d described
	if err := b.conn.call(ctx, p.session.id, "DOM.describeNode", obj{"backendNodeId": p.backend}, &d); err != nil {
		return nil, err
	}
	if d.Node.FrameID == "" || d.Node.FrameID == p.frame.ID {
		return nil, nil
	}
	return b.frameSession(page, d.Node.FrameID), nil
}

type described struct {
	Node struct {
		Backend int    `json:"backendNodeId"`
		Name    string `json:"nodeName"`
		FrameID string `json:"frameId"`
		Shadow  []struct {
			Backend int    `json:"backendNodeId"`
			Type    string `json:"shadowRootType"`
		} `json:"shadowRoots"`
	} `json:"node"`
}

func (b *Browser) resolve(ctx context.Context, p place, backend int) (string, error) {
	w, err := b.world(ctx, p.session.id, p.frame.ID)
	if err != nil {
		return "", err
	}
	var r struct {
		Object remote `json:"object"`
	}
	err = b.conn.call(ctx, p.session.id, "DOM.resolveNode", obj{"backendNodeId": backend, "executionContextId": w}, &r)
	return r.Object.ObjectID, err
}

func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
