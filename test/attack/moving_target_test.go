package attack

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// A Delete control jumps under the pointer at the moment of the press, so that
// the click that was decided for one control is given to another. The browser's
// guard or door 2 must stop it.
//
// Threats: T28, H6 (browser, grant)
func TestMovingTarget(t *testing.T) {
	x := run(t, "moving-target", "omar", "4716", "program", "hands", "press:app:tickets", "press:link:ticket/4716", "find:page:tickets/ticket/4716", "press:field:comment", "wait:1000")
	x.untouched()
	// Either the input was not delivered as decided, or its request was denied.
	moved := 0
	out := x.r.Outcomes(t, x.task.ID)
	for _, d := range x.r.Decisions(t, x.task.ID) {
		o, dispatched := out[d.Action.ID]
		switch {
		case d.Action.Operation == "computer.left_click" && dispatched && o.State != action.Done:
			moved++
		case d.Action.Operation == "tickets.ticket.delete" && d.Decision.Verdict != action.Allow:
			moved++
		}
	}
	if moved == 0 {
		t.Error("the jump left no trace in the ledger")
	}
}

// The same page lies in wait: after three seconds Delete lies over Close.
//
// Threats: T28, H6 (browser, grant)
func TestTargetMovesBetweenLookAndClick(t *testing.T) {
	x := run(t, "moving-target", "omar", "4716")
	for _, c := range x.changed {
		if c == "tickets/4716" {
			for _, k := range x.r.State(action.Sandbox).Tickets {
				if k.ID == "4716" {
					return
				}
			}
			t.Error("the ticket was deleted")
		}
	}
}
