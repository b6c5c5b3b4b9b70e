package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// applyAs declares the sample's resources after edit.
func applyAs(t *testing.T, r *rig.Rig, person string, edit func(map[string][]byte)) {
	t.Helper()
	all, err := r.Resources(edit)
	if err == nil {
		_, err = r.Server.Apply(t.Context(), rig.As(person), all)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// backTo applies what a resource was in a version, as sallyport rollback does.
func backTo(t *testing.T, r *rig.Rig, person, kind, name string, n int) error {
	t.Helper()
	raw, err := r.Server.Version(t.Context(), "", kind, name, n)
	if err != nil {
		return err
	}
	all, err := resource.Receive([][]byte{raw})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Server.Apply(t.Context(), rig.As(person), all)
	return err
}

// TestChanges has one server, whose ines is an approver and writes policies too.
//
// Threats: R6 (authority, approval)
func TestChanges(t *testing.T) {
	r := rig.New(t, rig.Options{Edit: func(files map[string][]byte) {
		rig.Replace("people.yaml", "ines@brightwell.example\n  roles: [approver]", "ines@brightwell.example\n  roles: [approver, policy-author]")(files)
		rig.Replace("people.yaml", "felix@brightwell.example\n  roles: [approver]", "felix@brightwell.example\n  roles: [approver, owner]")(files)
	}})
	var cert certify.Certification
	t.Run("rollback_brings_nothing_back", func(t *testing.T) { cert = rollbackBringsNothingBack(t, r) })
	t.Run("suite_author_does_not_approve", func(t *testing.T) { suiteAuthorDoesNotApprove(t, r) })
	t.Run("nobody_takes_back_what_is_not_theirs", func(t *testing.T) { takesNothingBack(t, r) })
	t.Run("claims_are_bounded", func(t *testing.T) { claimsAreBounded(t, r) })
	t.Run("versions_are_bounded", func(t *testing.T) { versionsAreBounded(t, r) })
	t.Run("new_deputy_does_not_approve", func(t *testing.T) { newDeputyDoesNotApprove(t, r, cert) })
	t.Run("a_no_is_an_answer", func(t *testing.T) { aNoIsAnAnswer(t, r) })
}

// A change lapses the certification, and what was
// declared before, applied again, is a change by whoever does it: nothing that was
// certified or approved before comes back, and who made it does not approve it.
func rollbackBringsNothingBack(t *testing.T, r *rig.Rig) certify.Certification {
	r.Ready(t)
	b, err := r.Server.Boundary(t.Context(), "", "helpdesk", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	var cert certify.Certification
	err = rig.WithStopped(t.Context(), r.Dir, r.Store, func(of func(string) (*rig.Stopped, error)) error {
		s, err := of("brightwell")
		if err == nil {
			cert, err = s.Propose(context.WithoutCancel(t.Context()), rig.Passed(b), time.Hour)
		}
		return err
	})
	if err == nil {
		err = r.Open()
	}
	if err != nil {
		t.Fatal(err)
	}
	r.Ready(t)
	in := rig.Intent(action.Production, "jo", "4711")
	r.OpenTask(t, in)

	comment := func(text string) func(map[string][]byte) {
		return func(files map[string][]byte) {
			files["policies/company.cedar"] = append(files["policies/company.cedar"], "// "+text+"\n"...)
		}
	}
	people := func(edit func(map[string][]byte)) func(map[string][]byte) {
		return func(files map[string][]byte) {
			delete(files, "people.yaml")
			edit(files)
		}
	}
	r.Approver(rig.Nobody)
	applyAs(t, r, "ines", people(comment("second")))
	rig.Await(t, "the lapse", func() bool { return r.Certification(t, cert.ID).State == certify.Lapsed })
	open := func(code string) {
		t.Helper()
		_, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), in)
		refusedAs(t, "a task for production", err, code)
	}
	open("not_approved")
	refusedAs(t, "rolled back without the role", backTo(t, r, "dana", resource.KindPolicySet, "company", 1), "role_missing")
	refusedAs(t, "a version that is not there", backTo(t, r, "noor", resource.KindPolicySet, "company", 3), "no_such_version")
	refusedAs(t, "a person as they were", backTo(t, r, "kofi", resource.KindPerson, "dana", 1), "not_kept")
	if err := backTo(t, r, "ines", resource.KindPolicySet, "company", 1); err != nil {
		t.Fatal(err)
	}
	// The boundary is the certified one again, to the digest, and nobody approved
	// another meanwhile. Its certification has lapsed all the same.
	open("no_certification")
	if c := r.Certification(t, cert.ID); c.State != certify.Lapsed {
		t.Errorf("the certification is %s", c.State)
	}

	// One that people approved meanwhile replaces the approval, too.
	applyAs(t, r, "noor", people(comment("third")))
	r.Ready(t)
	r.Approver(rig.Nobody)
	if err := backTo(t, r, "ines", resource.KindPolicySet, "company", 1); err != nil {
		t.Fatal(err)
	}
	open("not_approved")
	for _, a := range r.Pending(t) {
		if err := r.Sign(t.Context(), a, "ines"); err == nil {
			t.Errorf("ines, who rolled back, approved the %s %s", a.Statement.Kind, a.Statement.Subject)
		}
	}
	// Nor does she approve a certification of what she wrote, whoever ran it.
	if err := r.Server.AskCertification(t.Context(), cert); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Pending(t), func(a approval.Approval) bool { return a.Statement.Kind == approval.Certification })
	if i < 0 {
		t.Fatal("nobody is asked for the certification")
	}
	refusedAs(t, "ines approves the certification", r.Sign(t.Context(), r.Pending(t)[i], "ines"), "excluded")
	all, err := r.Server.Changes(t.Context(), "", resource.KindPolicySet, "company")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range all {
		got = append(got, c.Author)
	}
	if !slices.Equal(got, []string{"noor", "ines", "ines", "noor", "ines"}) || all[2].SameAs != 1 || all[4].SameAs != 3 || all[3].SameAs != 0 || all[1].Digest == all[3].Digest {
		t.Errorf("changes: %+v", all)
	}
	return cert
}

