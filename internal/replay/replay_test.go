package replay_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/replay"
)

// once allows each operation once in a task, and cannot name odd ones.
type once struct{}

func (once) Name(_ context.Context, a action.Action, _ action.Stage) (action.Action, error) {
	if a.Operation == "app.odd" {
		return a, replay.Unknown("odd")
	}
	return a, nil
}

func (once) Decide(a action.Action, _ action.Stage, line []replay.Done) (action.Decision, error) {
	if line[0].Counts[a.Operation] > 0 {
		return action.Denied(action.LayerGrant, "count_spent", "once", ""), nil
	}
	return allowed, nil
}

var allowed = action.Decision{Verdict: action.Allow, Layer: action.LayerGrant, Code: "permitted", Policies: []string{"grant/c/1"}}

// past is a log with what one task was decided.
func past(t *testing.T, operations ...string) replay.Log {
	t.Helper()
	log := ledgertest.New(t)
	for _, op := range operations {
		a := action.Action{Tenant: log.Tenant(), Task: "t-1", Agent: "helper", Surface: action.Egress, Operation: op}
		if _, err := log.Append(t.Context(), record.Draft{Type: "action.decided", Task: "t-1", Agent: "helper", Body: gate.Decided{Action: a, Decision: allowed}}); err != nil {
			t.Fatal(err)
		}
	}
	return log.(*ledger.Log)
}

var tasks = []replay.Task{{ID: "t-1", Agent: "helper"}}

// What cannot be named is no difference and no agreement, and counts as it did.
func TestWhatIsNotKnownIsSaid(t *testing.T) {
	rep, err := replay.Run(t.Context(), past(t, "app.a", "app.odd", "app.odd", "app.a"), tasks, once{}, replay.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Replayed != 2 || rep.Unchanged != 1 || len(rep.Differences) != 1 || rep.Differences[0].Change != replay.Tightened || len(rep.Differences[0].Records) != 1 {
		t.Errorf("got %+v", rep)
	}
	if len(rep.NotReplayed) != 1 || rep.NotReplayed[0].Why != "odd" || len(rep.NotReplayed[0].Records) != 2 {
		t.Errorf("not replayed: %+v", rep.NotReplayed)
	}
}

// A replay whose time is over says so; one that nobody waits for is an error.
func TestTimeIsBounded(t *testing.T) {
	log := past(t, "app.a")
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if rep, err := replay.Run(ctx, log, tasks, once{}, replay.Filter{}); err != nil || rep.Cut != "time" || rep.Replayed != 0 {
		t.Errorf("got %+v, %v", rep, err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if rep, err := replay.Run(ctx, log, tasks, once{}, replay.Filter{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v, %v", rep, err)
	}
}
