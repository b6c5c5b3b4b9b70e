// Package gate is the one door. Every attempt on every surface passes Act, in
// this order:
//
//  1. canonical form: a known surface and effect, a digest of what would be sent
//  2. authority: the task is admitted and not ended, whoever acts by hand has the
//     session, its budgets last, its certification is live where the stage asks
//     for one
//  3. policy: the tenant's guardrails, then the task's own grant
//  4. hold, if policy asks for a person, or graded drift does; after the answer 2
//     and 3 are asked again
//  5. record: the decision is durable, and an approval is used up in the same
//     transaction
//  6. permit: made here and nowhere else
//  7. dispatch, inside the task's fence: a kill that returned has no dispatch after it
//  8. outcome record
//
// Invariants:
//   - No record, no effect: a permit exists only after Append returned.
//   - Unknown means no: an error of any part denies, and says which layer.
//   - In the stage shadow nothing that changes anything gets a permit, and nobody is
//     asked; what would have passed is denied, and its record says so.
//   - End closes the fence before it writes anything, and returns after the last
//     dispatch of the task has returned.
//
// What a crash leaves behind: between 5 and 7 a decision without an outcome,
// which is reported as unknown and never repeated; between 7 and 8 the same. An
// effect without a record cannot happen.
//
// Not trusted: what a surface says of an action beyond its digest. The digest is
// checked again by Permit.Consume over what is really sent.
package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Dispatch does the effect. It must call p.Consume before the first byte leaves
// and must return soon after ctx is done: ctx ends with the task.
type Dispatch func(ctx context.Context, p Permit) action.Outcome

// Result is what became of one attempt.
type Result struct {
	Action   action.Action
	Decision action.Decision // Allow means that it was dispatched
	Outcome  *action.Outcome // nil when it was not dispatched
	Seq      int64           // ledger position of the decision, -1 if there is none
	// Question is the open one that a denial with CodeHeld waits for.
	Question string
}

// Facts are what policy may see.
type Facts struct {
	Action    action.Action
	Stage     action.Stage
	Tier      string
	Params    map[string]string // of the task
	Labels    []string          // put on the task so far, sorted
	Counts    map[string]int64  // operations let through so far
	Certified bool
	Drifted   string // see Admission.Drifted; of what is privileged
}

// Policy decides on facts. It must not block and must deny on any error of its own.
type Policy interface {
	Decide(f Facts) action.Decision
}

// Holds asks people. Open records the question durably before it returns. While
// a question is open or granted, the same one (same task, same digest) is that
// one, so that a caller who comes back finds the answer.
type Holds interface {
	Open(ctx context.Context, a action.Action, d action.Decision) (Hold, error)
}

// Hold is one open question.
type Hold interface {
	ID() string
	// Wait returns nil when enough people approved exactly this action, and
	// otherwise an error whose text may be shown (rejected, expired).
	Wait(ctx context.Context) error
	// Use spends the approval in the transaction of the decision's record. It
	// fails if the approval was spent, expired or made for another action.
	Use(tx record.Tx) error
}

// Admission is the authority of one running task, as the task engine admits it.
type Admission struct {
	Tenant string
	Task   string
	Agent  string
	Stage  action.Stage
	Tier   string
	Params map[string]string
	// Parent is the task that this one is a part of, or empty. It must be admitted
	// and running. What the child does counts for it and for all above, must be
	// allowed by their policies too, and ends with them.
	Parent string

	Policy   Policy
	Holds    Holds
	Log      record.Log
	Deadline time.Time
	// MaxActions bounds attempts that are let through; 0 lets nothing through.
	MaxActions int64
	// HoldLimit bounds how long an attempt waits for people.
	HoldLimit time.Duration
	// Certified is asked at every attempt. An error means no live certification;
	// its text may be shown. It must not block.
	Certified func() error
	// Remeasure is asked before a decision on what is privileged, and after a hold of
	// it: it looks again at what can change on disk, and ends the task if that did.
	// nil measures nothing.
	Remeasure func(ctx context.Context)
	// Drifted says why what is privileged is held for people beyond what policy says:
	// the boundary drifted in a way that its rules grade. "" is no such reason. It must
	// not block; nil is always "".
	Drifted func() string
	// Labels and Counts carry on what the task did before, if anything.
	Labels []string
	Counts map[string]int64
}

// Gate holds the admitted tasks.
type Gate struct {
	now func() time.Time
	ids func() string

	// mu orders admission against End. It is never held during I/O.
	mu    sync.Mutex
	tasks map[string]*running // by tenant + "/" + task
}

