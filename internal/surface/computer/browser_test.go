package computer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
)

func TestMain(m *testing.M) {
	contain.Main()
	os.Exit(m.Run())
}

// managed is the real browser as a Screen.
type managed struct{ b *browser.Browser }

func (m managed) Screenshot(ctx context.Context) ([]byte, error) { return m.b.Screenshot(ctx) }

func (m managed) Ground(ctx context.Context, x, y int) (computer.Target, error) {
	return grounded(m.b.Ground(ctx, float64(x), float64(y)))
}

func (m managed) GroundFocus(ctx context.Context) (computer.Target, error) {
	return grounded(m.b.GroundFocus(ctx))
}

// sender is the browser's word; without one nobody vouches.
func (m managed) sender(ctx context.Context, r action.Request) (computer.Sender, bool) {
	if m.b == nil {
		return computer.Sender{}, false
	}
	who, ok := m.b.Sender(ctx, r)
	return computer.Sender{Frame: who.Frame, Gesture: who.Gesture}, ok
}

func grounded(g browser.Grounded, err error) (computer.Target, error) {
	return computer.Target{Element: g.Element, Fingerprint: g.Fingerprint, Ref: g}, err
}

var modifierBits = map[string]browser.Modifiers{"Alt": browser.Alt, "Control": browser.Ctrl, "Meta": browser.Meta, "Shift": browser.Shift}

func primitive(to *computer.Target, in computer.Input) browser.Input {
	var mods browser.Modifiers
	for _, m := range in.Modifiers {
		mods |= modifierBits[m]
	}
	button := browser.Button(in.Button)
	switch in.Kind {
	case computer.Move:
		return browser.Move{}
	case computer.Click:
		return browser.Click{Button: button, Count: in.Count, Modifiers: mods}
	case computer.Down:
		return browser.Down{Button: button}
	case computer.Up:
		return browser.Up{Button: button}
	case computer.Drag:
		return browser.Drag{To: to.Ref.(browser.Grounded)}
	case computer.Wheel:
		return browser.Wheel{DX: float64(in.DX), DY: float64(in.DY), Modifiers: mods}
	case computer.Key:
		return browser.Key{Chord: strings.Join(append(slices.Clone(in.Modifiers), in.Key), "+")}
	case computer.Type:
		return browser.Type{Text: in.Text}
	}
	return nil
}

// unsent are the errors before which no event was sent.
var unsent = []error{browser.ErrMoved, browser.ErrUninspectable, browser.ErrNoPage, browser.ErrCrashed, browser.ErrGuard,
	browser.ErrKey, browser.ErrChord, browser.ErrText, browser.ErrInput}

func (m managed) Check(t computer.Target, to *computer.Target, in computer.Input) (code, message string) {
	if err := browser.Check(t.Ref.(browser.Grounded), primitive(to, in)); err != nil {
		return browser.Refusal(err)
	}
	return "", ""
}

func (m managed) Press(ctx context.Context, t computer.Target, to *computer.Target, p gate.Permit, d action.Digest, in computer.Input) error {
	err := m.b.Press(ctx, t.Ref.(browser.Grounded), p, d, primitive(to, in))
	var blocked *browser.BlockedError
	if errors.As(err, &blocked) && !blocked.Pressed {
		return errors.Join(computer.ErrNotDelivered, err)
	}
	if slices.ContainsFunc(unsent, func(e error) bool { return errors.Is(err, e) }) {
		return errors.Join(computer.ErrNotDelivered, err)
	}
	return err
}

func (m managed) Home(ctx context.Context) error { return m.b.Navigate(ctx, "http://site.test/") }

// site is what the browser's only way out leads to.
type site struct {
	mu    sync.Mutex
	page  string
	hits  []string
	times []time.Time
	woken chan struct{}
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits = append(s.hits, r.Method+" "+r.URL.Path+" "+string(b))
	s.times = append(s.times, time.Now())
	close(s.woken)
	s.woken = make(chan struct{})
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	io.WriteString(w, s.page)
}

// wait returns when the request came.
func (s *site) wait(t *testing.T, prefix string) time.Time {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		woken := s.woken
		for i, h := range s.hits {
			if strings.HasPrefix(h, prefix) {
				defer s.mu.Unlock()
				return s.times[i]
			}
		}
		got := slices.Clone(s.hits)
		s.mu.Unlock()
		select {
		case <-woken:
		case <-limit:
			t.Fatalf("no request %q; got %q", prefix, got)
		}
	}
}

// request is the POST that came to a path, as the egress door would name it.
func (s *site) request(t *testing.T, path string) action.Request {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hits {
		if body, ok := strings.CutPrefix(h, "POST "+path+" "); ok {
			return action.Request{Method: "POST", Origin: "http://site.test", Path: path, BodyDigest: canon.Digest([]byte(body))}
		}
	}
	t.Fatalf("no request to %s; got %q", path, s.hits)
	return action.Request{}
}

