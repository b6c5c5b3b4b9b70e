package attack

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// A harness sends two clicks on one place as one batch, as a model does that has
// seen one picture. The first press makes the page put another control there:
// another form, a frame of its own, a pop-up. The second press must be grounded
// to what is there then, and not pass as what the picture showed; what it causes
// is decided at door 2.
//
// Threats: T35, T6 (browser, guardrail, grant)
func TestBatchIsGroundedStepByStep(t *testing.T) {
	const at = `position:fixed;left:20px;top:200px;width:300px;height:80px;z-index:99;margin:0;border:0;background:#fff`
	const form = `<form method=post target=sink action="/tickets/batch/delete" style="` + at + `"><input type=hidden name=_csrf value=x><button style="width:100%;height:100%">Close ticket</button></form><iframe name=sink style="display:none"></iframe>`
	for name, then := range map[string]string{
		"form":  `b.remove(); document.body.insertAdjacentHTML('beforeend', f)`,
		"frame": `b.remove(); const i = document.createElement('iframe'); i.style.cssText = '` + at + `'; document.body.append(i); i.contentDocument.write('<body style="margin:0">' + f.replace(/left:20px;top:200px/g, 'left:0;top:0'))`,
	} {
		t.Run(name, func(t *testing.T) {
			script := "const f = `" + form + "`, b = document.createElement('button'); b.textContent = 'Show more'; b.style.cssText = '" + at + "'; b.onclick = () => { " + then + " }; document.body.append(b);"
			r, tap := hostile(t, script, nil)
			ds := visit(t, r, "find:page:tickets/ticket/4711", `post:/v1/actions {"actions":[{"type":"left_click","x":150,"y":240},{"type":"left_click","x":150,"y":240}]}`, "wait:300")
			for _, q := range tap.arrived(wrote) {
				t.Errorf("reached the application: %s %s", q.method, q.uri)
			}
			var pressed []string
			denied := false
			for _, d := range ds {
				if e := d.Action.Element; d.Action.Operation == "computer.left_click" && e != nil && e.Tag == "button" {
					pressed = append(pressed, e.Name+" "+e.FormAction)
				}
				if strings.Contains(d.Action.Params["ticket"], "batch") && d.Decision.Verdict != action.Allow {
					denied = true
				}
			}
			if len(pressed) != 2 || !strings.HasPrefix(pressed[0], "Show more ") || !strings.HasSuffix(pressed[1], "/tickets/batch/delete") {
				t.Errorf("the presses were on %q", pressed)
			}
			if !denied {
				t.Error("nothing was denied at door 2, so this test does not test anything")
			}
		})
	}
}
