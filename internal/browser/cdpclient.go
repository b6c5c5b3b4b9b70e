package browser

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	// pauseLimit is how long a client may keep a new target from running.
	pauseLimit = 5 * time.Second
	// maxAttached bounds the sessions of one client.
	maxAttached = 256
)

// ErrClient says that another client of the protocol is connected.
var ErrClient = errors.New("another client is connected to this browser")

// ClientEvents are what a client of the protocol hears. They are called one at
// a time for one session, in the browser's order, and must not wait: the
// reader of the pipe calls them.
type ClientEvents struct {
	// Target tells of a target that has its guard: state is created, changed,
	// crashed or destroyed, parent the target that holds a frame or a worker,
	// info its TargetInfo. waiting says that it runs only after Resume.
	Target   func(state, target, parent string, info []byte, waiting bool)
	Event    func(session int, method string, params []byte) // session 0: the browser
	Detached func(session int)
	Closed   func(err error) // the browser ended
}

// Client is the view of one client of the protocol on the browser: sessions
// of its own beside the guard's, on the same pipe. The client names sessions by
// numbers and never sees the browser's own names of them.
//
// Invariants:
//   - A target is told of only when the orders that put the guard in it are on
//     the pipe before anything that the client can send; if the guard then
//     fails, the target is taken away again.
//   - The guard's world is invisible: its contexts are not reported, and a
//     context or object handle that was not reported to a session is refused
//     there.
//   - What the client may ask is not decided here, except by these rules: the
//     surface in front of it holds the table of methods.
type Client struct {
	b    *Browser
	on   ClientEvents
	root string // the browser's name of the client's own browser session
	done chan struct{}

	mu     sync.Mutex // guards the fields below; callbacks are made without it
	real   map[string]*clientSession
	byID   map[int]*clientSession
	next   int
	seen   map[string]jsontext.Value // TargetInfo by target, as last told
	shown  map[string]*shown
	asked  map[string][]func(int, error) // attaches on their way, by target
	closed bool

	// held is what the left button is down on, drag what a page drags. Owned
	// by the one action in flight.
	held *Grounded
	drag *dragData
}

type shown struct {
	s      *session
	resume chan struct{} // closed by Resume
	once   sync.Once
}

// clientSession is one session of the client.
type clientSession struct {
	id       int
	real     string
	target   string
	s        *session // the guard's session on the same target
	contexts map[int64]bool
	unique   map[string]bool
	objects  map[string]bool // "isolate.context" of what it was given
	told     bool            // it hears of contexts
}

// OpenClient makes the browser's one client. It fails with ErrClient while
// another is open.
func (b *Browser) OpenClient(on ClientEvents) (*Client, error) {
	ctx, cancel := context.WithTimeout(b.life, stepLimit)
	defer cancel()
	c := &Client{b: b, on: on, done: make(chan struct{}), real: map[string]*clientSession{}, byID: map[int]*clientSession{},
		seen: map[string]jsontext.Value{}, shown: map[string]*shown{}, asked: map[string][]func(int, error){}}
	if !b.client.CompareAndSwap(nil, c) {
		return nil, ErrClient
	}
	var r struct {
		SessionID string `json:"sessionId"`
	}
	err := b.conn.call(ctx, "", "Target.attachToBrowserTarget", nil, &r)
	if err == nil {
		c.mu.Lock()
		c.root = r.SessionID
		c.mu.Unlock()
		err = b.conn.call(ctx, c.root, "Target.setDiscoverTargets", obj{"discover": true, "filter": []obj{{}}}, nil)
	}
	if err != nil {
		b.client.CompareAndSwap(c, nil)
		return nil, fmt.Errorf("open a client session: %w", err)
	}
	c.adopt()
	go func() {
		select {
		case <-b.conn.done:
			c.on.Closed(b.conn.cause())
		case <-c.done:
		}
	}()
	return c, nil
}

// adopt shows what is there already, pages in the order of their opening.
func (c *Client) adopt() {
	c.b.mu.Lock()
	all := append([]*session(nil), c.b.pages...)
	for _, s := range c.b.sessions {
		if s.kind != "page" {
			all = append(all, s)
		}
	}
	c.b.mu.Unlock()
	for _, s := range all {
		select {
		case <-s.ready:
			c.show(s, false)
		default:
			go func() {
				select {
				case <-s.ready:
					c.show(s, false)
				case <-c.done:
				}
			}()
		}
	}
}

