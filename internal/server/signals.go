package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/signals"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// transmitter is a declared one with where its keys are.
type transmitter struct {
	spec resource.TransmitterSpec
	keys *identity.EventKeys
}

// signals reads whose security events are believed, and who may ask for ours.
func (w *world) signals(spec *resource.TenantSpec) error {
	w.transmitters = map[string]transmitter{}
	for i, o := range spec.Transmitters {
		x := identity.OIDC{Issuer: o.Issuer, Keys: o.Keys, KeysURL: o.KeysURL, Roots: o.CA}
		if field, problem := x.Check(); field != "" {
			return fmt.Errorf("tenant: spec.transmitters[%d].%s: %s", i, field, problem)
		}
		keys, err := identity.NewEventKeys(x)
		if err != nil {
			return err
		}
		w.transmitters[o.Issuer] = transmitter{o, keys}
	}
	for _, o := range spec.Receivers {
		w.receivers = append(w.receivers, receiving{signals.Receiving{Name: o.Name, Push: o.Push, Local: o.Local, Roots: o.CA},
			identity.Elsewhere{SPIFFEID: o.Workload.SPIFFEID, Issuer: o.Workload.Issuer, Claims: o.Workload.Claims}})
	}
	return nil
}

// hear makes what takes security events about this tenant's people.
func (t *tenant) hear() *signals.Receiver {
	return &signals.Receiver{
		Log: t.log,
		Find: func(issuer string) (signals.Transmitter, bool) {
			x, ok := t.current().transmitters[issuer]
			out := signals.Transmitter{Issuer: issuer, Audience: x.spec.Audience}
			for _, f := range x.spec.Subjects {
				out.Formats = append(out.Formats, string(f))
			}
			if a := x.spec.Authorization; a != nil {
				out.Authorization = func(ctx context.Context) ([]byte, error) { return t.secret(ctx, a.Sealed) }
			}
			return out, ok
		},
		Open:    t.openEvent,
		People:  func(tr signals.Transmitter, all []signals.Subject) []string { return t.current().named(tr, all) },
		Fence:   t.fenceBarred,
		End:     t.endBarred,
		Refused: func(code string) { t.issuer.RefusedAt("signals", code) },
	}
}

func (t *tenant) openEvent(ctx context.Context, token string) (map[string]canon.Value, error) {
	c, err := identity.OpenEvent(ctx, token, func(issuer string) *identity.EventKeys { return t.current().transmitters[issuer].keys })
	r, ok := errors.AsType[*identity.Refusal](err)
	if !ok {
		return c, err
	}
	code := map[string]string{"unknown_issuer": "invalid_issuer", "unknown_key": "invalid_key", "bad_signature": "invalid_key", "bad_algorithm": "invalid_key"}[r.Code]
	if code == "" {
		code = "invalid_request"
	}
	return nil, &signals.Rejection{Code: code, Description: r.Reason}
}

