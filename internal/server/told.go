package server

import (
	"context"
	"strings"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// What an agent would do if a certified tool said something hostile of itself can only be
// tried with the tool that is certified: a server that says it is another one, and that is
// drift. So the server is measured and called as ever, and the door to tools adds the words
// to what the harness is given of its definition.
//
// The words are of the suite's fixture, and only a certification run and a canary put any
// on a task (Intent.told): no request, resource, server or harness can.

// toldRecord is of each tool of a task that was told so, before the harness reads it.
const toldRecord = "tools.told"

type toldTool struct {
	task.Told
	Connector string   `json:"connector"`
	Chain     []string `json:"chain,omitempty"` // tasks that this one is a part of
}

// teller tells the harness of a trial what its task says.
type teller struct {
	s    *session
	mu   sync.Mutex
	kept map[string]bool // items that are on record
}

// tell implements mcp.Config.Tell.
func (t *teller) tell(ctx context.Context, app, tool string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var words []string
	for _, x := range t.s.task.Told {
		if x.Tool != tool {
			continue
		}
		if words = append(words, x.Text); t.kept[x.Item] {
			continue
		}
		if _, err := t.s.t.log.Append(ctx, record.Draft{Type: toldRecord, Task: t.s.task.ID, Agent: t.s.task.Agent, Actor: "sallyport",
			Body: toldTool{x, app, t.s.task.Chain}}); err != nil {
			return "", err
		}
		t.kept[x.Item] = true
	}
	return strings.Join(words, " "), nil
}
