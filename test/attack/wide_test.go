package attack

import (
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// The wide rig has a capability that lets many comments and two resets through,
// so that what stops an attack there is not the grant.
var (
	wideOnce sync.Once
	wideRig  *rig.Rig
	wideErr  error
)

const wideActions = 150 // the budget of a task of the wide rig

func wide(t *testing.T) *rig.Rig {
	t.Helper()
	if testing.Short() {
		t.Skip("starts browsers")
	}
	wideOnce.Do(func() {
		wideRig, wideErr = rig.Start(rig.Options{Edit: func(f map[string][]byte) {
			rig.Replace("capability.yaml", "max: 2\n", "max: 100000\n")(f)
			rig.Replace("capability.yaml", "where: {user: \"{{user}}\"}\n      max: 1", "where: {user: \"{{user}}\"}\n      max: 2")(f)
			rig.Replace("capability.yaml", "actions: 2000", "actions: 150")(f)
			rig.Replace("capability.yaml", "seconds: 900", "seconds: 120")(f)
			rig.Replace("people.yaml", "roles: [requester]", "roles: [requester, approver]")(f)
		}})
	})
	if wideErr != nil {
		t.Fatal(wideErr)
	}
	fresh(t, wideRig)
	return wideRig
}

func init() { programs["hammer"] = rig.Hammer }

// comment is where the hammer hits: the application refuses its token, so each
// hit leaves a line in the application's audit and changes nothing.
func comment(r *rig.Rig, stage action.Stage, times string) []string {
	return []string{"program", "hammer", r.Estate.URL(estate.Stage(stage), estate.Tickets) + "/tickets/4711/comments", "_csrf=wrong&body=hello", times}
}

// hits counts what the hammer's requests left in the application's audit.
func hits(r *rig.Rig, stage action.Stage) int {
	n := 0
	for _, e := range r.State(stage).Audit[estate.Tickets] {
		if e.Action == "ticket.comment" {
			n++
		}
	}
	return n
}
