package attack

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A permitted press on a harmless button of the page, and in the same moment
// something else than the pressed frame sends a comment, which the task may write:
// a worker, a service worker, a frame of the same origin by message or by channel,
// or the frame itself with no input at all. That is the page's own doing, so a
// person is asked, who does not answer. The pressed frame's own request is
// explained, once: of two that one press sends, the second is held.
//
// Threats: T13, T14, T15, H7 (guardrail, hold)
func TestExplanationIsNotBorrowed(t *testing.T) {
	const listen = `onmessage = e => fetch(...e.data);`
	r, tap := hostile(t, `(() => {
const W = location.origin + '/tickets/4711/comments', token = document.querySelector('meta[name=csrf-token]').content;
const how = text => ({method: 'POST', headers: {'Content-Type': 'application/x-www-form-urlencoded'}, body: new URLSearchParams({_csrf: token, body: text}).toString()});
const f = document.createElement('iframe'); f.src = '/static/listen'; f.style.display = 'none'; document.body.append(f);
const k = new Worker(URL.createObjectURL(new Blob(['onmessage = e => fetch(...e.data)']))), c = new BroadcastChannel('c');
navigator.serviceWorker.register('/static/listen.js');
fetch(W, how('before'));
[() => fetch(W, how('itself')),
 () => { fetch(W, how('twice')); fetch(W, how('twice again')) },
 () => k.postMessage([W, how('worker')]),
 () => navigator.serviceWorker.getRegistration('/static/').then(r => r.active.postMessage([W, how('service worker')])),
 () => f.contentWindow.postMessage([W, how('frame')]),
 () => c.postMessage([W, how('channel')]),
].forEach((f, i) => {
  const b = document.createElement('button'); b.type = 'button'; b.textContent = 'Harmless'; b.onclick = f;
  b.style = 'position:fixed;left:900px;width:200px;height:60px;z-index:99;top:' + (100 + 80 * i) + 'px'; document.body.append(b);
});
})()`, func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/static/listen":
			html("<!doctype html><script>%s</script>", listen+` new BroadcastChannel('c').onmessage = e => fetch(...e.data)`)(w, r)
		case "/static/listen.js":
			w.Header().Set("Content-Type", "text/javascript")
			w.Write([]byte(listen))
		default:
			return false
		}
		return true
	})
	r.Approver(rig.Nobody)
	steps := []string{"wait:700"}
	for i := range 6 {
		steps = append(steps, fmt.Sprintf("post:/v1/actions {\"actions\":[{\"type\":\"screenshot\"},{\"type\":\"left_click\",\"x\":1000,\"y\":%d}]}", 130+80*i), "wait:150")
	}
	ds := visit(t, r, append(steps, "wait:1500")...)
	got := map[string]string{}
	for _, d := range ds {
		a := d.Action
		if a.Surface != action.Egress || a.Operation != "tickets.ticket.comment" {
			continue
		}
		switch {
		case a.Explained != "" && d.Decision.Verdict == action.Allow:
			got[a.Params["text"]] += "explained"
			pressedPiece(t, d)
		case a.Explained == "" && d.Decision.Verdict != action.Allow && (slices.Contains(d.Decision.Policies, "base/egress/unexplained-write") || d.Decision.Code == "done"):
			// Nobody answered until the end of the task.
			got[a.Params["text"]] += "held"
		default:
			t.Errorf("neither explained nor held: %s", rig.Say(d))
		}
	}
	asked := 0
	for _, e := range r.Records(t, 0) {
		if e.Type == "hold.opened" && e.Task == ds[0].Action.Task {
			asked++
		}
	}
	if asked != 6 {
		t.Errorf("people were asked %d times, want 6", asked)
	}
	if got["twice"] == "held" { // which of the two comes first is the browser's choice
		got["twice"], got["twice again"] = got["twice again"], got["twice"]
	}
	want := map[string]string{"before": "held", "itself": "explained", "twice": "explained", "twice again": "held", "worker": "held", "service worker": "held", "frame": "held", "channel": "held"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n := len(tap.arrived(wrote)); n != 2 {
		t.Errorf("%d writes arrived, want the 2 that are explained", n)
	}
}

// pressedPiece checks what stands beside an explained change: what was pressed,
// and the piece of the picture that is in the record of the press.
func pressedPiece(t *testing.T, d gate.Decided) {
	t.Helper()
	if e := d.Action.Element; e == nil || e.Name != "Harmless" || e.Tag != "button" {
		t.Errorf("the change says it was by %+v", e)
	}
	var shown []action.Evidence
	for _, e := range d.Action.Evidence {
		if e.Name == computer.Pressed {
			shown = append(shown, e)
		}
	}
	if len(shown) != 1 || shown[0].Commitment == "" || shown[0].Type != "image/png" {
		t.Errorf("the piece of the picture beside it: %+v", d.Action.Evidence)
	}
}