// real is a fixture whose screen is the managed browser on one page.
func real(t *testing.T, html string, p decider) (*fixture, *site) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a browser")
	}
	b, err := browser.Launch(t.Context(), browser.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{page: "<!doctype html><title>t</title><style>*{margin:0;box-sizing:border-box}button,input,textarea,a{position:absolute;width:200px;height:40px}</style>" + html, woken: make(chan struct{})}
	srv := &http.Server{Handler: s}
	go srv.Serve(b.ProxyListener())
	t.Cleanup(func() { b.Close(); srv.Close() })
	if err := b.Navigate(t.Context(), "http://site.test/"); err != nil {
		t.Fatal(err)
	}
	f := startOn(t, p, managed{b})
	return f, s
}

func (f *fixture) ok(body string) {
	f.Helper()
	if status, a := f.post(anthropic, body); status != 200 || a.IsError {
		f.Fatalf("%s: got %d %+v", body, status, a)
	}
}

const formPage = `<form method="post" action="/users/jo/mfa/reset"><input name="why" style="left:10px;top:10px"><input type="password" name="pw" style="left:10px;top:60px">
<button style="left:10px;top:110px">Reset</button></form><a href="/users" style="left:10px;top:160px">Users</a>`

// A click on a real submit button is grounded to its form, delivered, and
// explains exactly the request that it causes.
func TestRealBrowserClickExplainsItsRequest(t *testing.T) {
	f, s := real(t, formPage, allowAll)
	f.ok(`{"action":"left_click","coordinate":[50,30]}`)
	f.ok(`{"action":"type","text":"new phone"}`)
	f.ok(`{"action":"left_click","coordinate":[50,130]}`)
	at := s.wait(t, "POST /users/jo/mfa/reset why=new+phone")
	last := f.log.decided[len(f.log.decided)-1].Action
	if e := last.Element; e.FormAction != "http://site.test/users/jo/mfa/reset" || e.FormMethod != "POST" || e.Tag != "button" {
		t.Errorf("element: %+v", e)
	}
	req := s.request(t, "/users/jo/mfa/reset")
	if id, rule := f.journal.Why(t.Context(), req, true, at); id != last.ID || rule != computer.RuleForm {
		t.Errorf("explained by %q (%s), want %q", id, rule, last.ID)
	}
	if id, _, _ := f.journal.Explain(t.Context(), req, true, at); id != "" {
		t.Errorf("one click explained two writes: %s", id)
	}
}

func TestRealBrowserLinkAndEnter(t *testing.T) {
	f, s := real(t, formPage, allowAll)
	f.ok(`{"action":"left_click","coordinate":[50,180]}`)
	at := s.wait(t, "GET /users ")
	if _, rule := f.journal.Why(t.Context(), action.Request{Method: "GET", Origin: "http://site.test", Path: "/users"}, false, at); rule != computer.RuleLink {
		t.Errorf("link: got rule %q", rule)
	}
	// The request came before its page: until then the click is on the old one.
	for url := ""; url != "http://site.test/users"; {
		f.waitFor(`{"action":"left_click","coordinate":[50,30]}`)
		url = f.log.decided[len(f.log.decided)-1].Action.Element.URL
	}
	f.ok(`{"action":"type","text":"x\n"}`)
	at = s.wait(t, "POST /users/jo/mfa/reset why=x")
	if _, rule := f.journal.Why(t.Context(), s.request(t, "/users/jo/mfa/reset"), true, at); rule != computer.RuleForm {
		t.Errorf("enter: got rule %q", rule)
	}
}

// waitFor repeats an action until the page, which may still load, takes it.
func (f *fixture) waitFor(body string) {
	f.Helper()
	limit := time.Now().Add(20 * time.Second)
	for {
		_, a := f.post(anthropic, body)
		if !a.IsError {
			return
		}
		if time.Now().After(limit) {
			f.Fatalf("%s: %+v", body, a)
		}
	}
}

// The text that went into a real password field is in no record.
func TestRealBrowserPassword(t *testing.T) {
	f, _ := real(t, formPage, allowAll)
	f.ok(`{"action":"left_click","coordinate":[50,80]}`)
	f.ok(`{"action":"type","text":"hunter2!"}`)
	f.ok(`{"action":"key","text":"Q"}`)
	for i, d := range f.log.decided {
		if len(f.log.blobs[i]) != 0 {
			t.Errorf("evidence: %+v", d.Action)
		}
	}
	if strings.Contains(string(f.log.raw), "hunter2") || f.log.decided[2].Action.Params["key"] != "(a character)" {
		t.Error("the password is in a record")
	}
}