// running is an admitted task.
type running struct {
	Admission
	parent *running        // nil at the top
	ctx    context.Context // done when the task ended
	cancel context.CancelFunc

	// mu of a child is taken before that of its parent.
	mu       sync.Mutex
	ended    *action.Decision // why nothing passes any more; never unset
	labels   []string         // sorted
	counts   map[string]int64
	passed   int64
	inflight int
	idle     chan struct{} // closed when ended and inflight is 0
	hand     hand
	seen     *action.Evidence // the last picture that the agent was given
}

// New makes a gate that admits nothing yet. ids makes identifiers that are
// unique in a tenant for ever.
func New(ids func() string) *Gate {
	return &Gate{now: time.Now, ids: ids, tasks: map[string]*running{}}
}

// Admit lets a task act. A task can be admitted once in the life of a gate.
func (g *Gate) Admit(a Admission) error {
	if a.Policy == nil || a.Holds == nil || a.Log == nil || a.Certified == nil {
		return errors.New("gate: admission without policy, holds, log or certification")
	}
	if _, err := action.ParseTaskStage(string(a.Stage)); err != nil {
		return fmt.Errorf("gate: task %s: %w", a.Task, err) // one that nobody knows asks for no certification
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Admission: a, ctx: ctx, cancel: cancel, counts: map[string]int64{}, idle: make(chan struct{})}
	r.hand.free(ctx)
	r.labels = slices.Sorted(slices.Values(a.Labels))
	for k, v := range a.Counts {
		r.counts[k] = v
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	key := a.Tenant + "/" + a.Task
	if _, ok := g.tasks[key]; ok {
		cancel()
		return fmt.Errorf("gate: task %s was admitted before", a.Task)
	}
	if a.Parent != "" {
		p := g.tasks[a.Tenant+"/"+a.Parent]
		if p == nil || p.why() != nil {
			cancel()
			return fmt.Errorf("gate: task %s, above task %s, does not run", a.Parent, a.Task)
		}
		if p.Stage != a.Stage {
			cancel()
			return fmt.Errorf("gate: task %s is in stage %s, and task %s above it in %s", a.Task, a.Stage, a.Parent, p.Stage)
		}
		r.parent = p
	}
	g.tasks[key] = r
	return nil
}

// Forget drops what the gate holds of an ended task, so that memory does not
// grow with the number of tasks. A later attempt meets an unknown task.
func (g *Gate) Forget(tenant, task string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := tenant + "/" + task
	if r := g.tasks[key]; r != nil {
		r.mu.Lock()
		ended := r.ended != nil && r.inflight == 0
		r.mu.Unlock()
		if ended {
			delete(g.tasks, key)
		}
	}
}

// End is Shut, and returns when the last dispatch has returned, or with ctx's
// error. It must not be called from inside a dispatch of such a task. The caller
// writes the record of the end afterwards; a crash in between ends the tasks
// too, since no task survives its process.
func (g *Gate) End(ctx context.Context, match func(Admission) bool, code, reason string) error {
	for _, r := range g.shut(match, code, reason) {
		select {
		case <-r.idle:
		case <-ctx.Done():
			return fmt.Errorf("task %s still has a dispatch in flight: %w", r.Task, ctx.Err())
		}
	}
	return nil
}

// Shut closes the fence of every admitted task that match selects, and of all
// that are parts of one: when it
// returns, nothing of them that is not in flight is dispatched any more, and what
// is in flight has lost its context. It does not wait.
func (g *Gate) Shut(match func(Admission) bool, code, reason string) { g.shut(match, code, reason) }

func (g *Gate) shut(match func(Admission) bool, code, reason string) (hit []*running) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.tasks {
		if slices.ContainsFunc(r.line(), func(x *running) bool { return match(x.Admission) }) {
			r.close(action.Denied(action.LayerAuthority, code, reason, "open a new task"))
			hit = append(hit, r)
		}
	}
	return hit
}

func (r *running) close(why action.Decision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended != nil {
		return
	}
	r.ended = &why
	r.cancel()
	if r.inflight == 0 {
		close(r.idle)
	}
}

// enter passes the fence. Every enter that returned nil is followed by leave.
func (r *running) enter() *action.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended != nil {
		return r.ended
	}
	r.inflight++
	return nil
}

func (r *running) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inflight--
	if r.inflight == 0 && r.ended != nil {
		close(r.idle)
	}
}

// Done is closed when the task has ended, for whatever reason. An unknown task
// counts as ended.
func (g *Gate) Done(tenant, task string) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.tasks[tenant+"/"+task]; r != nil {
		return r.ctx.Done()
	}
	c := make(chan struct{})
	close(c)
	return c
}

func (g *Gate) find(a action.Action) *running {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.tasks[a.Tenant+"/"+a.Task]
	if r == nil || r.Agent != a.Agent {
		return nil
	}
	return r
}

func denyAll(a action.Action, d action.Decision) Result {
	slog.Debug("gate: denied without a task", "task", a.Task, "code", d.Code)
	return Result{Action: a, Decision: d, Seq: -1}
}
