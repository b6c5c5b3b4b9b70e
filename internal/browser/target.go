package browser

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	maxPages    = 8   // pages open at once; one more is closed as it opens
	maxLoaders  = 16  // documents of a page that are told apart
	maxSessions = 512 // frames with their own process, and workers, of all pages
)

// session is one attached target: a page, a frame with its own process, a worker.
type session struct {
	id, target, kind string
	parent           *session // nil for pages
	ready            chan struct{}
	err              error // set before ready is closed: why no input may go there

	// guarded by Browser.mu
	worlds    map[string]int // frame id -> execution context of the guard's world
	documents int            // counts the documents the main frame was given
	loaders   []string       // of the last of them, the newest at the end
	loaded    int            // which of them was loaded last
	crashed   bool
	crashes   int
	refusal   string // the load of its document that the egress door answered
	refused   bool   // such a document, or an error, is shown
	gone      chan struct{}

	info jsontext.Value // TargetInfo as it was when it was attached; never changed
}

// hasLoaded reports whether the document of a loader, or one that took its place, has
// loaded. Needs Browser.mu.
func (s *session) hasLoaded(loader string) bool {
	i := slices.Index(s.loaders, loader)
	return i >= 0 && s.loaded > s.documents-len(s.loaders)+i
}

func (s *session) page() *session {
	for s.parent != nil {
		s = s.parent
	}
	return s
}

func (s *session) under(o *session) bool {
	for p := s.parent; p != nil; p = p.parent {
		if p == o {
			return true
		}
	}
	return false
}

// guarded says whether documents live in the target.
func (s *session) guarded() bool { return s.kind == "page" || s.kind == "iframe" }

