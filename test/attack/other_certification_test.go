package attack

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A production task opens under a certification of this tenant, stage, agent,
// boundary and suite that people approved and that is in force, and under no other
// one. Each case is a tenant of its own, with a certification that is good but for one
// thing; brightwell has the same people, names and keys, and none.
//
// Threats: T50, I2 (authority)
func TestCertificationOfSomethingElse(t *testing.T) {
	r := rig.New(t, rig.Options{})
	r.Ready(t)
	r.StopApprover()
	other := canon.Digest([]byte("other"))
	fact := func(c *certify.Certification, name string, value action.Digest) {
		facts := slices.DeleteFunc(slices.Clone(c.Manifest.Facts), func(f boundary.Fact) bool { return f.Name == name })
		if value != "" {
			facts = append(facts, boundary.Fact{Name: name, Value: string(value), Grade: boundary.Pinned})
		}
		var err error
		if c.Manifest, err = boundary.New(c.Manifest.Agent, facts); err != nil {
			t.Fatal(err)
		}
	}
	type certification = certify.Certification
	cases := []struct {
		name   string
		change func(*certification)
		// The one or the other: by approves it, or it is in force whoever did.
		by    string
		force bool
		want  string // the refusal
	}{
		{name: "the_right_one", by: "ines"},
		{name: "not_approved", want: "no_certification"},
		{name: "approved_by_its_author", by: "mara", want: "no_certification"},
		{name: "failed", change: func(c *certification) { c.Suites[0].Scenarios[1].Violated = 1 }, by: "ines", want: "no_certification"},
		{name: "of_the_sandbox", change: func(c *certification) { c.Stage = action.Sandbox }, by: "ines", want: "no_certification"},
		{name: "of_another_agent", change: func(c *certification) { c.Agent = "payroll" }, force: true, want: "no_certification"},
		{name: "of_another_boundary", change: func(c *certification) { fact(c, "connector.iam", other) }, force: true, want: "no_certification"},
		{name: "of_another_boundary_that_waits", change: func(c *certification) { fact(c, "connector.iam", other) }, by: "ines", want: "no_certification"},
		{name: "of_a_smaller_boundary", change: func(c *certification) { fact(c, "policy.company", "") }, force: true, want: "no_certification"},
		{name: "of_a_larger_boundary", change: func(c *certification) { fact(c, "connector.payroll", other) }, force: true, want: "no_certification"},
		{name: "by_another_suite", change: func(c *certification) { c.Suites[0].Name = "easy" }, by: "ines", want: "no_certification"},
		{name: "by_the_suite_as_it_was", change: func(c *certification) { c.Suites[0].Digest = other }, by: "ines", want: "no_certification"},
		{name: "by_some_of_its_suites", change: func(c *certification) { fact(c, "suite.injection", other) }, by: "ines", want: "no_certification"},
		{name: "of_two_boundaries_in_one_run", change: func(c *certification) {
			c.Suites[0].Mixed = []boundary.Change{{Name: "model.geo", Old: "eu", New: "us"}}
		},
			by: "ines", want: "no_certification"},
		{name: "expired", force: true, want: "no_certification"},
		{name: "expired_before_it_was_approved", by: "ines", want: "no_certification"},
		{name: "lapsed", force: true, want: "no_certification"},
		{name: "replaced_by_one_that_lapsed", force: true, want: "no_certification"},
	}
	tenant := func(name string) string { return strings.ReplaceAll(name, "_", "-") }
	bases := map[string]certification{}
	for _, c := range cases {
		name := tenant(c.name)
		anotherTenant(t, r, name)
		for _, a := range pendingOf(t, r, name) {
			if err := signFor(t, r, name, a, "ines"); err != nil {
				t.Fatal(err)
			}
		}
		b, err := r.Server.Boundary(t.Context(), name, "helpdesk", "")
		if err != nil {
			t.Fatal(err)
		}
		bases[c.name] = rig.Passed(b)
	}
	stopped(t, r, func(ctx context.Context, of func(string) (*rig.Stopped, error)) error {
		for _, c := range cases {
			s, err := of(tenant(c.name))
			if err != nil {
				return err
			}
			issue := func(x certification, valid time.Duration) error {
				x, err := s.Propose(ctx, x, valid)
				if err == nil && c.force {
					_, err = s.Certs.Issue(ctx, x.ID, "", certify.Verifier{}, nil)
				}
				return err
			}
			x, valid := bases[c.name], time.Hour
			if c.change != nil {
				c.change(&x)
			}
			if strings.HasPrefix(c.name, "expired") {
				valid = 1
			}
			err = issue(x, valid)
			if c.name == "replaced_by_one_that_lapsed" {
				err = errors.Join(err, issue(bases[c.name], time.Hour))
			}
			if strings.HasSuffix(c.name, "lapsed") {
				err = errors.Join(err, s.Certs.Lapse(ctx, "helpdesk", action.Production, certify.Lapse{Code: "test"}, nil))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			pending := pendingOf(t, r, tenant(c.name))
			for _, a := range pending {
				if c.by == "" || c.force {
					continue
				}
				if err := signFor(t, r, tenant(c.name), a, c.by); (err == nil) != (c.by == "ines") {
					t.Errorf("signed by %s: %v", c.by, err)
				}
			}
			if c.name == "the_right_one" && len(pending) != 1 || c.name == "of_another_boundary_that_waits" && len(pending) != 0 {
				t.Errorf("%d questions wait", len(pending))
			}
			opens(t, r, tenant(c.name), c.want)
		})
	}
	opens(t, r, "brightwell", "no_certification")
}

func pendingOf(t *testing.T, r *rig.Rig, tenant string) []approval.Approval {
	t.Helper()
	all, err := r.Server.Approvals(t.Context(), tenant, approval.Pending)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func signFor(t *testing.T, r *rig.Rig, tenant string, a approval.Approval, person string) error {
	t.Helper()
	key, err := r.Key(person)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := approval.Sign(a.Statement, key)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Server.Approve(t.Context(), tenant, a.ID(), person, sig)
	return err
}

// stopped changes the state while the server is down.
func stopped(t *testing.T, r *rig.Rig, f func(ctx context.Context, of func(tenant string) (*rig.Stopped, error)) error) {
	t.Helper()
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	if err := rig.WithStopped(t.Context(), r.Dir, r.Store, func(of func(string) (*rig.Stopped, error)) error { return f(t.Context(), of) }); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
}

// opens opens a production task, or is refused with a code and leaves none.
func opens(t *testing.T, r *rig.Rig, tenant, code string) {
	t.Helper()
	count := func() int {
		all, err := r.Server.Tasks(t.Context(), tenant)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := count()
	x, err := r.Server.OpenTask(t.Context(), tenant, rig.As("dana"), rig.Intent(action.Production, "jo", "4711"))
	if code == "" {
		if err != nil || x.Certification == "" {
			t.Errorf("got %+v, %v", x, err)
		}
		return
	}
	refusedWith(t, err, code)
	if n := count() - before; n != 0 {
		t.Errorf("%d tasks were opened", n)
	}
}
