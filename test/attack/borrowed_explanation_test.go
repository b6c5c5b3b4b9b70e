package attack

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A permitted press on a harmless button of the page, and in the same moment
// something else than the pressed frame sends a comment, which the task may write:
// a worker, a service worker, a frame or window of the same origin, or the frame
// itself with no input of its own. That is the page's own doing, so a person is
// asked, who does not answer. The pressed frame's own request is explained, once:
// of two that one press sends, the second is held.
//
// Threats: T13, T14, T15, H7 (guardrail, hold)
func TestExplanationIsNotBorrowed(t *testing.T) {
	// SEND is what the press of the button does; W is the address and B the body.
	const script = `(() => {
const W = '/tickets/4711/comment', token = document.querySelector('meta[name=csrf-token]').content;
const B = n => new URLSearchParams({_csrf: token, body: 'from the page ' + n}).toString();
const how = n => ({method: 'POST', headers: {'Content-Type': 'application/x-www-form-urlencoded'}, body: B(n)});
const frame = () => { const f = document.createElement('iframe'); f.src = '/static/listen'; f.style.display = 'none'; document.body.append(f); return f };
const worker = 'onmessage = e => fetch(...e.data); onconnect = e => e.ports[0].onmessage = m => fetch(...m.data)';
PREPARE
const b = document.createElement('button'); b.type = 'button'; b.textContent = 'Harmless'; b.style = 'position:fixed;left:600px;top:300px;width:200px;height:100px;z-index:99';
b.onclick = () => { SEND }; document.body.append(b);
})()`
	for name, c := range map[string]struct {
		prepare, send   string
		explained, held int
	}{
		"itself":         {"", `fetch(W, how(1))`, 1, 0},
		"itself_late":    {"", `setTimeout(() => fetch(W, how(1)), 400)`, 1, 0},
		"twice":          {"", `fetch(W, how(1)); fetch(W, how(2))`, 1, 1},
		"worker":         {`const k = new Worker(URL.createObjectURL(new Blob([worker.replace('...e.data', 'new URL(e.data[0], "` + `' + location.origin + '` + `"), e.data[1]')])))`, `k.postMessage([W, how(1)])`, 0, 1},
		"service_worker": {`navigator.serviceWorker.register('/static/listen.js')`, `navigator.serviceWorker.getRegistration('/static/').then(r => r.active.postMessage([W, how(1)]))`, 0, 1},
		"other_frame":    {`const f = frame()`, `f.contentWindow.postMessage([W, how(1)])`, 0, 1},
		"other_window":   {`const c = new BroadcastChannel('c'); frame()`, `c.postMessage([W, how(1)])`, 0, 1},
		"before":         {`setTimeout(() => fetch(W, how(1)), 50)`, ``, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			listen := `onmessage = e => fetch(...e.data); new BroadcastChannel('c').onmessage = e => fetch(...e.data)`
			r, tap := hostile(t, strings.NewReplacer("PREPARE", c.prepare, "SEND", c.send).Replace(script), func(w http.ResponseWriter, r *http.Request) bool {
				switch r.URL.Path {
				case "/static/listen":
					html("<!doctype html><script>%s</script>", listen)(w, r)
				case "/static/listen.js":
					w.Header().Set("Content-Type", "text/javascript")
					w.Write([]byte(listen))
				default:
					return false
				}
				return true
			})
			r.Approver(func(approval.Approval) string { return "" })
			ds := visit(t, r, "wait:700", "click:700,350", "wait:2200")
			explained, held := 0, 0
			for _, d := range ds {
				a := d.Action
				if a.Surface != action.Egress || a.Operation != "tickets.ticket.comment" {
					continue
				}
				switch {
				case a.Explained != "" && d.Decision.Verdict == action.Allow:
					explained++
					pressedPiece(t, ds, d)
				case a.Explained == "" && d.Decision.Verdict != action.Allow && d.Decision.Layer == action.LayerHold:
					held++
				default:
					t.Errorf("neither explained nor held: %s", rig.Say(d))
				}
			}
			if explained != c.explained || held != c.held {
				t.Errorf("%d explained, %d held, want %+v", explained, held, c)
			}
			if got := len(tap.arrived(wrote)); got != c.explained {
				t.Errorf("%d writes arrived", got)
			}
		})
	}
}

// pressedPiece checks what stands beside an explained change: what was pressed,
// and the piece of the picture that is in the record of the press.
func pressedPiece(t *testing.T, ds []gate.Decided, d gate.Decided) {
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