// named are the people whom one of the identifiers names, in a format that the
// transmitter is believed in.
func (w *world) named(t signals.Transmitter, all []signals.Subject) []string {
	out := []string{}
	for name, p := range w.people {
		if slices.ContainsFunc(all, func(s signals.Subject) bool {
			if !slices.Contains(t.Formats, s.Format) {
				return false
			}
			if s.Format == "email" {
				return p.Email != "" && strings.EqualFold(p.Email, s.ID)
			}
			// Another issuer's subject is nobody that this transmitter may speak of.
			return (s.Issuer == "" || s.Issuer == t.Issuer) && slices.Contains(p.Subjects, resource.SubjectSpec{Issuer: t.Issuer, Subject: s.ID})
		}) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// bar is what a security event took from a person; the zero value is nothing.
func (t *tenant) bar(person string) signals.Bar {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.bars[person]
}

// barredTask says why a task may not start or go on: who asked for it, or owns
// its agent, was barred after it was opened.
func (t *tenant) barredTask(w *world, x task.Task) string {
	who := []string{x.Requester}
	if a := w.agents[x.Agent]; a != nil {
		who = append(who, a.owner)
	}
	for _, p := range who {
		if b := t.bar(p); b.Locked || !b.Since.IsZero() && !x.Opened.After(b.Since) {
			return "a security event of " + b.Issuer + " about " + p + " came after the task was opened"
		}
	}
	return ""
}

// fenceLimit bounds how long a dispatch in flight is waited for before an event
// is on record; the fence stands either way.
const fenceLimit = 5 * time.Second

// fenceBarred bars people in memory, then shuts the gate for every task that
// this ends: on behalf of whom it runs, whose agent it is, or who has its session.
func (t *tenant) fenceBarred(ctx context.Context, bars []signals.Bar) ([]string, error) {
	t.mu.Lock()
	for _, b := range bars {
		t.bars[b.Person] = t.bars[b.Person].With(b)
	}
	t.mu.Unlock()
	all, err := t.tasks.Unfinished(ctx)
	if err != nil {
		return nil, err
	}
	w, ids := t.current(), []string{}
	for _, x := range all {
		if t.barredTask(w, x) != "" || t.inHandOf(x.ID, bars) {
			ids = append(ids, x.ID)
		}
	}
	limited, cancel := context.WithTimeout(ctx, fenceLimit)
	defer cancel()
	err = t.srv.gate.End(limited, func(a gate.Admission) bool { return a.Tenant == t.name && slices.Contains(ids, a.Task) },
		"barred", "a security event about the person it acts for, or who owns the agent")
	// Then what such a person stands behind.
	t.lapseChanged(context.WithoutCancel(ctx))
	return ids, err
}

// inHandOf reports whether one of these people has taken the task's session over.
func (t *tenant) inHandOf(id string, bars []signals.Bar) bool {
	t.mu.RLock()
	s := t.sessions[id]
	t.mu.RUnlock()
	if s == nil {
		return false
	}
	over := s.hand.over.Load()
	return over != nil && slices.ContainsFunc(bars, func(b signals.Bar) bool { return b.Person == over.Person })
}

// endBarred ends tasks, without the transmitter waiting for applications.
func (t *tenant) endBarred(tasks []string, why string) {
	t.srv.background(func(context.Context) {
		var wg sync.WaitGroup
		for _, id := range tasks {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
				defer cancel()
				if _, err := t.tasks.Close(ctx, id, task.Revoked, "barred", why, "sallyport"); err != nil {
					t.srv.log.Warn("task is still closing", "task", id, "err", err)
				}
			})
		}
		wg.Wait()
	})
}

// Reinstate gives back what security events took from a person. An identity
// administrator does it, and nobody for themselves. When events have locked all of
// those, the way back is breakGlass.
func (s *Server) Reinstate(ctx context.Context, tenantName string, c Caller, person, reason string, breakGlass bool) (Identity, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return Identity{}, err
	}
	t.receiver.Lock() // no event about anybody is between its fence and its record
	defer t.receiver.Unlock()
	b, by, actor := t.bar(person), "", c.account()
	if breakGlass {
		err = t.mayBreakGlass(c, person)
	} else if by, err = t.require(c, "reinstate a person", resource.RoleIdentity); err == nil {
		actor = "person:" + by
	}
	switch {
	case err != nil:
		return Identity{}, err
	case reason == "" || len(reason) > maxWhy:
		return Identity{}, problem(Invalid, "bad_reason", "to reinstate somebody needs a reason, of at most "+fmt.Sprint(maxWhy)+" bytes", "add --reason")
	case b.Person == "":
		return Identity{}, problem(NotFound, "not_barred", "no security event took anything from "+person, "see: sallyport identity show")
	case by == person:
		return Identity{}, problem(Refused, "excluded", "nobody reinstates themselves", "ask another identity administrator")
	}
	// The record first: a crash in between leaves them barred in this process,
	// which is over. An event that could not be recorded is in memory alone.
	body := map[string]any{"person": person, "reason": reason, "since": b.Since, "issuer": b.Issuer, "event": b.Event, "jti": b.JTI}
	if breakGlass {
		body["breakGlass"] = true
	}
	_, err = t.log.Append(ctx, record.Draft{Type: "person.reinstated", Actor: actor, Body: body,
		Change: func(tx record.Tx) error { return tx.Delete(signals.KindBarred, person) }})
	if err != nil {
		return Identity{}, err
	}
	t.mu.Lock()
	delete(t.bars, person)
	t.mu.Unlock()
	return s.Identity(ctx, tenantName)
}

