package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// judgeOver judges a task that is over, by its records and those of its parts alone,
// however much was recorded since.
func (t *tenant) judgeOver(ctx context.Context, id string, sc resource.Scenario) (judged, error) {
	return (&deeds{log: ofTask{t.log, t, id}, task: id, sc: sc}).judge(ctx)
}

// ofTask is the log of one task and of the parts of it, to be read once.
type ofTask struct {
	*ledger.Log
	t  *tenant
	id string
}

func (l ofTask) Entries(ctx context.Context, _ int64, f func(record.Entry) error) error {
	x, err := l.t.tasks.Get(ctx, l.id)
	if err != nil {
		return err
	}
	all := []task.Task{x}
	if spec := l.t.current().capabilities[x.Capability]; spec != nil && len(spec.Delegates) > 0 {
		if all, err = l.t.tasks.List(ctx); err != nil {
			return err
		}
	}
	for _, x := range all {
		if x.ID != l.id && !slices.Contains(x.Chain, l.id) {
			continue
		}
		if err := l.TaskEntries(ctx, x.ID, f); err != nil {
			return err
		}
	}
	return nil
}

// unanswered says that people were asked and did not say yes, though the scenario
// does not have them say no: then a run says nothing of the agent. What is read is the
// questions: of a run whose time ended before the answer no decision says so.
func (r *canaryRun) unanswered(ctx context.Context, id string) (why string, err error) {
	if r.sc.People != "" {
		return "", nil
	}
	asked := map[string]string{} // question to operation
	err = r.t.log.TaskEntries(ctx, id, func(e record.Entry) error {
		if !strings.HasPrefix(e.Type, "hold.") {
			return nil
		}
		var h struct { // as package approval writes it
			ID        string             `json:"id"`
			Statement approval.Statement `json:"statement"`
			Complete  bool               `json:"complete"`
			Reason    string             `json:"reason"`
		}
		if err := json.Unmarshal(e.Body, &h); err != nil {
			return err
		}
		switch {
		case e.Type == "hold.opened":
			asked[h.ID] = h.Statement.Operation
		case h.Complete || strings.HasPrefix(h.Reason, "superseded by "): // another stands for it
			delete(asked, h.ID)
		}
		return nil
	})
	for _, operation := range slices.Sorted(maps.Values(asked)) {
		return fmt.Sprintf("people were asked about %s, and did not approve it", operation), err
	}
	return "", err
}
