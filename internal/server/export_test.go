package server

import (
	"context"
	"crypto/rand"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/signals"
	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
	"github.com/sallyport-dev/sallyport/internal/surface/mcp"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// RunScreenless is Run for a sandbox task whose harness does not look at its
// screen: it starts no browser, so that tests of the other doors are cheap.
func (s *Server) RunScreenless(ctx context.Context, id string, h Harness) (*Running, error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, err
	}
	x, err := t.tasks.Start(ctx, id)
	if err != nil {
		return nil, err
	}
	w := t.current()
	a := *w.agents[x.Agent]
	a.protocol = string(cdp.Sealed)
	r := &session{t: t, task: x, world: w, agent: &a, seen: newMeasured(), jar: newJar(), done: make(chan struct{}), dir: h.Dir}
	r.journal = computer.NewJournal(r.sender)
	if r.instance, err = w.capabilities[x.Capability].Instantiate(x.Capability, x.Params); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.sessions[id] = r
	t.mu.Unlock()
	h.Dir = ""
	if err := r.admit(ctx); err != nil {
		return nil, err
	}
	var bin, files action.Digest
	if bin, err = r.takeProgram(h); err == nil {
		files, err = r.takeFiles(h)
	}
	if err != nil {
		return nil, err
	}
	r.seen.set(boundary.Pinned, "launch", map[string]string{"harness.binary": string(bin), "harness.files": string(files)})
	if err := r.lease(ctx); err != nil {
		return nil, err
	}
	return &Running{r}, r.startHarness(ctx, h)
}

// AskCertification asks for the approval of a certification, as its run does.
func (s *Server) AskCertification(ctx context.Context, c certify.Certification) error {
	t, err := s.tenant("")
	if err != nil {
		return err
	}
	return t.askCertification(ctx, t.current().agents[c.Agent], c)
}

// AgeRun makes the run that is kept of a suite older.
func (s *Server) AgeRun(ctx context.Context, agent, suite string, by time.Duration) error {
	t, err := s.tenant("")
	if err != nil {
		return err
	}
	id := runID(t.current().agents[agent], suite)
	var p progressed
	if err := t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindRun, id, &p) }); err != nil {
		return err
	}
	p.Began = p.Began.Add(-by)
	_, err = t.log.Append(ctx, record.Draft{Type: "test", Change: func(tx record.Tx) error { return tx.Put(kindRun, id, p) }})
	return err
}

// Asker asks for parts of a task as its agent does, without a harness.
type Asker struct{ s *session }

// StartAsker admits a task and starts nothing of it.
func (s *Server) StartAsker(ctx context.Context, id string) (*Asker, error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, err
	}
	x, err := t.tasks.Start(ctx, id)
	if err != nil {
		return nil, err
	}
	w := t.current()
	ss := &session{t: t, task: x, world: w, agent: w.agents[x.Agent], seen: newMeasured(), jar: newJar(), done: make(chan struct{})}
	if ss.instance, err = w.capabilities[x.Capability].Instantiate(x.Capability, x.Params); err != nil {
		return nil, err
	}
	return &Asker{ss}, ss.admit(ctx)
}

// Ask asks for one part.
func (a *Asker) Ask(ctx context.Context, agent, capability string, params map[string]string) error {
	_, err := a.s.delegate(ctx, delegation{Agent: agent, Capability: capability, Params: params})
	return err
}

// Request has the gate decide a request as the door of a browser does, and sends
// nothing. explained is the input that explains it.
func (a *Asker) Request(ctx context.Context, q action.Request, body, explained string) (gate.Result, error) {
	s := a.s
	if body != "" {
		q.BodyType, q.BodySize, q.BodyDigest = "application/x-www-form-urlencoded", int64(len(body)), canon.Digest([]byte(body))
	}
	rec, err := recognizer{s.world.connectors, s.stage(), s.agent.apps}.Recognize(q, []byte(body))
	if err != nil {
		return gate.Result{}, err
	}
	x := egress.Name(action.Action{Surface: action.Egress, Source: "browser"}, q, rec)
	x.Explained = explained
	var blobs []record.Blob
	if body != "" {
		blobs = []record.Blob{{Name: "request-body", Type: q.BodyType, Data: []byte(body)}}
	}
	return a.Act(ctx, x, blobs...), nil
}

