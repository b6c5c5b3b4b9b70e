package server

import (
	"context"
	"encoding/json"
	"fmt"
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
// approved it; what takes away is in force at once, also out of a change that
// does both.
//
// Order of writes: the record resource.proposed with the proposal; the question;
// with the last signature, in one transaction, the record of the approval, the
// resource, and the end of the proposal. A crash after the first leaves a
// question to ask, which the next start asks.

// kindProposed holds what waits: object kind "proposed", id Kind/name, a stored.
const kindProposed = "proposed"

// proposedBody is the body of resource.proposed: what waits, and what is in force
// with the record since it only takes away.
type proposedBody struct {
	Resources []line `json:"resources"`
	Lessened  []line `json:"lessened,omitempty"`
}

func (t *tenant) proposals(ctx context.Context) (map[string]stored, error) {
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
// keeps it. It returns the world without.
func (t *tenant) propose(ctx context.Context, author string, w *world, next map[string]stored, done []Applied) (*world, error) {
	before := t.world
	var held, lost []stored
	for i, d := range done {
		id := d.Kind + "/" + d.Name
		if d.Kind != resource.KindPerson || d.Change == "unchanged" || len(gains(before.people[d.Name], w.people[d.Name])) == 0 {
			continue
		}
		if !before.approvableBy(author, d.Name) {
			return nil, problem(Refused, "nobody_could_approve", "Person/"+d.Name+" would gain "+strings.Join(gains(before.people[d.Name], w.people[d.Name]), ", ")+
				", and nobody but its author and the person themselves is an approver", "have an approver declared beside them")
		}
		held = append(held, next[id])
		done[i].Change = "proposed"
		old, ok := before.resources[id]
		if !ok {
			delete(next, id)
			continue
		}
		var err error
		if next[id], err = lessened(old, before.people[d.Name], w.people[d.Name], author); err != nil {
			return nil, err
		}
		if next[id].Digest != old.Digest {
			lost = append(lost, next[id])
		}
	}
	if held == nil {
		return w, nil
	}
	w, err := buildWorld(next)
	if err != nil {
		return nil, problem(Invalid, "invalid_resources", "without what has to be approved first: "+err.Error(),
			"apply the Persons alone, have them approved, and apply again; nothing was applied")
	}
	var body, less []line
	for _, s := range held {
		body = append(body, line{s.Kind, s.Name, s.Digest, before.resources[s.id()].Digest})
	}
	for _, s := range lost {
		less = append(less, line{s.Kind, s.Name, s.Digest, before.resources[s.id()].Digest})
	}
	_, err = t.log.Append(ctx, record.Draft{Type: "resource.proposed", Actor: "person:" + author, Body: proposedBody{body, less},
		Change: func(tx record.Tx) error {
			for _, s := range held {
				if err := tx.Put(kindProposed, s.id(), s); err != nil {
					return err
				}
			}
			for _, s := range lost {
				if err := tx.Put(kindResource, s.id(), s); err != nil {
					return err
				}
			}
			return nil
		}})
	if err == nil {
		t.world = w
	}
	return w, err
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
	if after.UnixUser != before.UnixUser && after.UnixUser != "" {
		out = append(out, "account "+after.UnixUser)
	}
	if after.Email != before.Email {
		out = append(out, "mailbox "+after.Email)
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

// approveProposal takes a signature for a proposal. With the last one the
// proposal becomes the resource, if it still fits what else is declared.
func (t *tenant) approveProposal(ctx context.Context, id, person string, signature []byte) (approval.Approval, error) {
	t.mu.Lock() // as apply does: what is declared does not change meanwhile
	defer t.mu.Unlock()
	var next *world
	out, err := t.grant(ctx, id, person, signature, func(tx record.Tx, st approval.Statement) error {
		var p stored
		if err := tx.Get(kindProposed, st.Subject, &p); err != nil {
			return err
		}
		if p.Digest != st.Digest {
			return problem(Refused, "superseded", "another version is proposed now", "see: sallyport approvals")
		}
		all, _ := merge(t.world.resources, nil, "")
		all[p.id()] = p
		w, err := buildWorld(all)
		if err != nil {
			return problem(Refused, "does_not_fit", "it does not fit what is declared now: "+err.Error(), "correct it and apply it again")
		}
		if err := tx.Delete(kindProposed, p.id()); err != nil {
			return err
		}
		next = w
		return tx.Put(kindResource, p.id(), p)
	})
	if err == nil && out.State == approval.Used && next != nil {
		t.world = next
	}
	return out, err
}
