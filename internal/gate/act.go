package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Decided is the body of an action.decided record.
type Decided struct {
	Action   action.Action   `json:"action"`
	Decision action.Decision `json:"decision"`
	// Would is what was decided but for the stage, in shadow, where that kept it
	// from passing. It lets nothing through.
	Would    *action.Decision `json:"would,omitempty"`
	Stage    action.Stage     `json:"stage"`
	Tier     string           `json:"tier"`
	Labels   []string         `json:"labels,omitempty"`   // on the task when it was decided
	Approval string           `json:"approval,omitempty"` // the hold that was approved
	Chain    []string         `json:"chain,omitempty"`    // the tasks above, nearest first
}

// FalseHold reports whether people were asked, and not because the capability of the
// task wants them asked.
func (d Decided) FalseHold(capability string) bool {
	if d.Approval == "" && d.Decision.Layer != action.LayerHold {
		return false
	}
	return !slices.ContainsFunc(d.Decision.Policies, func(p string) bool { return strings.HasPrefix(p, "grant/"+capability+"/hold/") })
}

// Outcome is the body of an action.outcome record.
type Outcome struct {
	Action  string         `json:"action"`
	Seq     int64          `json:"decided"` // position of the decision
	Outcome action.Outcome `json:"outcome"`
}

// outcomeLimit bounds how long the outcome record may take once the task's own
// context is gone: the effect has happened and its outcome must be written.
const outcomeLimit = 10 * time.Second

// Act is the one door; see the package comment for the order. It blocks while a
// person must decide, and returns after the outcome is recorded.
func (g *Gate) Act(ctx context.Context, a action.Action, blobs []record.Blob, d Dispatch) Result {
	r := g.find(a)
	if r == nil {
		return denyAll(a, action.Denied(action.LayerAuthority, "unknown_task",
			"no running task with this name belongs to this agent", "open a task and run the agent under it"))
	}
	a.ID = g.ids()

	// The context ends with the caller or with the task, whichever is first.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	if a.Source == "browser" && a.Actor == "" {
		if a.Actor = r.inHand(); a.Actor != "" {
			blobs = nil // people sign in: what they send is not kept, its digest is
		}
	}
	ctx, endTurn, turn := r.turn(ctx, a)
	defer endTurn()

	r.remeasure(ctx, a)
	dec, would, facts := r.decide(g.now(), a, turn, false)
	var hold Hold
	question := ""
	if dec.Verdict == action.Hold {
		dec, hold, question = g.ask(ctx, r, a, dec)
		if hold != nil {
			// The world may have changed while people thought.
			r.remeasure(ctx, a)
			dec, would, facts = r.decide(g.now(), a, turn, true)
		}
	}
	if dec.Verdict != action.Allow {
		res := g.refuse(ctx, r, a, blobs, dec, would, facts)
		res.Question = question
		return res
	}

	body := Decided{Action: a, Decision: dec, Stage: r.Stage, Tier: r.Tier, Labels: facts.Labels, Chain: r.chain()}
	draft := record.Draft{Type: "action.decided", Task: r.Task, Agent: r.Agent, Actor: actor(a), Body: body, Blobs: blobs}
	if hold != nil {
		body.Approval = hold.ID()
		draft.Body = body
		draft.Change = hold.Use
	}
	// Record before release: a crash after this line leaves a decision without
	// an effect, which is reported. The other order could leave an effect that
	// nothing could report.
	e, err := r.Log.Append(ctx, draft)
	if errors.Is(err, record.ErrTooLarge) {
		r.release(a)
		return g.refuse(ctx, r, a, blobs, action.Denied(action.LayerForm, "too_large", "it has more to decide on than a record has room for", "send less at once"), nil, facts)
	}
	if err != nil {
		r.release(a)
		return Result{Action: a, Seq: -1, Decision: action.Denied(action.LayerLedger, "not_recorded",
			"the decision could not be recorded: "+public(err), "restore the ledger; nothing passes until it can write")}
	}
	a.Evidence = append(a.Evidence, e.Evidence...)
	res := Result{Action: a, Decision: dec, Seq: e.Seq}

	if why := r.enter(); why != nil {
		res.Decision = *why
		res.Decision.Layer = action.LayerDispatch
		res.Outcome = &action.Outcome{State: action.Failed, Detail: "not dispatched: " + why.Reason}
		g.outcome(r, res)
		return res
	}
	start := g.now()
	out := dispatch(ctx, d, newPermit(a, a.Digest, facts.Drifted))
	r.leave()
	out.Took = g.now().Sub(start)
	res.Outcome = &out
	g.outcome(r, res)
	r.saw(a, out)
	return res
}

// dispatch turns a panic of one surface into an unknown outcome of one action.
func dispatch(ctx context.Context, d Dispatch, p Permit) (out action.Outcome) {
	defer func() {
		if v := recover(); v != nil {
			out = action.Outcome{State: action.Unknown, Detail: fmt.Sprintf("sallyport: internal error: %v", v)}
		}
	}()
	if err := ctx.Err(); err != nil {
		return action.Outcome{State: action.Failed, Detail: "not dispatched: the task or the caller ended"}
	}
	return d(ctx, p)
}