// Close ends every session of the client and lets go of what it paused. The
// contexts that it made go with its session.
func (c *Client) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	close(c.done)
	for _, h := range c.shown {
		h.once.Do(func() { close(h.resume) })
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), stepLimit)
	defer cancel()
	// Waited for, so that a client which comes next meets nothing of this one.
	c.b.conn.call(ctx, "", "Target.detachFromTarget", obj{"sessionId": c.root}, nil)
	c.b.client.CompareAndSwap(c, nil)
}

// letSee shows a target to the client, if there is one, and waits while it
// keeps the target from running.
func (b *Browser) letSee(s *session) {
	c := b.client.Load()
	if c == nil || s.kind == "page" && !b.isPage(s) {
		return
	}
	h := c.show(s, true)
	if h == nil {
		return
	}
	go func() {
		select {
		case <-s.ready:
			if s.err != nil {
				c.hide(s.target)
			}
		case <-c.done:
		}
	}()
	limit := time.NewTimer(pauseLimit)
	defer limit.Stop()
	select {
	case <-h.resume:
	case <-limit.C:
	case <-s.gone:
	case <-c.done:
	case <-b.conn.done:
	}
}

func (b *Browser) isPage(s *session) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.pages {
		if p == s {
			return true
		}
	}
	return false
}

// show tells the client of a target, once.
func (c *Client) show(s *session, waiting bool) *shown {
	select {
	case <-s.ready:
		if s.err != nil {
			return nil
		}
	default:
	}
	c.mu.Lock()
	if c.closed || c.shown[s.target] != nil {
		c.mu.Unlock()
		return nil
	}
	h := &shown{s: s, resume: make(chan struct{})}
	c.shown[s.target] = h
	info := c.seen[s.target]
	if info == nil {
		info = s.info
	}
	c.mu.Unlock()
	parent := ""
	if s.parent != nil {
		parent = s.parent.target
	}
	c.on.Target("created", s.target, parent, info, waiting)
	go func() { // workers are not among the targets that the browser tells of
		select {
		case <-s.gone:
			c.hide(s.target)
		case <-c.done:
		}
	}()
	return h
}

// hide takes a target away from the client.
func (c *Client) hide(target string) {
	c.mu.Lock()
	h := c.shown[target]
	if h == nil || c.closed {
		c.mu.Unlock()
		return
	}
	delete(c.shown, target)
	delete(c.seen, target)
	h.once.Do(func() { close(h.resume) })
	var gone []int
	for id, cs := range c.byID {
		if cs.target == target {
			gone = append(gone, id)
			delete(c.byID, id)
			delete(c.real, cs.real)
		}
	}
	asked := c.asked[target]
	delete(c.asked, target)
	c.mu.Unlock()
	for _, f := range asked {
		f(0, errTarget)
	}
	for _, id := range gone {
		c.on.Detached(id)
	}
	c.on.Target("destroyed", target, "", nil, false)
}

// Resume lets a target run that was shown as waiting.
func (c *Client) Resume(target string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.shown[target]; h != nil {
		h.once.Do(func() { close(h.resume) })
	}
}

var errTarget = &protocolError{method: "Target.attachToTarget", Code: -32602, Message: "No target with given id found"}

// Attach makes a session of the client on a target that it was told of. done
// is called in the order of events, before any event of the session.
func (c *Client) Attach(target string, done func(session int, err error)) {
	c.mu.Lock()
	h := c.shown[target]
	if h == nil || c.closed || len(c.byID) >= maxAttached {
		c.mu.Unlock()
		done(0, errTarget)
		return
	}
	c.asked[target] = append(c.asked[target], done)
	c.mu.Unlock()
	c.b.conn.sendTap(c.root, "Target.attachToTarget", jsontext.Value(`{"targetId":`+quote(target)+`,"flatten":true}`), func(m message) {
		if m.fault == nil { // the event came before and was the answer
			return
		}
		c.mu.Lock()
		asked := c.asked[target]
		delete(c.asked, target)
		c.mu.Unlock()
		for _, f := range asked {
			f(0, errTarget)
		}
	})
}

// Detach ends one session of the client.
func (c *Client) Detach(session int) {
	c.mu.Lock()
	cs := c.byID[session]
	c.mu.Unlock()
	if cs != nil {
		c.b.conn.send(c.root, "Target.detachFromTarget", obj{"sessionId": cs.real})
	}
}

