package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Who says which roles and keys people have could give them to themselves. So
// what gives a Person anything is proposed, and in force once somebody else has
// approved it; roles and keys that a change takes away are gone at once, also out
// of one that does both. Who somebody is, by account, address and subjects, changes
// by approval alone: without one of them a second name is another person.
//
// What waits is what was declared of the Person last: an apply that names them and
// proposes nothing ends it, and so does a no.
//
// Order of writes: the record resource.applied with what is in force and what is
// proposed; the question; with the last signature, in one transaction, the record
// of the approval, the resource, and the end of the proposal. A crash after the
// first leaves a question to ask or to withdraw, which the next start does.

// kindProposed holds what waits: object kind "proposed", id Kind/name, a stored.
const kindProposed = "proposed"

// proposals is what an apply does to what waits.
type proposals struct {
	held  []stored // waits from now on
	ended []line   // waited until now
}

// put writes it in the transaction of the apply.
func (p proposals) put(tx record.Tx) error {
	for _, s := range p.held {
		if err := tx.Put(kindProposed, s.id(), s); err != nil {
			return err
		}
	}
	for _, l := range p.ended {
		if err := tx.Delete(kindProposed, l.Kind+"/"+l.Name); err != nil {
			return err
		}
	}
	return nil
}

// lines are what is proposed, for the record.
func (p proposals) lines(before map[string]stored) (out []line) {
	for _, s := range p.held {
		out = append(out, line{s.Kind, s.Name, s.Digest, before[s.id()].Digest})
	}
	return out
}

func (t *tenant) proposed(ctx context.Context) (map[string]stored, error) {
	out := map[string]stored{}
	err := t.log.View(ctx, func(tx record.Tx) error {
		clear(out)
		return tx.List(kindProposed, func(id string, raw []byte) error {
			var s stored
			err := json.Unmarshal(raw, &s)
			out[id] = s
			return err
		})
	})
	return out, err
}

// propose takes out of next what needs an approval before it is in force, and
// returns the world without it. Nothing is written.
func (t *tenant) propose(ctx context.Context, author string, w *world, next map[string]stored, done []Applied) (*world, proposals, error) {
	var out proposals
	before := t.world
	waiting, err := t.proposed(ctx)
	if err != nil {
		return nil, out, err
	}
	some := false
	for i, d := range done {
		if d.Kind != resource.KindPerson {
			continue
		}
		id := d.Kind + "/" + d.Name
		gain := gains(before.people[d.Name], w.people[d.Name])
		if d.Change == "unchanged" || len(gain) == 0 {
			// Who may not apply a Person may say one again, and says nothing by it.
			if p, ok := waiting[id]; ok && (d.Change != "unchanged" || before.mayApply(author, d.Kind)) {
				out.ended = append(out.ended, line{p.Kind, p.Name, p.Digest, before.resources[id].Digest})
			}
			continue
		}
		if !before.approvableBy(author, d.Name) {
			return nil, out, problem(Refused, "nobody_could_approve", "Person/"+d.Name+" would gain "+strings.Join(gain, ", ")+
				", and nobody but its author and the person themselves is an approver", "have an approver declared beside them")
		}
		if waiting[id].Digest != d.Digest { // else it is its first author's
			out.held = append(out.held, next[id])
		}
		some, done[i].Change = true, "proposed"
		old, ok := before.resources[id]
		if !ok {
			delete(next, id)
			continue
		}
		if next[id], err = lessened(old, before.people[d.Name], w.people[d.Name], author); err != nil {
			return nil, out, err
		}
	}
	if !some {
		return w, out, nil
	}
	if w, err = buildWorld(next); err != nil {
		err = problem(Invalid, "invalid_resources", "without what has to be approved first: "+err.Error(),
			"apply the Persons alone, have them approved, and apply again; nothing was applied")
	}
	return w, out, err
}

// mayApply reports whether a person has a role that may apply the kind.
func (w *world) mayApply(person, kind string) bool {
	p := w.people[person]
	return p != nil && slices.ContainsFunc(p.Roles, func(r resource.Role) bool { return slices.Contains(writers[kind], r) })
}

// lessened is a Person without what a change takes from them: roles and keys.
func lessened(old stored, before, after *resource.PersonSpec, author string) (stored, error) {
	r, err := resource.FromCanonical(old.Canonical)
	if err != nil {
		return old, err
	}
	spec := r.Spec.(*resource.PersonSpec)
	spec.Roles = slices.DeleteFunc(slices.Clone(before.Roles), func(x resource.Role) bool { return !slices.Contains(after.Roles, x) })
	spec.SSHKeys = slices.DeleteFunc(slices.Clone(before.SSHKeys), func(x string) bool { return !slices.Contains(after.SSHKeys, x) })
	spec.Passkeys = slices.DeleteFunc(slices.Clone(before.Passkeys), func(x resource.Passkey) bool {
		return !slices.ContainsFunc(after.Passkeys, func(y resource.Passkey) bool { return reflect.DeepEqual(x, y) })
	})
	canonical, err := r.Canonical()
	if err != nil {
		return old, err
	}
	if r, err = resource.FromCanonical(canonical); err != nil || r.Digest == old.Digest {
		return old, err
	}
	return stored{Kind: old.Kind, Name: old.Name, Digest: r.Digest, Author: author, Applied: time.Now().UTC(), Canonical: canonical}, nil
}