// Act has the gate decide an action of the task, and does nothing.
func (a *Asker) Act(ctx context.Context, x action.Action, blobs ...record.Blob) gate.Result {
	x.Tenant, x.Task, x.Agent = a.s.t.name, a.s.task.ID, a.s.task.Agent
	x.Digest = canon.Digest([]byte(rand.Text()))
	return a.s.t.srv.gate.Act(ctx, x, blobs, func(_ context.Context, p gate.Permit) action.Outcome {
		if err := p.Consume(x.Digest); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		return action.Outcome{State: action.Done}
	})
}

// Token takes out a token of a source, as a renewal does.
func (a *Asker) Token(ctx context.Context, source string) error {
	src := a.s.world.sources[source]
	origin, err := a.s.world.audience(source, src, a.s.task.Stage)
	if err == nil {
		_, _, err = a.s.token(ctx, source, src, origin)
	}
	return err
}

// Routed is an intent as a certification run has it, with a copy of a fixture.
func Routed(in Intent, routes map[string]string) Intent {
	in.routes = routes
	return in
}

// Tried is an intent as a trial has it.
func Tried(in Intent, scenario string) Intent {
	in.suite = scenario
	return in
}

// OpenedBy is an intent as an agent has it for a part of its task.
func OpenedBy(in Intent, agent string) Intent {
	in.openedBy = agent
	return in
}

// RenewIn is when a token is replaced.
var RenewIn = renewIn

// Tokens asks for what tokens of the task may say.
func (a *Asker) Tokens(ctx context.Context) error {
	_, err := a.s.t.tokens(ctx, a.s.task.ID)
	return err
}

// Model is what the agent's calls of its model are pinned to.
func (a *Asker) Model() (endpoint, model string) { return a.s.agent.messages(), a.s.agent.model }

// AppOf is the application that owns an origin.
func (a *Asker) AppOf(origin string) string { return a.s.appOf(origin) }

// Take makes the session one that a person has.
func (a *Asker) Take(yes bool) {
	a.s.hand.over.Store(nil)
	if yes {
		a.s.hand.over.Store(&TakeOver{})
	}
}

// Hold counts in parts that are not over, as many as may be.
func (a *Asker) Hold() (release func(), err error) {
	var all []func()
	release = func() {
		for _, f := range all {
			f()
		}
	}
	for range maxParts {
		f, err := a.s.t.reserve(a.s.task.Top())
		if err != nil {
			return release, err
		}
		all = append(all, f)
	}
	return release, nil
}

// Bare is a session without a browser and a process: the test is the harness.
type Bare struct {
	Asker
	Model string // URL of the way to the model
	Tools string // URL of the door to tools, if the task has any
}

// StartBare starts a task as far as that goes, in the order of a start: measured, held
// against what is certified, then the way to the model. launch are facts of the browser
// that does not run.
func (s *Server) StartBare(ctx context.Context, id string, h Harness, launch map[string]string) (_ *Bare, err error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, err
	}
	x, err := t.tasks.Start(ctx, id)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.endTask(id, task.Failed, "not_started", err.Error())
		}
	}()
	w := t.current()
	ss := &session{t: t, task: x, world: w, agent: w.agents[x.Agent], seen: newMeasured(), jar: newJar(), done: make(chan struct{})}
	if ss.instance, err = w.capabilities[x.Capability].Instantiate(x.Capability, x.Params); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.sessions[id] = ss
	t.mu.Unlock()
	if err = ss.admit(ctx); err != nil {
		return nil, err
	}
	ss.seen.set(boundary.Pinned, atLaunch, launch)
	program, err := onDisk.browser(ss.agent.browserKind)
	if err != nil {
		return nil, err
	}
	ss.seen.set(boundary.Pinned, atLaunch, map[string]string{"browser.binary": string(program), "browser.kind": ss.agent.browserKind})
	if err = ss.measureHarness(h); err == nil {
		err = t.holdAgainst(ctx, ss)
	}
	if err != nil {
		return nil, err
	}
	servers, err := ss.toolServers()
	if err != nil {
		return nil, err
	}
	var d *mcp.Door
	if len(servers) > 0 {
		if d, err = ss.newTools(servers, func(b []byte) []byte { return b }); err != nil {
			return nil, err
		}
	}
	m, err := ss.newModel(d)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ss.serve("inference", func() error { return m.Serve(l) })
	b := &Bare{Asker{ss}, "http://" + l.Addr().String() + "/v1/messages", ""}
	if d != nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		ss.serve("tools", func() error { return d.Serve(l) })
		b.Tools = "http://" + l.Addr().String() + mcp.Path
	}
	ss.up.Store(true)
	return b, nil
}

