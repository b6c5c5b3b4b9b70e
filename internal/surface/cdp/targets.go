package cdp

import (
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// target is a target that the client may know. A page has a tab above it, as
// in a full Chromium: Puppeteer attaches to tabs and finds their pages.
type target struct {
	id, kind string
	parent   string // target that holds a frame or worker
	page     *target
	tab      *target // of a page
	info     map[string]any
	waiting  bool // paused until the client lets it run
	dead     bool
}

// filter is a Target.TargetFilter: the first entry that fits decides.
type filter []struct {
	Type    string `json:"type"`
	Exclude bool   `json:"exclude"`
}

// defaultFilter is the protocol's own.
var defaultFilter = filter{{Type: "browser", Exclude: true}, {Type: "tab", Exclude: true}, {}}

func (f filter) wants(kind string) bool {
	for _, e := range f {
		if e.Type == "" || e.Type == kind {
			return !e.Exclude
		}
	}
	return false
}

// autoAttach is what Target.setAutoAttach asked for on one session.
type autoAttach struct {
	on, wait bool
	filter   filter
}

const (
	maxPages    = 8 // the browser closes one more as it opens
	maxContexts = 16
)

// onTarget follows the browser's targets.
func (c *client) onTarget(state, id, parent string, raw []byte, waiting bool) {
	t := c.targets[id]
	switch state {
	case "created":
		if t != nil {
			return
		}
		t = &target{id: id, parent: parent, waiting: waiting}
		if !c.describe(t, raw) {
			c.up.Resume(id)
			return
		}
		c.targets[id], c.order = t, append(c.order, id)
		c.appear(t)
	case "changed":
		if t != nil && c.describe(t, raw) {
			for _, x := range []*target{t, t.tab} {
				if x != nil {
					c.tell(x, "Target.targetInfoChanged", map[string]any{"targetInfo": c.infoOf(x)})
				}
			}
		}
	case "crashed":
		if t != nil {
			c.tell(t, "Target.targetCrashed", map[string]any{"targetId": id, "status": "crashed", "errorCode": 1})
		}
	case "destroyed":
		if t != nil {
			c.vanish(t)
		}
	}
}

// describe reads a TargetInfo. It reports false for what no client is told of.
func (c *client) describe(t *target, raw []byte) bool {
	var info map[string]any
	if json.Unmarshal(raw, &info, lax) != nil {
		return false
	}
	kind, _ := info["type"].(string)
	switch kind {
	case "page", "iframe", "worker", "shared_worker", "service_worker":
	default:
		return false
	}
	t.kind, t.info = kind, info
	if context, _ := info["browserContextId"].(string); context != "" {
		info["browserContextId"] = c.aliasOf(context)
	}
	for _, name := range []string{"openerId", "openerFrameId", "parentFrameId"} {
		if v, ok := info[name].(string); ok && name == "openerId" && c.targets[v] == nil {
			delete(info, name)
		}
	}
	if kind == "page" && t.tab == nil {
		t.tab = &target{id: hexID(), kind: "tab", page: t}
	}
	return true
}

// aliasOf is our name of a context of the browser.
func (c *client) aliasOf(real string) string {
	if c.alias[real] == "" {
		a := hexID()
		c.alias[real], c.contexts[a] = a, real
	}
	return c.alias[real]
}

// infoOf is the TargetInfo as the client sees it.
func (c *client) infoOf(t *target) map[string]any {
	src := t
	if t.page != nil {
		src = t.page
	}
	out := map[string]any{}
	for _, name := range []string{"title", "url", "openerId", "canAccessOpener", "openerFrameId", "parentFrameId", "browserContextId"} {
		if v, ok := src.info[name]; ok {
			out[name] = v
		}
	}
	out["targetId"], out["type"] = t.id, t.kind
	if v, ok := out["openerId"].(string); ok && t.page != nil { // a tab was opened by a tab
		delete(out, "openerId")
		if o := c.targets[v]; o != nil && o.tab != nil {
			out["openerId"] = o.tab.id
		}
	}
	attached := t == c.self
	for _, s := range c.sessions {
		attached = attached || s.target == t
	}
	out["attached"] = attached
	if out["canAccessOpener"] == nil {
		out["canAccessOpener"] = false
	}
	return out
}

// tell reports to a client that discovers targets.
func (c *client) tell(t *target, method string, params map[string]any) {
	if c.discover != nil && c.discover.wants(t.kind) {
		c.emit(nil, method, toJSON(params))
	}
}

// appear tells of a new target and attaches where the client asked for it.
func (c *client) appear(t *target) {
	if t.tab != nil {
		c.tell(t.tab, "Target.targetCreated", map[string]any{"targetInfo": c.infoOf(t.tab)})
	}
	c.tell(t, "Target.targetCreated", map[string]any{"targetInfo": c.infoOf(t)})
	attaching := false
	attach := func(from *session, a autoAttach, x *target) {
		if a.on && a.filter.wants(x.kind) {
			attaching = attaching || a.wait && !c.muted.Load() // who hears nothing keeps nothing waiting
			c.attach(x, from, t.waiting && a.wait, nil)
		}
	}
	if t.kind == "page" || t.kind == "service_worker" || t.kind == "shared_worker" {
		attach(nil, c.root, t)
		if t.tab != nil {
			attach(nil, c.root, t.tab)
		}
	} else {
		for _, s := range c.sessionsOf(c.targets[t.parent]) {
			attach(s, s.auto, t)
		}
	}
	if !attaching && t.waiting {
		t.waiting = false
		c.up.Resume(t.id)
	}
	c.met(t.id)
}

// met runs what waited for the target.
func (c *client) met(id string) {
	waiting := c.expect[id]
	delete(c.expect, id)
	for _, f := range waiting {
		f()
	}
}

func (c *client) sessionsOf(t *target) []*session {
	var out []*session
	for _, id := range sortedKeys(c.sessions) {
		if s := c.sessions[id]; t != nil && s.target == t {
			out = append(out, s)
		}
	}
	return out
}

// attach makes a session and tells of it before then runs. A tab needs none of
// the browser's.
func (c *client) attach(t *target, from *session, waiting bool, then func(*session)) {
	if then == nil {
		then = func(*session) {}
	}
	if len(c.sessions) >= maxSessions || t.dead {
		then(nil)
		return
	}
	if t.page != nil || t == c.self {
		then(c.attached(t, from, 0, waiting))
		return
	}
	c.up.Attach(t.id, func(n int, err error) {
		c.post(func() {
			switch {
			case err != nil:
				if t.waiting {
					t.waiting = false
					c.up.Resume(t.id)
				}
				then(nil)
			case t.dead || from != nil && c.sessions[from.id] == nil:
				c.up.Detach(n)
				then(nil)
			default:
				then(c.attached(t, from, n, waiting && t.waiting))
			}
		})
	})
}

func (c *client) attached(t *target, from *session, n int, waiting bool) *session {
	s := &session{id: hexID(), number: n, target: t, parent: from}
	c.sessions[s.id] = s
	if n != 0 {
		c.byNumber[n] = s
	}
	c.emit(from, "Target.attachedToTarget", toJSON(map[string]any{"sessionId": s.id, "targetInfo": c.infoOf(t), "waitingForDebugger": waiting}))
	c.tell(t, "Target.targetInfoChanged", map[string]any{"targetInfo": c.infoOf(t)})
	return s
}

// drop ends a session in the client's eyes, with what was attached from it.
func (c *client) drop(s *session) {
	if c.sessions[s.id] == nil {
		return
	}
	delete(c.sessions, s.id)
	delete(c.dialogs, s)
	if s.number != 0 {
		delete(c.byNumber, s.number)
	}
	for _, id := range sortedKeys(c.sessions) {
		if o := c.sessions[id]; o != nil && o.parent == s {
			c.drop(o)
			if o.number != 0 {
				c.up.Detach(o.number)
			}
		}
	}
	c.emit(s.parent, "Target.detachedFromTarget", toJSON(map[string]any{"sessionId": s.id, "targetId": s.target.id}))
}

// vanish takes a target away.
func (c *client) vanish(t *target) {
	t.dead = true
	delete(c.targets, t.id)
	for i, id := range c.order {
		if id == t.id {
			c.order = append(c.order[:i:i], c.order[i+1:]...)
			break
		}
	}
	for _, x := range []*target{t, t.tab} {
		if x == nil {
			continue
		}
		x.dead = true
		for _, s := range c.sessionsOf(x) {
			c.drop(s)
		}
		c.tell(x, "Target.targetDestroyed", map[string]any{"targetId": x.id})
	}
	c.met(t.id)
}

// onDetached hears that the browser ended a session.
func (c *client) onDetached(n int) {
	if s := c.byNumber[n]; s != nil {
		c.drop(s)
	}
}

// find is a target by its id, tabs too.
func (c *client) find(id string) *target {
	if t := c.targets[id]; t != nil {
		return t
	}
	if id == c.self.id {
		return c.self
	}
	for _, t := range c.targets {
		if t.tab != nil && t.tab.id == id {
			return t.tab
		}
	}
	return nil
}

// pages counts the pages that are open.
func (c *client) pages() int {
	n := 0
	for _, t := range c.targets {
		if t.kind == "page" {
			n++
		}
	}
	return n
}

// address accepts what a client may open: http, https and the empty page.
func address(raw string) bool {
	if raw == "about:blank" || raw == "" {
		return true
	}
	l := strings.ToLower(raw)
	return (strings.HasPrefix(l, "http://") || strings.HasPrefix(l, "https://")) &&
		!strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' })
}

// into reads params into v. Members that the table lets through and v does not
// name have no effect.
func into(params jsontext.Value, v any) bool { return json.Unmarshal(params, v) == nil }
