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
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A production task opens under a certification of this tenant, stage, agent,
// boundary and suite that people approved and that is in force, and under no other
// one, each of which is good but for one thing.
//
// Threats: T50, I2 (authority)
func TestCertificationOfSomethingElse(t *testing.T) {
	r := rig.New(t, rig.Options{})
	r.Ready(t)
	now, err := r.Server.Boundary(t.Context(), "", "helpdesk", "")
	if err != nil {
		t.Fatal(err)
	}
	fact := func(c *certify.Certification, name, value string) {
		facts := slices.DeleteFunc(slices.Clone(c.Manifest.Facts), func(f boundary.Fact) bool { return f.Name == name })
		if value != "" {
			facts = append(facts, boundary.Fact{Name: name, Value: value, Grade: boundary.Pinned})
		}
		if c.Manifest, err = boundary.New(c.Manifest.Agent, facts); err != nil {
			t.Fatal(err)
		}
	}
	other := string(now.Boundary) // of nothing in the boundary itself
	lapse := func(ctx context.Context, s *rig.Stopped) error {
		return s.Certs.Lapse(ctx, "helpdesk", action.Production, certify.Lapse{Code: "test"}, nil)
	}
	issue := func(ctx context.Context, s *rig.Stopped, c certify.Certification, valid time.Duration) error {
		c, err := s.Propose(ctx, c, valid)
		if err == nil {
			_, err = s.Certs.Issue(ctx, c.ID, "", nil)
		}
		return err
	}
	type certification = certify.Certification
	for _, c := range []struct {
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
		{name: "failed", change: func(c *certification) { c.Scenarios[1].Violated = 1 }, by: "ines", want: "no_certification"},
		{name: "of_the_sandbox", change: func(c *certification) { c.Stage = action.Sandbox }, by: "ines", want: "no_certification"},
		{name: "of_another_agent", change: func(c *certification) { c.Agent = "payroll" }, force: true, want: "no_certification"},
		{name: "of_another_boundary", change: func(c *certification) { fact(c, "connector.iam", other) }, force: true, want: "drift"},
		{name: "of_another_boundary_that_waits", change: func(c *certification) { fact(c, "connector.iam", other) }, by: "ines", want: "no_certification"},
		{name: "of_a_smaller_boundary", change: func(c *certification) { fact(c, "policy.company", "") }, force: true, want: "drift"},
		{name: "of_a_larger_boundary", change: func(c *certification) { fact(c, "connector.payroll", other) }, force: true, want: "drift"},
		{name: "by_another_suite", change: func(c *certification) { c.Suite = "easy" }, force: true, want: "no_certification"},
		{name: "by_the_suite_as_it_was", change: func(c *certification) { c.SuiteDigest = action.Digest(other) }, force: true, want: "no_certification"},
		{name: "expired", force: true, want: "no_certification"},
		{name: "expired_before_it_was_approved", by: "ines", want: "no_certification"},
		{name: "lapsed", force: true, want: "no_certification"},
		{name: "replaced_by_one_that_lapsed", force: true, want: "no_certification"},
	} {
		t.Run(c.name, func(t *testing.T) {
			valid := time.Hour
			if strings.HasPrefix(c.name, "expired") {
				valid = 1
			}
			stopped(t, r, "brightwell", func(ctx context.Context, s *rig.Stopped) error {
				x := rig.Passed(now)
				if c.change != nil {
					c.change(&x)
				}
				// What the case before left.
				err := errors.Join(lapse(ctx, s), s.Approvals.Withdraw(ctx, "test", func(a approval.Approval) bool { return a.State == approval.Pending }))
				if err == nil && c.force {
					err = issue(ctx, s, x, valid)
				} else if err == nil {
					_, err = s.Propose(ctx, x, valid)
				}
				if c.name == "replaced_by_one_that_lapsed" {
					err = errors.Join(err, issue(ctx, s, rig.Passed(now), time.Hour))
				}
				if strings.HasSuffix(c.name, "lapsed") {
					err = errors.Join(err, lapse(ctx, s))
				}
				return err
			})
			for _, a := range r.Pending(t) {
				if c.by == "" || c.force {
					break
				}
				if err := r.Sign(t.Context(), a, c.by); (err == nil) != (c.by == "ines") {
					t.Errorf("signed by %s: %v", c.by, err)
				}
			}
			opens(t, r, "brightwell", c.want)
		})
	}

	// Of another tenant with the same people and names: it opens there.
	stopped(t, r, "brightwell", lapse)
	secondTenant(t, r)
	pending, err := r.Server.Approvals(t.Context(), "northgate", approval.Pending)
	if err != nil {
		t.Fatal(err)
	}
	key, err := r.Key("ines")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range pending {
		sig, err := approval.Sign(a.Statement, key)
		if err == nil {
			_, err = r.Server.Approve(t.Context(), "northgate", a.ID(), "ines", sig)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	theirs, err := r.Server.Boundary(t.Context(), "northgate", "helpdesk", "")
	if err != nil {
		t.Fatal(err)
	}
	stopped(t, r, "northgate", func(ctx context.Context, s *rig.Stopped) error { return issue(ctx, s, rig.Passed(theirs), time.Hour) })
	opens(t, r, "northgate", "")
	opens(t, r, "brightwell", "no_certification")
}

// stopped changes the state of a tenant while the server is down.
func stopped(t *testing.T, r *rig.Rig, tenant string, f func(context.Context, *rig.Stopped) error) {
	t.Helper()
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	if err := rig.WithStopped(t.Context(), r.Dir, r.Store, tenant, func(s *rig.Stopped) error { return f(t.Context(), s) }); err != nil {
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