// Send passes one request of the client to its session, 0 being its browser
// session. done is called in the order of events with the result or with the
// protocol's error object; it is not called if the browser ends. A screenshot is
// answered when it is done.
func (c *Client) Send(session int, method string, params []byte, done func(result, fault []byte)) {
	real := c.root
	if session != 0 {
		c.mu.Lock()
		cs := c.byID[session]
		var why string
		if cs == nil {
			why = "Session with given id not found."
		} else {
			real, why = cs.real, cs.refuse(method, params, c.b.guard)
			switch method {
			case "Runtime.enable":
				cs.told = true
			case "Runtime.disable":
				cs.told = false
				clear(cs.contexts)
				clear(cs.unique)
			}
		}
		c.mu.Unlock()
		if why == "" && method == "Page.captureScreenshot" && cs.s.kind == "page" {
			c.screenshot(cs, params, done)
			return
		}
		if why != "" {
			fault, _ := json.Marshal(obj{"code": -32000, "message": why})
			done(nil, fault)
			return
		}
	}
	c.b.conn.sendTap(real, method, params, func(m message) {
		switch {
		case m.fault != nil:
		case method == "Page.createIsolatedWorld", method == "Runtime.evaluate", method == "DOM.resolveNode":
			c.learn(session, m.result)
		case method == "Target.createBrowserContext":
			go c.deny(m, done)
			return
		}
		done(m.result, m.fault)
	})
}

// deny keeps downloads out of a new context, as they are of the first, before
// the client hears of it. The order is the guard's own: a client's would end
// with its session.
func (c *Client) deny(m message, done func(result, fault []byte)) {
	var p struct {
		ID string `json:"browserContextId"`
	}
	ctx, cancel := context.WithTimeout(c.b.life, stepLimit)
	defer cancel()
	err := json.Unmarshal(m.result, &p, lax)
	if err == nil {
		err = c.b.conn.call(ctx, "", "Browser.setDownloadBehavior", obj{"behavior": "deny", "browserContextId": p.ID, "eventsEnabled": true}, nil)
	}
	if err != nil {
		c.b.conn.send(c.root, "Target.disposeBrowserContext", obj{"browserContextId": p.ID})
		done(nil, []byte(`{"code":-32000,"message":"no context could be made"}`))
		return
	}
	done(m.result, nil)
}

// event takes an event that belongs to the client and reports whether it did.
func (c *Client) event(m message) bool {
	c.mu.Lock()
	cs, root := c.real[m.session], c.root
	c.mu.Unlock()
	switch {
	case root != "" && m.session == root:
		c.rootEvent(m)
	case cs != nil:
		if c.visible(cs, m) {
			c.on.Event(cs.id, m.method, m.params)
		}
	default:
		return false
	}
	return true
}

// rootEvent follows the browser's targets for the client.
func (c *Client) rootEvent(m message) {
	var p struct {
		SessionID string         `json:"sessionId"`
		TargetID  string         `json:"targetId"`
		Info      jsontext.Value `json:"targetInfo"`
	}
	var info struct {
		TargetID string `json:"targetId"`
	}
	if json.Unmarshal(m.params, &p, lax) != nil || p.Info != nil && json.Unmarshal(p.Info, &info, lax) != nil {
		return
	}
	switch m.method {
	case "Target.targetCreated", "Target.targetInfoChanged":
		c.mu.Lock()
		c.seen[info.TargetID] = p.Info
		known := c.shown[info.TargetID] != nil
		c.mu.Unlock()
		if known {
			c.on.Target("changed", info.TargetID, "", p.Info, false)
		}
	case "Target.targetDestroyed":
		c.hide(p.TargetID)
		c.mu.Lock()
		delete(c.seen, p.TargetID)
		c.mu.Unlock()
	case "Target.targetCrashed":
		c.mu.Lock()
		known := c.shown[p.TargetID] != nil
		c.mu.Unlock()
		if known {
			c.on.Target("crashed", p.TargetID, "", nil, false)
		}
	case "Target.attachedToTarget":
		c.attached(p.SessionID, info.TargetID)
	case "Target.detachedFromTarget":
		c.mu.Lock()
		cs := c.real[p.SessionID]
		if cs != nil {
			delete(c.real, p.SessionID)
			delete(c.byID, cs.id)
		}
		c.mu.Unlock()
		if cs != nil {
			c.on.Detached(cs.id)
		}
	}
}

// attached gives a new session to the oldest Attach that asked for it.
func (c *Client) attached(real, target string) {
	c.mu.Lock()
	h, asked := c.shown[target], c.asked[target]
	if h == nil || len(asked) == 0 {
		c.mu.Unlock()
		go c.b.conn.send(c.root, "Target.detachFromTarget", obj{"sessionId": real})
		return
	}
	if c.asked[target] = asked[1:]; len(asked) == 1 {
		delete(c.asked, target)
	}
	c.next++
	cs := &clientSession{id: c.next, real: real, target: target, s: h.s, contexts: map[int64]bool{}, unique: map[string]bool{},
		objects: map[string]bool{}}
	c.real[real], c.byID[cs.id] = cs, cs
	c.mu.Unlock()
	asked[0](cs.id, nil)
}
