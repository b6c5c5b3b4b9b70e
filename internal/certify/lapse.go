package certify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Lapse ends the live certification of agent and stage. stop runs after the
// certification is gone from memory and before the record is written: it ends
// what ran under it. Lapse of nothing is nothing.
func (e *Engine) Lapse(ctx context.Context, agent string, stage action.Stage, l Lapse, stop func()) error {
	slot := agent + "/" + string(stage)
	e.mu.Lock()
	c, ok := e.live[slot]
	delete(e.live, slot)
	e.mu.Unlock()
	if !ok {
		return nil
	}
	if stop != nil {
		stop()
	}
	l.At = time.Now().UTC()
	c.State, c.Lapse = Lapsed, &l
	err := e.save(ctx, c)
	if err != nil {
		e.mu.Lock()
		e.unsaved[c.ID] = c
		e.mu.Unlock()
	}
	return err
}

// save records a lapse, unless the certification's end is on record.
func (e *Engine) save(ctx context.Context, c Certification) error {
	_, err := e.log.Append(ctx, record.Draft{Type: "certification.lapsed", Agent: c.Agent, Actor: "sallyport",
		Body:   map[string]any{"id": c.ID, "stage": c.Stage, "boundary": c.Boundary, "lapse": *c.Lapse},
		Change: func(tx record.Tx) error { return end(tx, c.ID, *c.Lapse) }})
	if errors.Is(err, errOver) {
		return nil
	}
	return err
}

// Settle records the lapses that could not be recorded when they happened.
func (e *Engine) Settle(ctx context.Context) error {
	e.issuing.Lock()
	defer e.issuing.Unlock()
	return e.settle(ctx)
}

func (e *Engine) settle(ctx context.Context) error {
	e.mu.RLock()
	left := slices.Collect(maps.Values(e.unsaved))
	e.mu.RUnlock()
	var errs []error
	for _, c := range left {
		if err := e.save(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("lapse of certification %s: %w", c.ID, err))
			continue
		}
		e.mu.Lock()
		delete(e.unsaved, c.ID)
		e.mu.Unlock()
	}
	return errors.Join(errs...)
}

// end keeps that a certification ended. One that did already stays as it is: errOver.
func end(tx record.Tx, id string, l Lapse) error {
	var c Certification
	if err := tx.Get(kind, id, &c); err != nil {
		return err
	}
	if c.State != Live {
		return errOver
	}
	c.State, c.Lapse = Lapsed, &l
	return tx.Put(kind, id, c)
}