var (
	autoAttach = obj{"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true}
	// Pages are attached from the root only: a pop-up must have one session,
	// since two guards in one document would block each other.
	autoAttachInner = obj{"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true,
		"filter": []obj{{"type": "page", "exclude": true}, {"type": "browser", "exclude": true}, {"type": "tab", "exclude": true}, {}}}
)

// event is called by the reader for every event, in order. It must not wait.
func (b *Browser) event(m message) {
	if c := b.client.Load(); c != nil && c.event(m) {
		return
	}
	var err error
	switch m.method {
	case "Target.attachedToTarget":
		err = b.onAttached(m)
	case "Target.detachedFromTarget":
		err = b.onDetached(m)
	case "Target.targetCrashed", "Inspector.targetCrashed":
		err = b.onCrashed(m)
	case "Runtime.executionContextCreated":
		err = b.onWorld(m)
	case "Runtime.executionContextDestroyed":
		err = b.onWorldGone(m)
	case "Runtime.executionContextsCleared":
		b.mu.Lock()
		s := b.sessions[m.session]
		if s != nil {
			clear(s.worlds)
		}
		b.mu.Unlock()
		if c := b.client.Load(); c != nil && s != nil {
			c.forget(s.target, 0)
		}
	case "Runtime.bindingCalled":
		err = b.onReport(m)
	case "Page.documentOpened":
		err = b.onDocumentOpened(m)
	case "Page.javascriptDialogOpening":
		err = b.onDialog(m)
	case "Page.frameNavigated":
		err = b.onNavigated(m)
	case "Page.loadEventFired":
		b.mu.Lock()
		if s := b.sessions[m.session]; s != nil {
			s.loaded = s.documents
			b.changed()
		}
		b.mu.Unlock()
	case "Network.requestWillBeSent":
		err = b.onRequest(m)
	case "Network.responseReceived":
		err = b.onResponse(m)
	case "Input.dragIntercepted":
		err = b.onDrag(m)
	case "Browser.downloadWillBegin", "Browser.downloadProgress":
		if c := b.client.Load(); c != nil {
			c.on.Event(0, m.method, m.params)
		}
	}
	if err != nil { // an event that cannot be read leaves our picture wrong: stop
		b.conn.close(fmt.Errorf("event %s: %w", m.method, err))
	}
}

func (b *Browser) onAttached(m message) error {
	var p struct {
		SessionID string         `json:"sessionId"`
		Info      jsontext.Value `json:"targetInfo"`
		Waiting   bool           `json:"waitingForDebugger"`
	}
	var info struct {
		TargetID string `json:"targetId"`
		Type     string `json:"type"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	if err := json.Unmarshal(p.Info, &info, lax); err != nil {
		return err
	}
	if info.Type == "browser" { // the session of a client, which its owner asked for
		return nil
	}
	s := &session{id: p.SessionID, target: info.TargetID, kind: info.Type, worlds: map[string]int{},
		ready: make(chan struct{}), gone: make(chan struct{}), info: p.Info}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.parent = b.sessions[m.session]; s.parent == nil && m.session != "" {
		return nil // under a session that is gone, or that was a client's
	}
	if len(b.sessions) >= maxSessions {
		return errors.New("too many targets")
	}
	b.sessions[s.id] = s
	if s.kind == "page" {
		if len(b.pages) >= maxPages {
			go func() { // a paused page holds up the page that opened it, so it runs before it goes
				b.prepare(s)
				b.conn.send("", "Target.closeTarget", obj{"targetId": s.target})
			}()
			return nil
		}
		b.pages = append(b.pages, s)
	}
	b.changed()
	go b.prepare(s)
	return nil
}

// prepare puts the guard into a target and only then lets it run. All requests
// are sent before the first answer is awaited: a paused target answers some of
// them only when it runs, and the order on the pipe is the order of effect.
func (b *Browser) prepare(s *session) {
	ctx, cancel := context.WithTimeout(context.Background(), stepLimit)
	defer cancel()
	defer close(s.ready)
	var calls []*call
	send := func(method string, params any) { calls = append(calls, b.conn.send(s.id, method, params)) }
	if s.guarded() {
		send("Runtime.enable", nil)
		send("Runtime.addBinding", obj{"name": b.guard.report, "executionContextName": b.guard.world})
		send("Page.enable", nil)
		send("DOM.enable", nil)
		// Who sends what; answers are not kept.
		send("Network.enable", obj{"maxTotalBufferSize": 0, "maxResourceBufferSize": 0, "maxPostDataSize": maxTold})
		send("Page.addScriptToEvaluateOnNewDocument", obj{"source": b.guard.source, "worldName": b.guard.world, "runImmediately": true})
	}
	if s.kind == "page" {
		send("Page.setInterceptFileChooserDialog", obj{"enabled": true})
		send("Emulation.setDeviceMetricsOverride", obj{"width": b.cfg.Width, "height": b.cfg.Height, "deviceScaleFactor": 1, "mobile": false})
		send("Emulation.setFocusEmulationEnabled", obj{"enabled": true})
		send("Page.bringToFront", nil)
	}
	send("Target.setAutoAttach", autoAttachInner)
	b.letSee(s)
	send("Runtime.runIfWaitingForDebugger", nil)
	for _, k := range calls {
		if err := k.get(ctx, nil); err != nil && s.guarded() {
			s.err = errors.Join(s.err, err)
		}
	}
	if s.err == nil {
		return
	}
	select {
	case <-s.gone: // a target may leave while it is being prepared
	case <-b.conn.done:
	default:
		slog.Warn("browser target without a guard takes no input", "kind", s.kind, "error", s.err)
	}
}

func (b *Browser) onDetached(m message) error {
	var p struct {
		SessionID string `json:"sessionId"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[p.SessionID]
	if s == nil {
		return nil
	}
	for id, c := range b.sessions { // what lived in it goes without its own event
		if c == s || c.under(s) {
			delete(b.sessions, id)
			close(c.gone)
		}
	}
	if i := slices.Index(b.pages, s); i >= 0 {
		b.pages = slices.Delete(b.pages, i, i+1)
		if n := len(b.pages); n > 0 && i == n {
			go b.conn.send(b.pages[n-1].id, "Page.bringToFront", nil)
		}
	}
	b.changed()
	return nil
}

func (b *Browser) onCrashed(m message) error {
	var p struct {
		TargetID string `json:"targetId"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sessions {
		if s.id == m.session || p.TargetID != "" && s.target == p.TargetID {
			s.crashed, s.crashes = true, s.crashes+1
			clear(s.worlds)
		}
	}
	b.changed()
	return nil
}

func (b *Browser) onWorld(m message) error {
	var p struct {
		Context struct {
			ID   int    `json:"id"`
			Name string `json:"name"`
			Aux  struct {
				FrameID string `json:"frameId"`
			} `json:"auxData"`
		} `json:"context"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	if p.Context.Name != b.guard.world {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[m.session]; s != nil {
		s.worlds[p.Context.Aux.FrameID] = p.Context.ID
		s.crashed = false
	}
	return nil
}

func (b *Browser) onWorldGone(m message) error {
	var p struct {
		ID int `json:"executionContextId"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	b.mu.Lock()
	s := b.sessions[m.session]
	if s != nil {
		for f, id := range s.worlds {
			if id == p.ID {
				delete(s.worlds, f)
			}
		}
	}
	b.mu.Unlock()
	if c := b.client.Load(); c != nil && s != nil {
		c.forget(s.target, int64(p.ID))
	}
	return nil
}

func (b *Browser) onNavigated(m message) error {
	var p struct {
		Frame struct {
			Parent      string `json:"parentId"`
			Loader      string `json:"loaderId"`
			Unreachable string `json:"unreachableUrl"`
		} `json:"frame"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[m.session]; s != nil && p.Frame.Parent == "" {
		s.documents++
		s.loaders = append(s.loaders[max(0, len(s.loaders)-maxLoaders+1):], p.Frame.Loader)
		s.refused = p.Frame.Unreachable != "" || s.refusal != "" && s.refusal == p.Frame.Loader
		b.changed()
	}
	return nil
}

// changed wakes everyone who waits for the picture to change. Needs b.mu.
func (b *Browser) changed() {
	close(b.change)
	b.change = make(chan struct{})
}

// await waits until ok, called with b.mu held, says true.
func (b *Browser) await(ctx context.Context, ok func() bool) error {
	for {
		b.mu.Lock()
		done, ch := ok(), b.change
		b.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		case <-b.conn.done:
			return b.conn.cause()
		}
	}
}

// current is the page that is shown: the one opened last that is still open.
func (b *Browser) current(ctx context.Context) (*session, error) {
	b.mu.Lock()
	if len(b.pages) == 0 {
		b.mu.Unlock()
		return nil, ErrNoPage
	}
	s := b.pages[len(b.pages)-1]
	crashed := s.crashed
	b.mu.Unlock()
	if crashed {
		return s, ErrCrashed
	}
	return s, b.usable(ctx, s)
}

// usable waits until the guard is in s.
func (b *Browser) usable(ctx context.Context, s *session) error {
	select {
	case <-s.ready:
	case <-s.gone:
		return ErrMoved
	case <-ctx.Done():
		return ctx.Err()
	case <-b.conn.done:
		return b.conn.cause()
	}
	if s.err != nil {
		return fmt.Errorf("%w: %w", ErrGuard, s.err)
	}
	return nil
}

func (b *Browser) isCurrent(s *session) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pages) > 0 && b.pages[len(b.pages)-1] == s
}

// frameSession is the session of a frame with its own process, under page.
func (b *Browser) frameSession(page *session, frame string) *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sessions {
		if s.kind == "iframe" && s.target == frame && s.page() == page {
			return s
		}
	}
	return nil
}

// leave closes the page in front if it is a pop-up that could not be opened, so
// that what its opener shows is not out of reach for good. It returns ErrLeft if
// it did.
func (b *Browser) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	b.mu.Lock()
	n := len(b.pages)
	if n < 2 || !b.pages[n-1].refused && !b.pages[n-1].crashed {
		b.mu.Unlock()
		return nil
	}
	s := b.pages[n-1]
	b.mu.Unlock()
	if err := b.conn.call(ctx, "", "Target.closeTarget", obj{"targetId": s.target}, nil); err != nil && !protocol(err) {
		return err
	}
	select {
	case <-s.gone:
		return ErrLeft
	case <-ctx.Done():
		return ctx.Err()
	case <-b.conn.done:
		return b.conn.cause()
	}
}
