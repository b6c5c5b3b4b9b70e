package certify

import (
	"context"
	"errors"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// errOver says that the certification ended meanwhile.
var errOver = errors.New("the certification is not in force any more")

// ErrGraded says that so much drifted in graded ways that nobody can be said to know
// what it comes to. The caller must end the certification.
var ErrGraded = errors.New("too many graded changes")

// maxGraded bounds what a certification keeps: it grows whenever something has another
// value, and who runs a server of tools may give it as many as they like.
const maxGraded = 100

// Grade keeps changes with the live certification of agent and stage, which stays
// in force. In memory first, so that no decision after the drift was seen misses it;
// a crash before the record leaves a certification without it, nothing running, and
// the next measurement finds the same drift. It returns what is new of them, or ErrGraded.
func (e *Engine) Grade(ctx context.Context, agent string, stage action.Stage, changes []boundary.Change) ([]boundary.Change, error) {
	slot := agent + "/" + string(stage)
	e.mu.Lock()
	c, ok := e.live[slot]
	var fresh []boundary.Change
	for _, x := range changes {
		if !slices.Contains(c.Graded, x) {
			fresh = append(fresh, x)
		}
	}
	if len(c.Graded)+len(fresh) > maxGraded {
		e.mu.Unlock()
		return nil, ErrGraded
	}
	if ok && len(fresh) > 0 {
		c.Graded = append(slices.Clone(c.Graded), fresh...)
		e.live[slot] = c
	}
	e.mu.Unlock()
	if !ok || len(fresh) == 0 {
		return nil, nil
	}
	_, err := e.log.Append(ctx, record.Draft{Type: "boundary.drift", Agent: agent, Actor: "sallyport",
		Body: map[string]any{"agent": agent, "changes": fresh, "graded": "hold", "certification": c.ID},
		Change: func(tx record.Tx) error {
			var now Certification
			if err := tx.Get(kind, c.ID, &now); err != nil {
				return err
			}
			if now.State != Live {
				return errOver // its end is on record, and another Put would undo it
			}
			for _, x := range fresh {
				if !slices.Contains(now.Graded, x) {
					now.Graded = append(now.Graded, x)
				}
			}
			return tx.Put(kind, c.ID, now)
		}})
	if errors.Is(err, errOver) {
		return nil, nil
	}
	return fresh, err
}
