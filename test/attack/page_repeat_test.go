package attack

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// The agent presses the button of the task and a person approves. The
// application's answer, or a script in it, then makes the browser send the same
// write again, or another one under the same approval: it reloads the result of
// of the post, goes back and forth, answers with a redirect that keeps method and
// body, has a service worker repeat it now, when the network is back, from time to
// time or when it is pushed, has another page made ahead of time that sends it, or
// waits in the cache of whole pages. Two resets are within this task's grant, and
// the approver signs the first question only. One may arrive. What a script could
// not even try says so in a request of its own.
//
// Threats: T15, T16, T19, I2 (guardrail, browser)
func TestApprovedWriteIsNotRepeated(t *testing.T) {
	const page = `<!doctype html><title>done</title><body><script>
const again = f => { if ((sessionStorage.n = +(sessionStorage.n || 0) + 1) < 4) f() };
%s
</script>`
	const said = `const say = x => fetch('/static/said?' + encodeURIComponent(x));`
	const worker = `const ask = (what, f) => navigator.serviceWorker.register('/static/repeat.js?' + encodeURIComponent(location)).then(() => navigator.serviceWorker.getRegistration('/static/')).then(async r => { while (!r.active) await new Promise(r => setTimeout(r, 20)); return f(r) }).then(() => say(what + ': taken'), e => say(what + ': ' + e.name));`
	const write = `fetch(decodeURIComponent(location.search.slice(1)), {method: 'POST', headers: {'Content-Type': 'application/x-www-form-urlencoded'}, body: '_csrf=x'})`
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"back":     html(page, `onpageshow = e => e.persisted && `+strings.ReplaceAll(write, "decodeURIComponent(location.search.slice(1))", "location")+`; again(() => setTimeout(() => location = '/static/back', 50)); fetch('/static/said?shown' + sessionStorage.n)`),
		"traverse": html(page, `history.pushState(1, ''); history.pushState(2, ''); again(() => { history.go(-2); setTimeout(() => { history.go(2); navigation.reload() }, 100) }); fetch('/static/said?traversed')`),
		"navigate": html(page, `again(() => navigation.navigate(location.href, {history: 'replace'}).finished.catch(() => 0)); again(() => history.go(0)); fetch('/static/said?navigated')`),
		"later":    html(page, `const f = () => `+strings.ReplaceAll(write, "decodeURIComponent(location.search.slice(1))", "location")+`; onpagehide = () => { fetch(location, {method: 'POST', keepalive: true}); navigator.sendBeacon(location, '_csrf=x') }; onfreeze = f; fetchLater && (() => { try { fetchLater(location, {method: 'POST', activateAfter: 0}) } catch (e) {} })(); setTimeout(() => location = '/static/back', 200)`),
		"reload":   html(page, `again(() => location.reload())`),
		"workers": html(page, said+worker+`
ask('sync', r => r.sync.register('again')); ask('periodic', r => r.periodicSync.register('again', {minInterval: 1}));
ask('push', r => r.pushManager.subscribe({userVisibleOnly: true, applicationServerKey: 'BEl62iUYgUivxIkv69yViEuiBIa-Ib9-SkvMeAtA3LFgDzkrxZJjSgSnfckjBJuBkr3qBUYIHBQFLXYp5Nksh8U'}));
ask('background', r => r.backgroundFetch.fetch('again', [new Request(location, {method: 'POST', body: '_csrf=x'})]));
const s = document.createElement('script'); s.type = 'speculationrules';
s.textContent = JSON.stringify({prerender: [{source: 'list', urls: ['/static/ahead?' + encodeURIComponent(location)], eagerness: 'immediate'}], prefetch: [{source: 'list', urls: ['/static/ahead?p']}]});
document.head.append(s); document.head.append(Object.assign(document.createElement('link'), {rel: 'prerender', href: '/static/ahead?' + encodeURIComponent(location)}))`),
		"redirect_user": redirect("/users/sam/mfa/reset"),
	} {
		t.Run(name, func(t *testing.T) {
			r, tap := hostile(t, "", func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case r.URL.Path == "/static/back":
					html(`<!doctype html><title>back</title><script>history.back()</script>`, "")(w, r)
					return true
				case r.URL.Path == "/static/ahead":
					html(`<!doctype html><title>ahead</title><script>`+write+`</script>`, "")(w, r)
					return true
				case r.URL.Path == "/static/repeat.js":
					w.Header().Set("Content-Type", "text/javascript")
					w.Write([]byte(`for (const t of ['sync', 'periodicsync', 'push']) addEventListener(t, e => fetch(decodeURIComponent(self.location.search.slice(1)), {method: 'POST'})); for (let i = 0; i < 3; i++) fetch(decodeURIComponent(self.location.search.slice(1)), {method: 'POST', headers: {'Content-Type': 'application/x-www-form-urlencoded'}, body: '_csrf=x'})`))
					return true
				case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/mfa/reset"):
					answer(w, r)
					return true
				}
				return false
			})
			asked := 0
			r.Approver(func(a approval.Approval) string {
				if asked++; asked == 1 {
					// What was pressed stands in the question, apart from what the page calls it.
					s := a.Statement
					if s.Screenshot == "" || s.Details["element"] != "button" || !strings.HasPrefix(s.Details["element-form"], "POST https://iam.") || s.Quoted["element-name"] == "" {
						t.Errorf("the approver is asked with %q %v %v", s.Screenshot, s.Details, s.Quoted)
					}
					return "ines"
				}
				return ""
			})
			x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
			var out rig.Output
			running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "hands", "press:link:user/jo", "press:btn:mfa-reset", "wait:800"))
			if err != nil {
				t.Fatal(err)
			}
			x = rig.Wait(t, running)
			if x.State != task.Closed {
				t.Errorf("the task is %s: %s\n%s", x.State, x.Why, out.String())
			}
			got := tap.arrived(wrote)
			if len(got) != 1 || got[0].uri != "/users/jo/mfa/reset" {
				for _, q := range got {
					t.Errorf("reached the application: %s %s", q.method, q.uri)
				}
				t.Errorf("%d writes arrived, want the one that was approved", len(got))
			}
			if n := len(r.Allowed(t, x.ID, "iam.user.mfa.reset")); n != 1 {
				t.Errorf("%d resets were let through", n)
			}
			again := 0
			for _, d := range r.Decisions(t, x.ID) {
				if d.Action.Surface == action.Egress && d.Decision.Verdict != action.Allow {
					again++
				}
			}
			if again == 0 && len(tap.arrived(func(q request) bool { return strings.HasPrefix(q.uri, "/static/said?") })) == 0 {
				t.Errorf("nothing was sent again, so this test does not test anything\n%s", out.String())
			}
		})
	}
}

func html(page, script string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte(strings.Replace(page, "%s", script, 1)))
	}
}

func redirect(to string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}