// T28: the page moves another button under the pointer while the gate decides.
func TestRealBrowserSwapDuringTheDecision(t *testing.T) {
	const page = `<button id=a style="left:10px;top:10px" onclick="fetch('/good',{method:'POST'})">Good</button><button id=b style="left:10px;top:300px" onclick="fetch('/bad',{method:'POST'})">Bad</button>
<script>addEventListener('pointermove',()=>{a.style.top='300px';b.style.top='10px'},true)</script>`
	var f *fixture
	moved := false
	f, s := real(t, page, func(x gate.Facts) action.Decision {
		if x.Action.Operation == "computer.left_click" && !moved {
			moved = true
			// The policy takes its time; the page uses it.
			if err := pressMove(f); err != nil {
				t.Error(err)
			}
		}
		return action.Decision{Verdict: action.Allow}
	})
	_, a := f.post(anthropic, `{"action":"left_click","coordinate":[50,30]}`)
	if !a.IsError {
		t.Errorf("got %+v", a)
	}
	f.ok(`{"action":"screenshot"}`)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hits {
		if strings.HasPrefix(h, "POST") {
			t.Errorf("a request left: %s", h)
		}
	}
}

// pressMove makes the page act, by loading it with the buttons swapped.
func pressMove(f *fixture) error {
	m := f.real
	return m.b.Navigate(f.Context(), "http://site.test/again")
}

func TestRealBrowserPictures(t *testing.T) {
	f, _ := real(t, formPage, allowAll)
	for query, want := range map[string]int{"": 1280, "?display=1024x640": 1024, "?display=640x400": 640} {
		_, a := f.post(neutral+query, `{"actions":[{"type":"screenshot"}]}`)
		if a.Results[0].Image == nil {
			t.Fatalf("got %+v", a)
		}
		c, err := png.DecodeConfig(bytes.NewReader(a.Results[0].Image.Data))
		if err != nil || c.Width != want {
			t.Errorf("%s: got %d (%v), want %d", query, c.Width, err, want)
		}
	}
}

// Every key name that this door accepts is one that the browser's door knows or
// refuses as the browser's own: none is unknown to it.
func TestRealBrowserKnowsEveryKey(t *testing.T) {
	for _, k := range []string{"Return", "Tab", "Escape", "BackSpace", "Delete", "Insert", "Home", "End", "Page_Up", "Next", "Up", "Left", "space", "plus", "minus",
		"equal", "comma", "period", "slash", "backslash", "semicolon", "apostrophe", "grave", "bracketleft", "underscore", "F2", "F12", "a", "Z", "é", "ctrl+a", "ctrl++", "shift+Tab", "alt+Left", "cmd+q"} {
		f := start(t, allowAll)
		if _, a := f.post(anthropic, fmt.Sprintf(`{"action":"key","text":%q}`, k)); a.IsError {
			t.Errorf("%s: refused here: %+v", k, a)
			continue
		}
		in := primitive(nil, f.screen.inputs()[0])
		if err := browser.Check(browser.Grounded{Keyboard: true}, in); err != nil && !errors.Is(err, browser.ErrChord) {
			t.Errorf("%s: %+v: %v", k, in, err)
		}
	}
}

// Two vendors' calls drive a real page: a batch that fills a form and sends it by
// Enter, and one call that clicks, clears, types and presses Enter.
func TestRealBrowserVendors(t *testing.T) {
	f, s := real(t, formPage, allowAll)
	_, a := f.raw(openai, cua(`{"type":"click","button":"left","x":50,"y":30},{"type":"type","text":"old phone"}`))
	if a["status"] != "completed" {
		t.Fatalf("openai: %.400v", a)
	}
	// On the grid, the middle of the same field; the text that was there goes.
	_, a = f.raw(geminiLegacy, `{"name":"type_text_at","args":{"x":39,"y":37,"text":"new phone"}}`)
	if r, _ := a["response"].(map[string]any); r["error"] != nil || r["url"] != "http://site.test/" || a["parts"] == nil {
		t.Fatalf("gemini: %.400v", a)
	}
	s.wait(t, "POST /users/jo/mfa/reset why=new+phone")
}

// What the browser would never do is refused before the gate, with its code:
// nothing is allowed and then not delivered.
func TestRealBrowserRefusesBeforeTheGate(t *testing.T) {
	f, _ := real(t, formPage, allowAll)
	for body, code := range map[string]string{
		`{"action":"key","text":"F12"}`: "browser_chord", `{"action":"key","text":"ctrl+t"}`: "browser_chord", `{"action":"key","text":"alt+Left"}`: "browser_chord",
		`{"action":"type","text":"nowhere"}`: "takes_no_text",
	} {
		if _, a := f.post(anthropic, body); a.Code != code || a.Layer != string(action.LayerForm) {
			t.Errorf("%s: got %+v, want %s", body, a, code)
		}
	}
	for _, o := range f.log.operations() {
		if o != "deny computer.malformed" {
			t.Errorf("recorded: %s", o)
		}
	}
}