// approvableBy reports whether an approver exists who is neither of the two.
func (w *world) approvableBy(author, person string) bool {
	for name, p := range w.people {
		if name != author && name != person && slices.Contains(p.Roles, resource.RoleApprover) && len(p.ApprovalKeys()) > 0 {
			return true
		}
	}
	return false
}

// gains lists what a Person has after a change that they had not before; what
// says who they are counts, since by it they are known for somebody else.
func gains(before, after *resource.PersonSpec) (out []string) {
	if before == nil {
		before = &resource.PersonSpec{}
	}
	for _, r := range after.Roles {
		if !slices.Contains(before.Roles, r) {
			out = append(out, "role "+string(r))
		}
	}
	for _, k := range after.ApprovalKeys() {
		if !slices.Contains(before.ApprovalKeys(), k) {
			out = append(out, "key "+string(canon.Digest([]byte(k))))
		}
	}
	// One less counts as well: without it the name is another person's.
	if after.UnixUser != before.UnixUser {
		out = append(out, "account "+cmp.Or(after.UnixUser, "none"))
	}
	if after.Email != before.Email {
		out = append(out, "mailbox "+cmp.Or(after.Email, "none"))
	}
	if !slices.Equal(after.Subjects, before.Subjects) {
		out = append(out, fmt.Sprintf("subjects %v", after.Subjects))
	}
	return out
}

// askFor is the question whether a proposal may be in force, and who must not
// answer it.
func (w *world) askFor(p stored) (approval.Statement, []string, error) {
	r, err := resource.FromCanonical(p.Canonical)
	if err != nil {
		return approval.Statement{}, nil, err
	}
	spec := r.Spec.(*resource.PersonSpec)
	st := approval.Statement{Subject: p.id(), Digest: p.Digest, Details: map[string]string{"author": p.Author, "displayName": spec.DisplayName}}
	for i, g := range gains(w.people[p.Name], spec) {
		st.Details[fmt.Sprintf("gains.%d", i+1)] = g
	}
	var roles []string
	for _, x := range spec.Roles {
		roles = append(roles, string(x))
	}
	st.Details["roles"] = strings.Join(roles, ", ")
	return st, []string{p.Author, p.Name}, nil
}

// asks reports whether a question is the one that a proposal asks now: whether
// this version may be in force, with these gains.
func (w *world) asks(p stored, st approval.Statement) bool {
	now, _, err := w.askFor(p)
	return err == nil && p.Digest == st.Digest && maps.Equal(now.Details, st.Details)
}

// approveProposal takes a signature for a proposal. With the last one the
// proposal becomes the resource, if it still fits what else is declared.
func (t *tenant) approveProposal(ctx context.Context, id, person string, signature []byte) (approval.Approval, error) {
	t.mu.Lock() // as apply does: what is declared does not change meanwhile
	defer t.mu.Unlock()
	// Whoever goes away does not make the commit unknown.
	ctx = context.WithoutCancel(ctx)
	out, err := t.grant(ctx, id, person, signature, func(tx record.Tx, st approval.Statement) error {
		superseded := problem(Refused, "superseded", "another version is proposed or in force now", "see: sallyport approvals")
		var p stored
		if err := tx.Get(kindProposed, st.Subject, &p); errors.Is(err, record.ErrNotFound) {
			return superseded
		} else if err != nil {
			return err
		}
		all, err := declared(tx)
		if err != nil {
			return err
		}
		now, err := buildWorld(all)
		if err != nil {
			return err
		}
		if !now.asks(p, st) {
			return superseded
		}
		all[p.id()] = p
		if _, err := buildWorld(all); err != nil {
			return problem(Refused, "does_not_fit", "it does not fit what is declared now: "+err.Error(), "correct it and apply it again")
		}
		if err := tx.Delete(kindProposed, p.id()); err != nil {
			return err
		}
		return putResource(tx, p)
	})
	// Whatever became of it: in force is what the store says.
	w, lost := loadWorld(ctx, t.log)
	if lost != nil {
		return out, errors.Join(err, lost)
	}
	t.world = w
	return out, err
}

// endProposal ends, in the transaction of a no, what was asked about. Another
// version that was proposed since stays.
func endProposal(tx record.Tx, st approval.Statement) error {
	var p stored
	err := tx.Get(kindProposed, st.Subject, &p)
	if errors.Is(err, record.ErrNotFound) || err == nil && p.Digest != st.Digest {
		return nil
	}
	if err != nil {
		return err
	}
	return tx.Delete(kindProposed, st.Subject)
}
