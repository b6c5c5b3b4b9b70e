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
// the post, goes back and forth, answers with a redirect that keeps method and
// body, or has a service worker repeat it. Two resets are within this task's
// grant, and the approver signs the first question only. One may arrive.
//
// Threats: T15, T16, T19, I2 (guardrail)
func TestApprovedWriteIsNotRepeated(t *testing.T) {
	const page = `<!doctype html><title>done</title><body><script>
const again = f => { if ((sessionStorage.n = +(sessionStorage.n || 0) + 1) < 4) f() };
%s
</script>`
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"reload":        html(page, `again(() => location.reload())`),
		"worker":        html(page, `navigator.serviceWorker.register('/static/repeat.js?' + encodeURIComponent(location))`),
		"redirect_user": redirect("/users/sam/mfa/reset"),
	} {
		t.Run(name, func(t *testing.T) {
			r, tap := hostile(t, "", func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case r.URL.Path == "/static/repeat.js":
					w.Header().Set("Content-Type", "text/javascript")
					w.Write([]byte(`for (let i = 0; i < 3; i++) fetch(decodeURIComponent(self.location.search.slice(1)), {method: 'POST', headers: {'Content-Type': 'application/x-www-form-urlencoded'}, body: '_csrf=x'})`))
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
			if again == 0 {
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