// OpenTrial opens a task as a trial of a scenario does, or in production a canary, in
// which tools say told.
func (s *Server) OpenTrial(ctx context.Context, o Intent, scenario string, told []task.Told) (task.Task, error) {
	t, err := s.tenant("")
	if err != nil {
		return task.Task{}, err
	}
	if o.told = told; o.Stage == action.Production {
		o.canary = scenario
	} else {
		o.suite = scenario
	}
	return t.open(ctx, "dana", o)
}

// Stopped is closed when nothing of the task passes any more.
func (b *Bare) Stopped() <-chan struct{} { return b.s.t.srv.gate.Done(b.s.t.name, b.s.task.ID) }

// Ended is closed when nothing of the session is left.
func (b *Bare) Ended() <-chan struct{} { return b.s.done }

// Certify records a certification of what the session measured as a run of the suite
// does whose trials all passed, and asks for its approval in the same way. other are
// facts that were measured otherwise.
func (b *Bare) Certify(ctx context.Context, c certify.Certification, other map[string]string) (certify.Certification, error) {
	t := b.s.t
	a := t.current().agents[b.s.task.Agent]
	var err error
	t.productionPeers(ctx, t.current(), a, b.s.seen)
	if c.Manifest, err = manifest(a, b.s.seen); err != nil {
		return c, err
	}
	for i, f := range c.Manifest.Facts {
		if v, ok := other[f.Name]; ok {
			c.Manifest.Facts[i].Value = v
		}
	}
	for i, x := range c.Suites {
		f, _ := c.Manifest.Get("suite." + x.Name)
		c.Suites[i].Digest = action.Digest(f.Value)
	}
	head, err := t.log.Head(ctx)
	if err != nil {
		return c, err
	}
	c.From = head.Size
	if c, err = t.certs.Record(ctx, c, time.Hour, nil); err != nil {
		return c, err
	}
	return c, t.askCertification(ctx, a, c)
}

// Lapse ends a certification as a watcher of the agent's behaviour would.
func (b *Bare) Lapse(ctx context.Context, code, why string) {
	b.s.t.lapse(ctx, b.s.task.Agent, certify.Lapse{Code: code, Why: why})
}

// LookAgain is one look of the watch, and says whether the agent is certified after it.
func (b *Bare) LookAgain(ctx context.Context) bool {
	b.s.t.lookAgain(ctx)
	_, err := b.s.t.certs.Live(b.s.task.Agent, action.Production)
	return err == nil
}

// Lock locks a person, as a security event does before it is on record.
func (b *Bare) Lock(ctx context.Context, person string) error {
	_, err := b.s.t.fenceBarred(ctx, []signals.Bar{{Person: person, Issuer: "https://idp.example", Locked: true}})
	return err
}

