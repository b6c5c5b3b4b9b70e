package server_test

import (
	"errors"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// TestPartsAreRefused: what a door would not let an agent ask for, and what its
// requests meet when the task is over, taken over, or has too many parts.
//
// Threats: E11, E13 (authority)
func TestPartsAreRefused(t *testing.T) {
	r := rig.New(t, rig.Options{Edit: func(files map[string][]byte) {
		files["capability.yaml"] = append(files["capability.yaml"], "  delegates: [{agent: second, capability: reset-mfa}]\n"...)
		files["second.yaml"] = files["agent.yaml"]
		rig.Replace("second.yaml", "name: helpdesk\n", "name: second\n")(files)
	}})
	r.Ready(t)
	in := rig.Intent(action.Sandbox, "jo", "4711")
	in.Agent = "helpdesk"
	x := r.OpenTask(t, in)
	a, err := r.Server.StartAsker(t.Context(), x.ID)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(want string) {
		t.Helper()
		err := a.Ask(t.Context(), "second", "reset-mfa", in.Params)
		if p, ok := errors.AsType[*server.Problem](err); !ok || p.Code != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	a.Take(true)
	refused("taken_over")
	a.Take(false)
	release, err := a.Hold()
	if err != nil {
		t.Fatal(err)
	}
	refused("too_many_parts")
	release()
	if _, err := r.Server.CloseTask(t.Context(), "", rig.As("dana"), x.ID); err != nil {
		t.Fatal(err)
	}
	refused("no_authority")
	all, err := r.Server.Tasks(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 {
		t.Errorf("there are %d tasks, want the first alone", len(all))
	}
}
