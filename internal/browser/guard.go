package browser

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

//go:embed guard.js
var guardJS string

const (
	// armedFor is how long the guard lets an armed input through.
	armedFor = 1500 * time.Millisecond
	// seenLimit is how long a report may lag behind the browser's own answer.
	seenLimit = time.Second
	// maxFrames bounds the frames of one page that are swept before an input.
	maxFrames = 256
)

// guardNames are what the guard is called in one browser. They are random, so
// that nothing in a page can meet them by name.
type guardNames struct{ world, key, report, source string }

func newGuardNames() guardNames {
	g := guardNames{world: "w" + rand.Text(), key: "k" + rand.Text(), report: "r" + rand.Text()}
	g.source = strings.NewReplacer("%KEY%", g.key, "%REPORT%", g.report).Replace(guardJS)
	return g
}

// armSpec tells a guard what it is armed for. The element comes with the call.
type armSpec struct {
	Nonce string `json:"nonce"`
	MS    int    `json:"ms"`
	Mode  string `json:"mode"`  // pointer or key
	Down  bool   `json:"down"`  // the press belongs to the element
	Up    bool   `json:"up"`    // the release and the click belong to it
	Drag  bool   `json:"drag"`  // a click on a common ancestor is dropped silently
	Loose bool   `json:"loose"` // a key's release may arrive elsewhere
	Text  bool   `json:"text"`  // text is inserted: where it lands is checked at the last moment
}

// report is what a guard saw of a trusted event.
type report struct {
	Nonce string `json:"nonce"`
	Type  string `json:"type"`
	OK    bool   `json:"ok"`
}

// flight collects the reports of the one action in flight.
type flight struct {
	nonce   string
	reports []report // guarded by Browser.mu
}

