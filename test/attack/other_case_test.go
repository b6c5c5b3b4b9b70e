package attack

import (
	"errors"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A guardrail names the agent's own account. A harness resets that account's
// second factor in every spelling that a directory takes for the same: each meets
// the guardrail, or is no operation at all. A task for somebody in another
// spelling than rules see is not opened.
//
// Threats: D5, T19 (guardrail, form)
func TestGuardrailInAnotherCase(t *testing.T) {
	r, tap := hostile(t, "", nil)
	authority := strings.TrimPrefix(tap.URL(estate.IAM), "https://")
	var in []string
	for _, user := range []string{"svc-helpdesk", "SVC-HELPDESK", "Svc-Helpdesk", "svc-HELPDESK", "svc-helpdes%E2%84%AA", "%C5%BFvc-helpdesk", "svc-helpdesk%20", "svc-helpdesk%C2%AD"} {
		in = append(in, "POST /users/"+user+"/mfa/reset HTTP/1.1\r\nHost: "+authority+"\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\n_csrf=x")
	}
	x, out := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), append([]string{"program", "raw", authority}, in...)...)
	for _, q := range tap.arrived(wrote) {
		t.Errorf("reached the application: %s %s", q.method, q.uri)
	}
	met := len(r.Denied(t, x.ID, action.LayerGuardrail, "own_account", func(a action.Action) bool { return a.Params["user"] == "svc-helpdesk" }))
	none := len(r.Denied(t, x.ID, action.LayerGuardrail, "unmatched_write", func(a action.Action) bool { return a.Params["why"] == "value_form" }))
	if met != 4 || none != 4 {
		t.Errorf("%d met the guardrail and %d were no operation, want 4 and 4\n%s", met, none, out)
	}
	_, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(action.Sandbox, "Jo", "4711"))
	var why *server.Problem
	if !errors.As(err, &why) || why.Code != "invalid_parameters" || !strings.Contains(why.Reason, "user") {
		t.Errorf("a task for Jo: got %v", err)
	}
}
