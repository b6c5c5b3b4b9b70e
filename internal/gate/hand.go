package gate

import (
	"context"
	"errors"
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// A session is in one hand at a time: its agent's (""), or that of an actor who
// has taken it over ("person:ines"). Only whoever has it may act by hand: on the
// screen, on the browser's protocol, in databases, and by whatever else a harness
// does but call its model. What the page sends goes on, and is of whoever has the
// session when it is decided.
//
// A turn is the time in which somebody acts. Pass lets nobody begin one, cuts
// those that run, and gives the hand on when the last has ended: so neither
// input nor picture of one is inside the other's time.

// CodeTaken is the code of a denial to the agent while a person has the session.
const CodeTaken = "taken_over"

// Errors of Pass.
var (
	ErrNotRunning = errors.New("the task is not running")
	ErrOtherHand  = errors.New("somebody else has the session in hand")
)

// hand is guarded by the mutex of its task.
type hand struct {
	of      string // "" is the agent
	passing bool
	turns   int
	idle    chan struct{} // closed when passing and no turn is left
	ctx     context.Context
	cut     context.CancelFunc
}

func (h *hand) free(parent context.Context) { h.ctx, h.cut = context.WithCancel(parent) }

// byHand reports whether only whoever has the session may do it.
func byHand(a action.Action) bool {
	return a.Surface == action.Computer || a.Source == "harness" && a.Surface != action.Inference
}

// Turn begins a turn of a's actor, if they have the session in hand. Until end is
// called nobody else gets it; the context ends when somebody else takes it. A
// surface holds a turn from before it looks at the page until what it saw was
// let out. Act holds one of its own.
func (g *Gate) Turn(ctx context.Context, a action.Action) (_ context.Context, end func(), ok bool) {
	r := g.find(a)
	if r == nil {
		return ctx, func() {}, true // Act says what there is to say
	}
	return r.turn(ctx, a)
}

func (r *running) turn(ctx context.Context, a action.Action) (context.Context, func(), bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !byHand(a) {
		return ctx, func() {}, true
	}
	if r.hand.passing || a.Actor != r.hand.of {
		return ctx, func() {}, false
	}
	r.hand.turns++
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(r.hand.ctx, cancel)
	return ctx, func() { stop(); cancel(); r.endTurn() }, true
}

func (r *running) endTurn() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hand.turns--; r.hand.turns == 0 && r.hand.passing {
		close(r.hand.idle)
	}
}

// Pass gives a session from one hand to another. It returns when every turn of
// the first has ended; if ctx ends before that, nothing has changed but that
// those turns were cut.
func (g *Gate) Pass(ctx context.Context, tenant, task, from, to string) error {
	g.mu.Lock()
	r := g.tasks[tenant+"/"+task]
	g.mu.Unlock()
	if r == nil {
		return ErrNotRunning
	}
	idle, err := r.beginPass(from)
	if err != nil {
		return err
	}
	select {
	case <-idle:
	case <-ctx.Done():
		to, err = from, fmt.Errorf("what was being done has not ended: %w", ctx.Err())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hand.of, r.hand.passing = to, false
	r.hand.free(r.ctx)
	return err
}

func (r *running) beginPass(from string) (<-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended != nil {
		return nil, ErrNotRunning
	}
	if r.hand.passing || r.hand.of != from {
		return nil, ErrOtherHand
	}
	r.hand.passing, r.hand.idle = true, make(chan struct{})
	r.hand.cut()
	if r.hand.turns == 0 {
		close(r.hand.idle)
	}
	return r.hand.idle, nil
}

// outOfTurn denies what is done by hand by somebody whose turn it is not.
func outOfTurn(a action.Action) action.Decision {
	if a.Actor != "" {
		return action.Denied(action.LayerAuthority, "not_in_hand", "the session is not in your hand", "take it over: sallyport task take "+a.Task)
	}
	return action.Denied(action.LayerAuthority, CodeTaken, "a person has taken the session over", "wait")
}

// cutShort reports whether turns are being cut, so that somebody else gets the
// session.
func (r *running) cutShort() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hand.passing
}

// actor names whoever does an action, in its record.
func actor(a action.Action) string {
	if a.Actor != "" {
		return a.Actor
	}
	return "agent:" + a.Agent
}