func (b *Browser) onReport(m message) error {
	var p struct {
		Name    string `json:"name"`
		Payload string `json:"payload"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	if p.Name != b.guard.report {
		return nil
	}
	var r report
	if err := json.Unmarshal([]byte(p.Payload), &r, lax); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	// A guard that was not armed has no nonce; what it stopped while an action
	// was in flight was that action's input.
	if f := b.flight; f != nil && len(f.reports) < 256 && (r.Nonce == f.nonce || r.Nonce == "" && !r.OK) {
		f.reports = append(f.reports, r)
		b.changed()
	}
	return nil
}

// onDocumentOpened puts the listeners back: document.open() removes them.
func (b *Browser) onDocumentOpened(m message) error {
	var p struct {
		Frame struct {
			ID string `json:"id"`
		} `json:"frame"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	go func() {
		ctx, cancel := context.WithTimeout(b.life, stepLimit)
		defer cancel()
		if _, err := b.inWorld(ctx, m.session, p.Frame.ID, "register()"); err != nil {
			slog.Debug("put the guard back after document.open", "error", err)
		}
	}()
	return nil
}

// world is the execution context of the guard in a frame.
func (b *Browser) world(ctx context.Context, session, frame string) (int, error) {
	b.mu.Lock()
	id := 0
	if s := b.sessions[session]; s != nil {
		id = s.worlds[frame]
	}
	b.mu.Unlock()
	if id != 0 {
		return id, nil
	}
	var r struct {
		ID int `json:"executionContextId"`
	}
	err := b.conn.call(ctx, session, "Page.createIsolatedWorld", obj{"frameId": frame, "worldName": b.guard.world}, &r)
	return r.ID, err
}

// inWorld evaluates a member of the guard in a frame, putting the guard there
// first where it is missing.
func (b *Browser) inWorld(ctx context.Context, session, frame, expr string) (remote, error) {
	w, err := b.world(ctx, session, frame)
	if err != nil {
		return remote{}, err
	}
	return b.conn.eval(ctx, session, "Runtime.evaluate",
		obj{"expression": b.guard.source + ";" + b.guard.key + "." + expr, "contextId": w})
}

// remote is a value or handle in a page.
type remote struct {
	Type     string         `json:"type"`
	Subtype  string         `json:"subtype"`
	ObjectID string         `json:"objectId"`
	Value    jsontext.Value `json:"value"`
}

// errScript says that the guard's own code threw: never the page's fault, and
// nothing may be concluded.
var errScript = errors.New("guard script threw")

type evalAnswer struct {
	Result    remote         `json:"result"`
	Exception jsontext.Value `json:"exceptionDetails"`
}

func (c *conn) eval(ctx context.Context, session, method string, params obj) (remote, error) {
	var r evalAnswer
	if err := c.call(ctx, session, method, params, &r); err != nil {
		return remote{}, err
	}
	if r.Exception != nil {
		var d struct {
			Text      string `json:"text"`
			Exception struct {
				Description string `json:"description"`
			} `json:"exception"`
		}
		json.Unmarshal(r.Exception, &d, lax)
		return remote{}, fmt.Errorf("%w: %s %s", errScript, d.Text, clip(d.Exception.Description, 300))
	}
	return r.Result, nil
}

// place is a node as found: its session, its frame and a handle in the guard's world.
type place struct {
	session *session
	frame   frameInfo
	top     frameInfo
	backend int
	object  string
	tree    frameTree // of the session
	above   []string  // origins of the frames above those of the session
	x, y    float64   // in the session's viewport
}

// on calls a member of the guard with the node as first argument.
func (b *Browser) on(ctx context.Context, p place, member string, spec *armSpec) (jsontext.Value, error) {
	r, err := b.conn.eval(ctx, p.session.id, "Runtime.callFunctionOn", obj{
		"functionDeclaration": "function(s){" + "return globalThis[" + quote(b.guard.key) + "]." + member + "(this,s)}",
		"objectId":            p.object, "returnByValue": true, "arguments": []obj{{"value": spec}}})
	return r.Value, err
}

func quote(s string) string { b, _ := json.Marshal(s); return string(b) }

// sweep makes every other frame of the page deny, whatever its document did to
// its listeners, and waits until they all do. It asks the browser for the
// frames, since one that was never loaded (an empty iframe that a page wrote
// into) has had no document start to put a guard there. A frame that is gone
// needs nothing: the document that replaced it started with a guard.
func (b *Browser) sweep(ctx context.Context, page *session, spec armSpec) error {
	js, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	b.mu.Lock()
	var all []*session
	for _, s := range b.sessions {
		if s.guarded() && s.page() == page {
			all = append(all, s)
		}
	}
	b.mu.Unlock()
	trees := make([]*call, len(all))
	for i, s := range all {
		trees[i] = b.conn.send(s.id, "Page.getFrameTree", nil)
	}
	n := 0
	var calls []*call
	for i, s := range all {
		var ta treeAnswer
		if err := trees[i].get(ctx, &ta); err != nil {
			if protocol(err) {
				continue
			}
			return err
		}
		for id := range ta.Tree.ids() {
			if n++; n > maxFrames {
				return fmt.Errorf("%w: more than %d frames", ErrGuard, maxFrames)
			}
			k, err := b.clear(ctx, s, id, string(js))
			if err != nil {
				return err
			}
			if k != nil {
				calls = append(calls, k)
			}
		}
	}
	for _, k := range calls {
		var r evalAnswer
		if err := k.get(ctx, &r); err != nil && !protocol(err) {
			return err
		}
		if r.Exception != nil {
			return fmt.Errorf("%w: %w", ErrGuard, errScript)
		}
	}
	return nil
}

// clear sends a frame's guard the order to deny, and puts it there first where
// it is missing. It returns nil for a frame that is gone.
func (b *Browser) clear(ctx context.Context, s *session, frame, spec string) (*call, error) {
	b.mu.Lock()
	w, js := s.worlds[frame], b.guard.key+".clear("+spec+")"
	b.mu.Unlock()
	if w == 0 {
		var err error
		if w, err = b.world(ctx, s.id, frame); protocol(err) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		js = b.guard.source + ";" + js
	}
	return b.conn.send(s.id, "Runtime.evaluate", obj{"expression": js, "contextId": w}), nil
}

// protocol says that the browser refused, as it does for what is gone.
func protocol(err error) bool {
	var pe *protocolError
	return errors.As(err, &pe)
}

// disarm ends the armed time of a frame and returns what its guard saw.
func (b *Browser) disarm(ctx context.Context, p place, nonce string) ([]report, error) {
	w, err := b.world(ctx, p.session.id, p.frame.ID)
	if err != nil {
		return nil, err
	}
	r, err := b.conn.eval(ctx, p.session.id, "Runtime.evaluate",
		obj{"expression": b.guard.key + ".disarm(" + quote(nonce) + ")", "contextId": w, "returnByValue": true})
	if err != nil {
		return nil, err
	}
	var log [][2]jsontext.Value
	if err := json.Unmarshal(r.Value, &log, lax); err != nil {
		return nil, err
	}
	out := make([]report, len(log))
	for i, l := range log {
		out[i] = report{Nonce: nonce, OK: string(l[1]) == "true"}
		if err := json.Unmarshal(l[0], &out[i].Type); err != nil {
			return nil, err
		}
	}
	return out, nil
}
