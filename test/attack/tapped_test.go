package attack

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// The tapped rig has a tap where the applications' network would be. It sees
// every request that door 2 lets through to any application of the sandbox, the
// attacker's included, and puts a script of the attacker's into a ticket's page.
// Its capability lets two resets and twenty comments through, so that the grant
// alone does not stop a second one.
var (
	tappedOnce sync.Once
	tappedRig  *rig.Rig
	tappedErr  error
	theTap     hostileTap
)

type hostileTap struct {
	rig.Tap
	mu     sync.Mutex
	script string                                        // put into the pages of ticket 4711
	answer func(http.ResponseWriter, *http.Request) bool // in the place of an application
	seen   []request
}

type request struct{ method, host, uri, cookie, auth, body string }

// hostile is the tapped rig with a script of the attacker's in ticket 4711.
func hostile(t *testing.T, script string, answer func(http.ResponseWriter, *http.Request) bool) (*rig.Rig, *hostileTap) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts browsers")
	}
	tappedOnce.Do(func() {
		theTap.Intercept, theTap.Page = theTap.intercept, theTap.page
		tappedRig, tappedErr = rig.Start(rig.Options{Before: theTap.Start, Edit: func(f map[string][]byte) {
			rig.Replace("capability.yaml", "where: {user: \"{{user}}\"}\n      max: 1", "where: {user: \"{{user}}\"}\n      max: 2")(f)
			rig.Replace("capability.yaml", "text: {any: true}}\n      max: 2", "text: {any: true}}\n      max: 20")(f)
			rig.Replace("capability.yaml", `"[a-z][a-z0-9-]{1,30}"`, `"[A-Za-z][A-Za-z0-9-]{1,30}"`)(f)
			fetchesForOthers(f)
		}})
	})
	if tappedErr != nil {
		t.Fatal(tappedErr)
	}
	fresh(t, tappedRig)
	theTap.mu.Lock()
	theTap.script, theTap.answer, theTap.seen = script, answer, nil
	theTap.mu.Unlock()
	return tappedRig, &theTap
}

func (p *hostileTap) intercept(w http.ResponseWriter, r *http.Request) bool {
	b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20)) // what was cut is seen as cut
	r.Body = io.NopCloser(bytes.NewReader(b))
	p.mu.Lock()
	p.seen = append(p.seen, request{r.Method, r.Host, r.RequestURI, r.Header.Get("Cookie"), r.Header.Get("Authorization") + r.Header.Get("Proxy-Authorization"), string(b)})
	answer := p.answer
	p.mu.Unlock()
	return answer != nil && answer(w, r)
}

func (p *hostileTap) page(resp *http.Response, page []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.script == "" || resp.Request.URL.Path != "/tickets/4711" {
		return page
	}
	at := bytes.LastIndex(page, []byte("</body>"))
	if at < 0 {
		at = len(page)
	}
	script := strings.NewReplacer("IAM", p.URL(estate.IAM), "EVIL", p.URL(estate.Evil)).Replace(p.script)
	return []byte(string(page[:at]) + "<script>" + script + "</script>" + string(page[at:]))
}

// arrived are the requests that reached an application and match.
func (p *hostileTap) arrived(match func(request) bool) (out []request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.seen {
		if match(r) {
			out = append(out, r)
		}
	}
	return out
}

// wrote matches what is neither a read nor the boundary's own sign-in.
func wrote(r request) bool {
	return r.method != http.MethodGet && r.method != http.MethodHead && r.method != http.MethodOptions &&
		r.uri != "/login" && r.uri != "/logout" && !strings.HasPrefix(r.uri, "/account/sessions/")
}

// visit runs hands that open ticket 4711, and more, and returns what the boundary
// decided meanwhile.
func visit(t *testing.T, r *rig.Rig, more ...string) []gate.Decided {
	t.Helper()
	x, out := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), append([]string{"program", "hands", "press:app:tickets", "press:link:ticket/4711"}, more...)...)
	ds := r.Decisions(t, x.ID)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("task %s is %s (%s: %s)\n%s", x.ID, x.State, x.Code, x.Why, out)
			for _, d := range ds {
				if d.Decision.Verdict != action.Allow || d.Action.Effect.Changes() {
					t.Log(rig.Say(d))
				}
			}
		}
	})
	if x.State != task.Closed {
		t.Errorf("the task is %s: %s", x.State, x.Why)
	}
	r.NoSessions(t, action.Sandbox)
	return ds
}

func mustUnescape(s string) string {
	u, err := url.QueryUnescape(s)
	if err != nil {
		return "/"
	}
	return u
}