// decide asks form, authority and policy. turn says that it is the actor's turn.
// approved turns the hold that policy asks for into an allow, and nothing else. An
// allow is counted at once, so that two attempts cannot both be the last that a
// budget lets through. would is what it would be, where shadow denies.
func (r *running) decide(now time.Time, a action.Action, turn, approved bool) (dec action.Decision, would *action.Decision, f Facts) {
	line := r.line()
	for _, x := range line {
		x.mu.Lock()
		defer x.mu.Unlock()
	}
	f = Facts{Action: a, Stage: r.Stage.Conditions(), Tier: r.Tier, Params: r.Params, Labels: slices.Clone(r.labels), Counts: r.counts}
	if d := wellFormed(a); d != nil {
		return *d, nil, f
	}
	for _, x := range line {
		if x.ended != nil {
			return *x.ended, nil, f
		}
	}
	if !turn {
		return outOfTurn(a), nil, f
	}
	for _, x := range line {
		if d := x.spent(now); d != nil {
			return *d, nil, f
		}
	}
	f.Certified = true
	for _, x := range line {
		err := x.Certified()
		f.Certified = f.Certified && err == nil
		if err != nil && x.Stage == action.Production {
			return action.Denied(action.LayerAuthority, "no_certification", err.Error(), "re-certify the agent: sallyport certify "+x.Agent), nil, f
		}
	}
	if r.Drifted != nil && a.Effect.AtLeast(action.Privileged) {
		f.Drifted = r.Drifted()
	}
	d := r.Policy.Decide(f)
	for _, x := range line[1:] {
		d = x.above(d, f)
	}
	for _, x := range line {
		d = x.drifted(d, a)
	}
	f.Counts = nil // shared with the task; not for use outside the lock
	if d.Verdict == action.Hold && approved {
		d.Verdict, d.Code = action.Allow, CodeApproved
	}
	d, would = r.shadow(a, d)
	switch {
	case d.Verdict == action.Allow, would != nil:
		for _, x := range line {
			x.count(a)
		}
	case d.Verdict == action.Hold:
	default: // the zero value and anything unknown
		d.Verdict = action.Deny
	}
	return d, would, f
}

// remeasure looks again at the boundaries of the task and of those above it.
func (r *running) remeasure(ctx context.Context, a action.Action) {
	if !a.Effect.AtLeast(action.Privileged) {
		return
	}
	for _, x := range r.line() {
		if x.Remeasure != nil {
			x.Remeasure(ctx)
		}
	}
}

// CodeDrift is the code of a hold that graded drift asks for.
const CodeDrift = "drift"

// drifted holds what is privileged while the boundary has drifted in a graded way.
func (r *running) drifted(d action.Decision, a action.Action) action.Decision {
	if r.Drifted == nil || d.Verdict != action.Allow || !a.Effect.AtLeast(action.Privileged) {
		return d
	}
	if why := r.Drifted(); why != "" {
		d.Verdict, d.Layer, d.Code, d.Approvers = action.Hold, action.LayerAuthority, CodeDrift, "approver"
		d.Reason, d.Next = "the boundary drifted: "+why, "wait for a person with the role approver, or certify the agent again: sallyport certify "+r.Agent
	}
	return d
}

// release gives back what decide reserved for an action that was not recorded.
// Labels stay: they only ever narrow.
func (r *running) release(a action.Action) {
	for _, x := range r.line() {
		x.mu.Lock()
		x.passed--
		x.counts[a.Operation]--
		x.mu.Unlock()
	}
}

// wellFormed is layer form.
func wellFormed(a action.Action) *action.Decision {
	deny := func(code, reason string) *action.Decision {
		d := action.Denied(action.LayerForm, code, reason, "send a request that the surface documents")
		return &d
	}
	if strings.HasSuffix(a.Operation, ".malformed") {
		why := a.Params["why"]
		if why == "" {
			why = "malformed"
		}
		return deny(why, "the request has no canonical form")
	}
	switch a.Surface {
	case action.Computer, action.Egress, action.Inference, action.Database, action.SSH, action.MCP, action.Control:
	default:
		return deny("unknown_surface", "the surface is not known")
	}
	if _, err := action.ParseEffect(string(a.Effect)); err != nil {
		return deny("unknown_effect", err.Error())
	}
	if a.Operation == "" || a.Digest == "" {
		return deny("incomplete_action", "an action needs an operation and the digest of what would be sent")
	}
	return nil
}

// CodeApproved is the code of a decision that people made.
const CodeApproved = "approved"

// CodeHeld is the code of a denial that is none: a person has not answered yet,
// and the same attempt may be made again.
const CodeHeld = "held"

type patienceKey struct{}