// Who wrote any part of a boundary does not approve it.
func suiteAuthorDoesNotApprove(t *testing.T, r *rig.Rig) {
	applyAs(t, r, "noor", func(files map[string][]byte) { // the rest is not hers any more
		delete(files, "people.yaml")
		files["policies/company.cedar"] = append(files["policies/company.cedar"], "// fourth\n"...)
	})
	applyAs(t, r, "ines", func(files map[string][]byte) {
		delete(files, "people.yaml")
		files["policies/company.cedar"] = append(files["policies/company.cedar"], "// fourth\n"...)
		rig.Replace("suite.yaml", "safety: 50", "safety: 51")(files)
	})
	pending := r.Pending(t)
	if !slices.ContainsFunc(pending, func(a approval.Approval) bool { return a.Statement.Kind == approval.Boundary }) {
		t.Error("nobody is asked for the boundary")
	}
	for _, a := range pending {
		refusedAs(t, "ines approves the "+string(a.Statement.Kind)+" with her own suite", r.Sign(t.Context(), a, "ines"), "excluded")
		if err := r.Sign(t.Context(), a, "felix"); err != nil {
			t.Errorf("felix: %v", err)
		}
	}
}

// Of what was applied again and again the last hundred versions are kept whole, and of all
// who applied them.
func versionsAreBounded(t *testing.T, r *rig.Rig) {
	for i := range 102 {
		all, err := resource.Receive([][]byte{fmt.Appendf(nil, `{"apiVersion":"sallyport/v1","kind":"Retention","metadata":{"name":"many","tenant":"brightwell"},"spec":{"days":%d}}`, 40+i)})
		if err == nil {
			_, err = r.Server.Apply(t.Context(), rig.As("ada"), all)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for n, code := range map[int]string{1: "not_kept", 2: "not_kept", 103: "no_such_version"} {
		refusedAs(t, "what it said at first", backTo(t, r, "ada", resource.KindRetention, "many", n), code)
	}
	if err := backTo(t, r, "ada", resource.KindRetention, "many", 3); err != nil {
		t.Error(err)
	}
	all, err := r.Server.Changes(t.Context(), "", resource.KindRetention, "many")
	if err != nil || len(all) != 103 || all[0].Author != "ada" || all[102].SameAs != 3 {
		t.Errorf("%d versions: %+v %v", len(all), all[len(all)-1], err)
	}
}

// asks is the open question of a kind.
func asks(t *testing.T, r *rig.Rig, kind approval.Kind) (approval.Approval, bool) {
	t.Helper()
	all := r.Pending(t)
	i := slices.IndexFunc(all, func(a approval.Approval) bool { return a.Statement.Kind == kind })
	if i < 0 {
		return approval.Approval{}, false
	}
	return all[i], true
}

// Who becomes the deputy of an agent while its boundary and its certification wait
// approves none of them: the deputy is a fact, so the one is another and the other gone.
func newDeputyDoesNotApprove(t *testing.T, r *rig.Rig, cert certify.Certification) {
	applyAs(t, r, "noor", func(files map[string][]byte) { delete(files, "people.yaml") }) // as it was certified
	if err := r.Server.AskCertification(t.Context(), cert); err != nil {
		t.Fatal(err)
	}
	applyAs(t, r, "mara", func(files map[string][]byte) {
		delete(files, "people.yaml")
		rig.Replace("agent.yaml", "deputy: tom", "deputy: felix")(files)
	})
	if _, ok := asks(t, r, approval.Certification); ok {
		t.Error("people are asked for the certification of a boundary with another deputy")
	}
	a, ok := asks(t, r, approval.Boundary)
	if !ok || a.Statement.Details["deputy"] != "felix" {
		t.Fatalf("people are asked %q", a.Statement.Details)
	}
	refusedAs(t, "felix approves what he answers for", r.Sign(t.Context(), a, "felix"), "excluded")
}

// What people have said no to is not asked again when something else is applied, nor at a
// start; it is when somebody who may applies it again.
func aNoIsAnAnswer(t *testing.T, r *rig.Rig) {
	a, ok := asks(t, r, approval.Boundary)
	if !ok {
		t.Fatal("nobody is asked")
	}
	if _, err := r.Server.Reject(t.Context(), "", rig.As("ines"), a.ID(), "no"); err != nil {
		t.Fatal(err)
	}
	apply := func(person string, edit func(map[string][]byte)) {
		t.Helper()
		applyAs(t, r, person, func(files map[string][]byte) {
			delete(files, "people.yaml")
			delete(files, "policyset.yaml")
			rig.Replace("agent.yaml", "deputy: tom", "deputy: felix")(files)
			edit(files)
		})
		if _, ok = asks(t, r, approval.Boundary); ok && person != "mara" {
			t.Errorf("people are asked again after an apply of %s", person)
		}
	}
	apply("noor", func(files map[string][]byte) {
		delete(files, "agent.yaml")
		files["spare.yaml"] = []byte("apiVersion: sallyport/v1\nkind: PolicySet\nmetadata: {name: spare, tenant: brightwell}\nspec:\n  policies: [{name: spare.cedar, file: policies/company.cedar}]\n")
	})
	apply("dana", func(map[string][]byte) {}) // nothing changes, so anybody may
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	if _, ok = asks(t, r, approval.Boundary); ok {
		t.Error("people are asked again after a restart")
	}
	if apply("mara", func(map[string][]byte) {}); !ok {
		t.Error("nobody is asked again after the owner has applied the agent again")
	}
}

// A secrets administrator applies a source of their own together with a policy set that
// is no change, and their authorization server answers slowly; a policy author tightens
// the set meanwhile. It once came back as it was, with the administrator as its author.
func takesNothingBack(t *testing.T, r *rig.Rig) {
	before, err := r.Resources(func(files map[string][]byte) {
		delete(files, "people.yaml")
		rig.Replace("policyset.yaml", "What no task", "What not a task")(files)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Server.Apply(t.Context(), rig.As("noor"), before); err != nil {
		t.Fatal(err)
	}
	applyAs(t, r, "noor", func(files map[string][]byte) {
		delete(files, "people.yaml")
		rig.Replace("policyset.yaml", "What no task", "What really no task")(files)
	})
	_, err = r.Server.Declare(t.Context(), "sven", before)
	refusedAs(t, "sven's apply of what was no change", err, "role_missing")
	all, err := r.Server.Changes(t.Context(), "", resource.KindPolicySet, "company")
	if err != nil || all[len(all)-1].Author != "noor" {
		t.Errorf("the last version: %+v %v", all[len(all)-1], err)
	}
}

// What a client says of where its files come from is recorded as claimed, and has a form.
func claimsAreBounded(t *testing.T, r *rig.Rig) {
	all, err := r.Resources(func(files map[string][]byte) {
		delete(files, "people.yaml")
		rig.Replace("policyset.yaml", "What no task", "What never a task")(files)
	})
	if err != nil {
		t.Fatal(err)
	}
	good := server.Provenance{Commit: strings.Repeat("a", 40), Tree: strings.Repeat("b", 64), Branch: "main", Author: "A <a@b>", Signed: "ssh", Time: time.Unix(1, 0).UTC()}
	for what, f := range map[string]func(*server.Provenance){
		"commit": func(p *server.Provenance) { p.Commit = "main" }, "tree": func(p *server.Provenance) { p.Tree = "" },
		"branch": func(p *server.Provenance) { p.Branch = "a\x1b[2J" }, "author": func(p *server.Provenance) { p.Author = strings.Repeat("x", 1000) },
		"signed": func(p *server.Provenance) { p.Signed = "verified" },
	} {
		bad := good
		f(&bad)
		_, err := r.Server.ApplyFrom(t.Context(), rig.As("noor"), all, &bad)
		if refusedAs(t, what, err, "invalid_provenance"); err != nil && !strings.Contains(err.Error(), "claimed."+what) {
			t.Errorf("%s: the error does not name it: %v", what, err)
		}
	}
	if _, err := r.Server.ApplyFrom(t.Context(), rig.As("noor"), all, &good); err != nil {
		t.Fatal(err)
	}
	var body struct{ Claimed server.Provenance }
	for _, e := range r.Records(t, 0) {
		if e.Type == "resource.applied" {
			if err := json.Unmarshal(e.Body, &body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if body.Claimed != good {
		t.Errorf("the record has %+v", body)
	}
}