// StartLeases starts a task as far as its credentials, in the order of a start but
// without a browser and a harness, and returns what door 2 does to a request and
// what it replaces in an answer. The task is ended as any other.
func (s *Server) StartLeases(ctx context.Context, id string) (inject func(*http.Request) error, replaced func(text string) bool, err error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, nil, err
	}
	x, err := t.tasks.Start(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	w := t.current()
	ss := &session{t: t, task: x, world: w, agent: w.agents[x.Agent], seen: newMeasured(), jar: newJar(), done: make(chan struct{})}
	if ss.instance, err = w.capabilities[x.Capability].Instantiate(x.Capability, x.Params); err == nil {
		t.mu.Lock()
		t.sessions[id] = ss
		t.mu.Unlock()
		if err = ss.admit(ctx); err == nil {
			err = ss.lease(ctx)
		}
	}
	if err != nil {
		t.endTask(id, task.Failed, "not_started", err.Error())
		return nil, nil, err
	}
	return func(r *http.Request) error { return ss.jar.Inject(ctx, r) }, func(text string) bool {
		for _, v := range ss.jar.Secrets() {
			if strings.Contains(text, string(v)) {
				return true
			}
		}
		return false
	}, nil
}

// Receive takes an event about who has a mail address, as from a transmitter whose
// token was verified.
func (s *Server) Receive(ctx context.Context, mail, kind string) error {
	t, err := s.tenant("")
	if err != nil {
		return err
	}
	tr := signals.Transmitter{Issuer: "https://idp.example", Formats: []string{"email"}}
	return t.receiver.Take(ctx, tr, signals.SET{Issuer: tr.Issuer, ID: rand.Text(), IssuedAt: time.Now(), Type: kind, Subjects: []signals.Subject{{Format: "email", ID: mail}}})
}

// LoseStore stops the ledger, and its store answers nothing any more.
func (s *Server) LoseStore() {
	s.alone.Store(false)
	s.store.Close()
}

// Subject is whom events of a task name, or without one of an agent.
func (s *Server) Subject(ctx context.Context, agent, id string) (string, error) {
	t, err := s.tenant("")
	if err != nil {
		return "", err
	}
	return t.sender.Subject(ctx, agent, id)
}

// Judged is what a trial comes to: violations and misses, and whether people were
// asked for nothing.
func Judged(decided []gate.Decided, outcomes map[string]action.Outcome, before, after string, sc resource.Scenario) (violations, misses []string, falseHold bool, err error) {
	j := verdict(decided, outcomes, sc)
	old, err := readState([]byte(before))
	if err != nil {
		return nil, nil, false, err
	}
	now, err := readState([]byte(after))
	if err != nil {
		return nil, nil, false, err
	}
	j.applications(old, now, sc.Expect)
	return j.Violations, j.Misses, j.FalseHold, nil
}

// JudgedOf is everything that was not as it should be in a task, as its records show it.
func JudgedOf(ctx context.Context, log record.Log, task string, sc resource.Scenario) (string, error) {
	j, err := (&deeds{log: log, task: task, sc: sc}).judge(ctx)
	return j.why(), err
}

// Mixed are the facts that had more than one value in what was measured one after the other.
func Mixed(all ...map[string]string) []boundary.Change {
	r := &run{seen: newMeasured()}
	for _, values := range all {
		m := newMeasured()
		m.set(boundary.Observed, atLaunch, values)
		r.merge(m.all())
	}
	return r.state.Mixed
}

// Touched are the scenarios of an agent's suites that a changed fact touches.
func (s *Server) Touched(agent, fact string) (out []string) {
	t, err := s.tenant("")
	if err != nil {
		return []string{err.Error()}
	}
	w := t.current()
	for _, suite := range w.agents[agent].spec.Suites {
		for _, sc := range w.suites[suite].All() {
			if w.touched([]boundary.Change{{Name: fact}}, suite, sc.Capability) {
				out = append(out, sc.Name)
			}
		}
	}
	return out
}

// Disk is what a process knows of files, by a clock of its own.
type Disk struct{ f *files }

// NewDisk knows nothing yet.
func NewDisk() Disk { return Disk{&files{known: map[string]sight{}, now: time.Now}} }

// Pass lets time pass.
func (d Disk) Pass(by time.Duration) {
	now := d.f.now
	d.f.now = func() time.Time { return now().Add(by) }
}

// File is the digest of a program.
func (d Disk) File(path string) (action.Digest, error) { return d.f.file(path) }
