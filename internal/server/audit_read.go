package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/reconcile"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// labelForm is that of a lease's label: what is none is looked up nowhere.
var labelForm = regexp.MustCompile(`^[a-z0-9-]{1,100}$`)

// auditReading is one reading of one application's log.
type auditReading struct {
	t      *tenant
	w      *world
	name   string // connector
	spec   *connector.Spec
	origin string
	client *http.Client
	agents map[string][]string // by account
	state  auditState
	routed map[string]bool // by task: production's addresses lead elsewhere

	found    reconcile.Result // not on record yet
	findings []AuditFinding
	events   int // read since the state on record
	start    int64
	end      bool // of the log
}

// newAuditReading goes on where the last reading of this process ended, or from what is on
// record.
func (t *tenant) newAuditReading(ctx context.Context, w *world, name string, last *auditReading) (*auditReading, error) {
	r := &auditReading{t: t, w: w, name: name, spec: w.connectors.Spec(name), agents: w.auditAgents(name), routed: map[string]bool{}}
	stage := r.spec.Stages[action.Production]
	i := 0
	if r.spec.Audit.Origin != "" {
		i = slices.IndexFunc(stage.Origins, func(o connector.Origin) bool { return o.Name == r.spec.Audit.Origin })
	}
	if i < 0 || i >= len(stage.Origins) {
		return nil, fmt.Errorf("connector %s has no origin for its audit log", name)
	}
	r.origin = stage.Origins[i].URL
	pools, err := roots(w.connectors, action.Production)
	if err != nil {
		return nil, err
	}
	r.client = boundaryClient(pools(r.origin))
	if last != nil {
		r.state, r.start = last.state, last.start
	} else {
		err = t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindAudit, name, &r.state) })
		if err != nil && !errors.Is(err, record.ErrNotFound) {
			return nil, err
		}
		r.start = r.state.Records
	}
	if log := r.origin + r.spec.Audit.Path; r.state.Log != log {
		head, err := t.log.Head(ctx)
		if err != nil {
			return nil, err
		}
		// What was done just before may be in flight, or of now by the application's clock.
		r.state.Records = max(r.state.Records, head.Size-auditBefore)
		r.state.V, r.state.Log, r.state.Read, r.state.Unread = 1, log, time.Time{}, time.Time{}
		r.state.anew()
		if err := r.append(ctx, "audit.began", auditedBody{}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// read reads the log to its end, or as far as one reading goes.
func (r *auditReading) read(ctx context.Context) error {
	var rewritten reconcile.Rewritten
	err := r.pages(ctx)
	if errors.As(err, &rewritten) {
		return errors.Join(err, r.rewritten(ctx, rewritten))
	}
	if err == nil && !r.end {
		return fmt.Errorf("the log goes on after %d pages; the next reading goes on there", auditPages)
	}
	return err
}

func (r *auditReading) pages(ctx context.Context) error {
	a, s := r.spec.Audit, &r.state
	walk := s.Cursor.Walk(a.Consecutive)
	for range auditPages {
		asked := time.Now()
		page, err := r.page(ctx, walk.From())
		if err != nil {
			return err
		}
		fresh, err := walk.Page(places(page))
		if err != nil {
			return err
		}
		shown := asked.Add(-a.Late() - a.Skew()) // all that happened until then is
		if r.end = len(page) == 0; r.end {
			if err := walk.End(shown); err != nil {
				return err
			}
		}
		until, newest := asked, asked
		for i, e := range page {
			until = e.Time
			if i == 0 || e.Time.After(newest) {
				newest = e.Time
			}
			if !fresh[i] {
				continue
			}
			r.events++
			if err := r.take(ctx, e); err != nil {
				return err
			}
		}
		// A log that is far behind is held against the records of its time, and not
		// against all that came since, which are more than can wait.
		crowded := r.settle(ctx, until.Add(-a.Late()-a.Skew()), newest.Add(a.Skew()+auditApart))
		if crowded != nil && !errors.Is(crowded, errCrowded) {
			return crowded
		}
		// Neither what is wrong with the log nor a crowd loses what was found in it.
		wrong := errors.Join(crowded, walk.Final(shown))
		if r.end = r.end && wrong == nil; r.end && s.Read.Add(auditHeartbeat).Before(asked) || r.worth() {
			if err := r.keep(ctx, asked); err != nil {
				return err
			}
		}
		if wrong != nil || r.end {
			return wrong
		}
	}
	return nil
}

// errCrowded says that records are left that were not read: nothing more can wait. What
// was found until then is found.
var errCrowded = fmt.Errorf("more than %d effects or events wait for each other", reconcile.MaxPending)

func places(page []connector.AuditEvent) []reconcile.Line {
	out := make([]reconcile.Line, len(page))
	for i, e := range page {
		out[i] = reconcile.Line{ID: e.ID, Number: e.Number, Digest: e.Digest, Time: e.Time}
	}
	return out
}

// page gets the page that begins after an event.
func (r *auditReading) page(ctx context.Context, after string) ([]connector.AuditEvent, error) {
	a := r.spec.Audit
	src := r.w.sources[a.Credential.Source]
	if src == nil {
		return nil, fmt.Errorf("there is no CredentialSource %s, which the log is read with: apply one", a.Credential.Source)
	}
	secret, err := r.t.stageSecret(ctx, src.Secret, action.Production)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	credential := string(secret)
	if src.Account != "" {
		credential = src.Account + ":" + credential
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL(r.origin, after), nil)
	if err != nil {
		return nil, err
	}
	q.Header.Set("Accept", "application/json")
	q.Header.Set("Cache-Control", "no-cache") // a page from a cache would hide what happened since
	if err := a.Credential.Take().Put(q, nil, credential); err != nil {
		return nil, err
	}
	sent := q.Header.Get(a.Credential.Take().Fields()[0])
	sent = sent[strings.IndexByte(sent, ' ')+1:] // without its scheme
	page, err := r.get(q)
	if err != nil && (strings.Contains(err.Error(), string(secret)) || strings.Contains(err.Error(), sent)) {
		return nil, errors.New("the answer repeats the credential that the log is read with") // errors quote answers
	}
	for _, e := range page {
		if e.Repeats(string(secret)) || e.Repeats(sent) { // it would be on record
			return nil, errors.New("an event repeats the credential that the log is read with")
		}
		if e.Time.After(time.Now().Add(a.Skew() + time.Second)) {
			return nil, fmt.Errorf("event %s is of %s, which is not yet: the application's clock is wrong, or ours", e.ID, e.Time.Format(time.RFC3339))
		}
	}
	return page, err
}

func (r *auditReading) get(q *http.Request) ([]connector.AuditEvent, error) {
	asked := time.Now()
	resp, err := r.client.Do(q)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK { // a redirect is not followed
		return nil, fmt.Errorf("the application answers %d to the question for its audit log", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, connector.MaxAuditPage+1))
	if err != nil {
		return nil, err
	}
	if err := r.clock(resp.Header.Get("Date"), asked, time.Now()); err != nil {
		return nil, err
	}
	return r.spec.Audit.ReadAudit(b)
}

// clock refuses a log whose times could not be compared with ours, if the application
// says what time it is (RFC 9110 section 6.6.1).
func (r *auditReading) clock(date string, asked, answered time.Time) error {
	now, err := http.ParseTime(date)
	if err != nil {
		return nil
	}
	skew := r.spec.Audit.Skew() + time.Second // of which Date has no parts
	if now.Before(asked.Add(-skew)) || now.After(answered.Add(skew)) {
		return fmt.Errorf("the application's clock says %s, which is more than %s from ours: set the clocks right", now.Format(time.RFC3339), r.spec.Audit.Skew())
	}
	return nil
}

// take takes in one event, if it is by an agent's account.
func (r *auditReading) take(ctx context.Context, e connector.AuditEvent) error {
	if e.Time.Before(r.state.Began) {
		return nil
	}
	agents, ours, err := r.whose(ctx, e.Actor)
	if err != nil || !ours {
		return err
	}
	m := r.spec.Means(e)
	if m.Ignored {
		return nil
	}
	ev := reconcile.Event{ID: e.ID, Time: e.Time, Actor: connector.Quoted(e.Actor), Agents: agents, Name: m.Event, Operation: m.Operation, Params: shown(m.Params)}
	switch {
	case m.SignIn:
		if ev.Why, err = r.signedIn(ctx, m.UserAgent, e.Actor, e.Time); err != nil || ev.Why == "" {
			return err
		}
	case m.Operation == "":
		ev.Why = "the connector does not say what such an event is"
	case m.Why != "":
		ev.Why, ev.Params = m.Why, nil
	default:
		ev.Same = reconcile.Same(m.Operation, m.Params)
	}
	r.state.Pending.Seen(ev)
	return nil
}

// whose says whether an account is an agent's, and of which agents. One that bears this
// installation's label was made for a task; without a lease it is all agents'.
func (r *auditReading) whose(ctx context.Context, actor string) (agents []string, ours bool, err error) {
	if agents, ok := r.agents[strings.ToLower(actor)]; ok {
		return agents, true, nil
	}
	label := strings.ToLower(actor)
	if !strings.HasPrefix(label, r.t.leases.Prefix) {
		return nil, false, nil
	}
	if !labelForm.MatchString(label) {
		return r.w.agentsAt(r.name), true, nil
	}
	l, err := r.t.leases.Labelled(ctx, label)
	switch {
	case errors.Is(err, record.ErrNotFound):
		return r.w.agentsAt(r.name), true, nil
	case err != nil:
		return nil, true, err
	}
	return []string{l.Agent}, true, nil
}

// signedIn says why a sign-in was none of the boundary's. Each of those is under the
// label of a lease of that account, which is on record before it and until after it; that a
// thief of the label signs in under it while the lease is open is not seen.
func (r *auditReading) signedIn(ctx context.Context, agent, actor string, when time.Time) (why string, err error) {
	label := strings.TrimSuffix(agent, lease.SweepSuffix)
	if !labelForm.MatchString(label) {
		return "no lease signed in so", nil
	}
	l, err := r.t.leases.Labelled(ctx, label)
	skew := r.spec.Audit.Skew()
	switch src := r.w.sources[l.Source]; {
	case errors.Is(err, record.ErrNotFound), src != nil && src.Connector != r.name:
		return "no lease signed in so", nil
	case err != nil:
		return "", err
	case src != nil && !strings.EqualFold(actor, l.Label) && !slices.Contains(r.w.auditAccounts(r.name, l.Source), strings.ToLower(actor)):
		return "the lease that it names is of another account", nil
	case when.Before(l.Asked.Add(-skew)), l.State == lease.Revoked && when.After(l.Since.Add(skew)):
		return "the lease that it names was not open then", nil
	}
	return "", nil
}

// settle reads the records to the newest one, or to those of a time, and judges. until is
// up to when all events were read.
func (r *auditReading) settle(ctx context.Context, until, to time.Time) error {
	for {
		p := reconcile.Progress{Log: until}
		full, enough := errors.New("full"), errors.New("enough")
		err := r.t.log.Entries(ctx, r.state.Records, func(e record.Entry) error {
			switch {
			case r.state.Pending.Full():
				return full
			case e.Time.After(to):
				p.Records = e.Time
				return enough
			}
			r.state.Records, p.Records = e.Seq+1, e.Time
			return r.record(ctx, e)
		})
		if err != nil && !errors.Is(err, full) && !errors.Is(err, enough) {
			return err
		}
		if p.Head = err == nil; p.Head {
			p.Records = time.Now()
		}
		x := r.state.Pending.Settle(r.spec.Audit.Skew(), p)
		r.found.Matched = append(r.found.Matched, x.Matched...)
		r.found.Bypass = append(r.found.Bypass, x.Bypass...)
		r.found.Missing = append(r.found.Missing, x.Missing...)
		switch {
		case r.state.Pending.Full():
			return errCrowded
		case p.Head, errors.Is(err, enough):
			return nil
		}
	}
}

// record takes in what one record says of effects at the application. What passed in
// the sandbox, or in a trial or canary, went elsewhere.
func (r *auditReading) record(ctx context.Context, e record.Entry) error {
	switch e.Type {
	case "action.decided":
		var d struct {
			Action   action.Action   `json:"action"`
			Decision action.Decision `json:"decision"`
			Stage    action.Stage    `json:"stage"`
		}
		if err := json.Unmarshal(e.Body, &d); err != nil {
			return fmt.Errorf("record %d: %w", e.Seq, err)
		}
		a := d.Action
		if d.Decision.Verdict != action.Allow || a.Surface != action.Egress && a.Surface != action.MCP || a.App != r.name || d.Stage.Conditions() != action.Production {
			return nil
		}
		i := slices.IndexFunc(r.spec.Audit.Operations, func(o connector.AuditOperation) bool { return o.Operation == a.Operation })
		if i < 0 {
			return nil
		}
		if elsewhere, err := r.elsewhere(ctx, a.Task); elsewhere || err != nil {
			return err
		}
		params := map[string]string{}
		for p := range r.spec.Audit.Operations[i].Params {
			params[p] = a.Params[p]
		}
		r.state.Pending.Decided(reconcile.Effect{Action: a.ID, Record: e.Seq, Agent: a.Agent, Task: a.Task, Operation: a.Operation,
			Params: shown(params), Same: reconcile.Same(a.Operation, params), Decided: e.Time, Judged: e.Time.Before(r.state.Began), Read: !a.Effect.Changes(), Person: a.Actor != ""})
	case "action.outcome":
		var o struct {
			Action  string         `json:"action"`
			Outcome action.Outcome `json:"outcome"`
		}
		if err := json.Unmarshal(e.Body, &o); err != nil {
			return fmt.Errorf("record %d: %w", e.Seq, err)
		}
		r.state.Pending.Outcome(o.Action, e.Time, o.Outcome)
	}
	return nil
}

func (r *auditReading) elsewhere(ctx context.Context, id string) (bool, error) {
	if to, ok := r.routed[id]; ok {
		return to, nil
	}
	x, err := r.t.tasks.Get(ctx, id)
	if errors.Is(err, task.ErrUnknown) {
		err = nil
	}
	r.routed[id] = len(x.Routes) > 0
	return r.routed[id], err
}