// mayBreakGlass: an identity administrator whom an event locked gets back in by the
// user that the server runs as, who could read the store anyway, and only when no
// identity administrator is left who could do it. It gives the operator no role, and
// nobody else anything; whoever is told of alarms hears of it.
func (t *tenant) mayBreakGlass(c Caller, person string) error {
	w := t.current()
	p := w.people[person]
	administers := func(p *resource.PersonSpec) bool { return p != nil && slices.Contains(p.Roles, resource.RoleIdentity) }
	switch {
	case !c.operator():
		return problem(Refused, "operator_only", "the glass is broken by the user that the server runs as, or root", "ask an identity administrator, or who runs the server")
	case !administers(p) || !t.bar(person).Locked:
		return problem(Refused, "not_locked_out", person+" is no identity administrator whom a security event locked", "an identity administrator reinstates others, without --break-glass")
	case !w.demo && uidOf(p.UnixUser) == c.UID:
		return problem(Refused, "excluded", "nobody reinstates themselves", "another account does it: the server's, or root")
	}
	for _, name := range slices.Sorted(maps.Keys(w.people)) {
		if p := w.people[name]; administers(p) && !t.bar(name).Locked && (w.demo || uidOf(p.UnixUser) >= 0) {
			return problem(Refused, "not_needed", name+" is an identity administrator, and not locked", "ask "+name+": sallyport identity reinstate "+person)
		}
	}
	return nil
}

// Events is where a tenant's transmitters deliver.
func (s *Server) Events(tenantName string) (http.Handler, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.receiver, nil
}

// transmit makes the tenant's own transmitter.
func (t *tenant) transmit() *signals.Sender {
	return &signals.Sender{
		Log:  t.log,
		Head: func(ctx context.Context) (int64, error) { h, err := t.log.Head(ctx); return h.Size, err },
		Seal: t.seal, URL: t.issuer.URL(), Subject: t.subject, Sign: t.issuer.SignEvent,
		Authenticate: func(ctx context.Context, token string) (signals.Receiving, error) {
			f, err := t.issuer.Outside(ctx, token)
			if err != nil {
				return signals.Receiving{}, err
			}
			return t.current().receiving(func(r receiving) bool { return r.workload.Is(f) })
		},
		Declared: func(name string) (signals.Receiving, bool) {
			r, err := t.current().receiving(func(r receiving) bool { return r.Name == name })
			return r, err == nil
		},
	}
}

// subject is how others know a task, or an agent: by what the tenant's own issuer
// names it, or by the ID that SPIRE gave, which a task keeps from when it was opened.
func (t *tenant) subject(ctx context.Context, agent, id string) (string, error) {
	own := "spiffe://" + t.issuer.TrustDomain() + "/agent/" + agent
	if id == "" {
		if a := t.current().agents[agent]; a != nil && a.spec.SPIFFEID != "" {
			return a.spec.SPIFFEID, nil
		}
		return own, nil
	}
	x, err := t.tasks.Get(ctx, id)
	if err != nil {
		return "", err
	}
	if x.SPIFFEID != "" {
		return x.SPIFFEID, nil
	}
	return own + "/task/" + id, nil
}

// receiving is a declared receiver with how it proves itself.
type receiving struct {
	signals.Receiving
	workload identity.Elsewhere
}

func (w *world) receiving(is func(receiving) bool) (signals.Receiving, error) {
	if i := slices.IndexFunc(w.receivers, is); i >= 0 {
		return w.receivers[i].Receiving, nil
	}
	return signals.Receiving{}, errors.New("no such receiver is declared")
}

// Streams is the API of a tenant's receivers.
func (s *Server) Streams(tenantName string) (http.Handler, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.sender.Manage(), nil
}

// SSF is the configuration of a tenant's transmitter.
func (s *Server) SSF(tenantName string) (http.Handler, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.sender.Metadata(), nil
}