// WithPatience bounds how long attempts under the context wait for people, for
// callers that cannot wait as long as the task's HoldLimit. What is not answered
// by then is denied with CodeHeld; the question stays open. It is never so short
// that an answer which is there already is not read.
func WithPatience(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, max(d, 100*time.Millisecond))
}

// ask opens a hold and waits. It returns a Hold only when people approved, and
// otherwise the denial.
func (g *Gate) ask(ctx context.Context, r *running, a action.Action, d action.Decision) (_ action.Decision, _ Hold, question string) {
	deny := func(code, reason, next string) action.Decision {
		n := action.Denied(action.LayerHold, code, reason, next)
		n.Policies, n.Approvers = d.Policies, d.Approvers
		return n
	}
	h, err := r.Holds.Open(ctx, r.asked(a), d)
	if err != nil {
		return deny("hold_not_recorded", "the question to the approvers could not be recorded: "+public(err), "restore the ledger"), nil, ""
	}
	limit := r.HoldLimit
	if left := r.Deadline.Sub(g.now()); left < limit {
		limit = left
	}
	patience, short := ctx.Value(patienceKey{}).(time.Duration)
	if short = short && patience < limit; short {
		limit = patience
	}
	wctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := h.Wait(wctx); err != nil {
		if why := r.why(); why != nil {
			return *why, nil, ""
		}
		if byHand(a) && r.cutShort() {
			return outOfTurn(a), nil, ""
		}
		if short && wctx.Err() != nil && ctx.Err() == nil {
			return deny(CodeHeld, "held for "+d.Approvers+"; the question is "+h.ID(), "send the same again: it passes once it is approved"), nil, h.ID()
		}
		return deny("not_approved", "held for "+d.Approvers+": "+public(err), "ask the approver, then try again"), nil, ""
	}
	return d, h, ""
}

// saw keeps the picture that the agent was given last, whatever the surface. A
// person's is not the agent's.
func (r *running) saw(a action.Action, out action.Outcome) {
	if a.Actor != "" || out.State == action.Failed {
		return
	}
	for _, e := range a.Evidence {
		if e.Name == action.Screenshot {
			r.mu.Lock()
			r.seen = &e
			r.mu.Unlock()
		}
	}
}

// asked is the action as people are asked about it: with the last picture that
// the agent was given before it, if there was one.
func (r *running) asked(a action.Action) action.Action {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen != nil {
		a.Evidence = append(slices.Clone(a.Evidence), *r.seen)
	}
	return a
}

func (r *running) inHand() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hand.of
}

func (r *running) why() *action.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// refuse records a denial. A denial that cannot be recorded is still a denial.
func (g *Gate) refuse(ctx context.Context, r *running, a action.Action, blobs []record.Blob, d action.Decision, would *action.Decision, f Facts) Result {
	res := Result{Action: a, Decision: d, Seq: -1}
	if d.Code == CodeTaken {
		blobs = nil // a picture may show what a person does
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeLimit)
	defer cancel()
	put := func(a action.Action) (record.Entry, error) {
		return r.Log.Append(ctx, record.Draft{Type: "action.decided", Task: r.Task, Agent: r.Agent, Actor: actor(a), Blobs: blobs,
			Body: Decided{Action: a, Decision: d, Would: would, Stage: r.Stage, Tier: r.Tier, Labels: f.Labels, Chain: r.chain()}})
	}
	e, err := put(a)
	if errors.Is(err, record.ErrTooLarge) {
		res.Action = brief(a)
		e, err = put(res.Action)
	}
	if err == nil {
		res.Seq = e.Seq
		res.Action.Evidence = append(res.Action.Evidence, e.Evidence...)
	}
	return res
}

// brief is an action of which a record has room for what is no size of somebody's
// choice. The rest is told by its digest: an attempt does not go unrecorded by being large.
func brief(a action.Action) action.Action {
	sum, err := canon.DigestOf(a)
	if err != nil {
		sum = ""
	}
	a.Params = map[string]string{"tooLarge": string(sum)}
	a.Element, a.Labels = nil, nil
	if a.Request != nil {
		q := *a.Request
		q.Path, q.Query, q.BodyType = string(canon.Digest([]byte(q.Path))), "", ""
		a.Request = &q
	}
	return a
}

// outcome records what became of a dispatch. If it cannot be recorded the
// ledger is broken and denies everything that follows; the decision without an
// outcome reads as unknown.
func (g *Gate) outcome(r *running, res Result) {
	ctx, cancel := context.WithTimeout(context.Background(), outcomeLimit)
	defer cancel()
	_, err := r.Log.Append(ctx, record.Draft{Type: "action.outcome", Task: r.Task, Agent: r.Agent, Actor: "sallyport",
		Body: Outcome{Action: res.Action.ID, Seq: res.Seq, Outcome: *res.Outcome}})
	if err != nil {
		res.Outcome.Detail = strings.TrimPrefix(res.Outcome.Detail+"; the outcome could not be recorded", "; ")
	}
}

// public is the part of an internal error that may be shown: its first line.
func public(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}
