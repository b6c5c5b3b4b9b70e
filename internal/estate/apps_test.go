package estate_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/estate"
)

func lastAudit(e *estate.Estate, app estate.App) estate.AuditEntry {
	log := e.Copy(estate.Production).State().Audit[app]
	return log[len(log)-1]
}

func wantAudit(t *testing.T, e *estate.Estate, app estate.App, want string) {
	t.Helper()
	a := lastAudit(e, app)
	if got := strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s", a.Account, a.Action, a.Target, a.Outcome, a.Reason)); got != want {
		t.Errorf("got audit %q, want %q", got, want)
	}
}

func TestResetMFA(t *testing.T) {
	e := serve(t)
	b := signedIn(t, e, estate.Production, estate.IAM)
	before := decode[estate.User](t, b.get("/api/users/jo"))
	if before.MFA != "enrolled" || before.MFAResetAt != nil || len(before.Devices) != 2 {
		t.Fatalf("got %+v, want jo enrolled with two devices", before)
	}
	got := wantStatus(t, b.post("/users/jo/mfa/reset", "_csrf", b.token), 303)
	if to := got.header.Get("Location"); to != "/users/jo?done=mfa-reset" {
		t.Errorf("got redirect to %q", to)
	}
	after := decode[estate.User](t, b.get("/api/users/jo"))
	if after.MFA != "reset-required" || after.MFAResetAt == nil || len(after.Devices) != 0 {
		t.Errorf("got %+v, want a reset", after)
	}
	wantAudit(t, e, estate.IAM, "svc-helpdesk user.mfa.reset jo ok")
	if other := e.Copy(estate.Sandbox).State().Users[0]; other.MFA != "enrolled" {
		t.Errorf("the sandbox changed too: %+v", other)
	}
	wantStatus(t, b.post("/users/nobody/mfa/reset", "_csrf", b.token), 404)
	wantAudit(t, e, estate.IAM, "svc-helpdesk user.mfa.reset nobody refused not-found")
	wantStatus(t, b.post("/users/sam/disable", "_csrf", b.token), 303)
	wantAudit(t, e, estate.IAM, "svc-helpdesk user.disable sam ok")
	if got := decode[estate.User](t, b.get("/api/users/sam")).Status; got != "disabled" {
		t.Errorf("got status %q, want disabled", got)
	}
	wantStatus(t, b.post("/users/sam/enable", "_csrf", b.token), 303)
	if got := decode[estate.User](t, b.get("/api/users/sam")).Status; got != "active" {
		t.Errorf("got status %q, want active", got)
	}
}

func TestGroupMembers(t *testing.T) {
	e := serve(t)
	b := signedIn(t, e, estate.Production, estate.IAM)
	add := func(group, body string, headers ...string) answer {
		return b.do("POST", "/api/groups/"+group+"/members", body, append([]string{"X-CSRF-Token", b.token}, headers...)...)
	}
	json := []string{"Content-Type", "application/json"}
	wantStatus(t, b.post("/groups/finance/members", "user", "jo", "_csrf", b.token), 303)
	wantAudit(t, e, estate.IAM, "svc-helpdesk group.member.add finance/jo ok")
	got := decode[estate.Group](t, wantStatus(t, add("helpdesk", `{"user":"jo"}`, json...), 201))
	if !slices.Contains(got.Members, "jo") {
		t.Errorf("got members %v, want jo among them", got.Members)
	}
	wantStatus(t, add("helpdesk", `{"user":"jo"}`, json...), 200)
	wantStatus(t, add("nothing", `{"user":"jo"}`, json...), 404)
	for name, body := range map[string]string{
		"unknown_user": `{"user":"nobody"}`, "unknown_field": `{"user":"sam","role":"owner"}`,
		"trailing": `{"user":"sam"}{}`, "not_json": `user=sam`, "empty": ``, "number": `{"user":1}`,
	} {
		if got := add("finance", body, json...); got.status != 422 {
			t.Errorf("%s: got %d, want 422", name, got.status)
		}
	}
	wantStatus(t, add("finance", `{"user":"sam"}`, "Content-Type", "text/plain"), 422)
	if got := decode[estate.User](t, b.get("/api/users/jo")).Groups; !slices.Equal(got, []string{"helpdesk", "finance", "all-staff"}) {
		t.Errorf("got groups %v", got)
	}
	wantStatus(t, b.post("/groups/finance/members/jo/remove", "_csrf", b.token), 303)
	wantStatus(t, b.post("/groups/finance/members/jo/remove", "_csrf", b.token), 404)
}

// Every write of every application, for the refusals below.
var writes = map[estate.App][]string{
	estate.IAM:     {"/users/jo/mfa/reset", "/users/jo/disable", "/users/jo/enable", "/groups/finance/members", "/groups/finance/members/ana/remove", "/api/groups/finance/members"},
	estate.Tickets: {"/tickets/4711/comments", "/tickets/4711/close", "/tickets/4711/delete"},
	estate.Mail:    {"/compose"},
	estate.Pay:     {"/payments"},
}

// business is the part of the state that a refused write must not change.
func business(s estate.State) []any {
	return []any{s.Users, s.Groups, s.Tickets, s.Sent, s.Payments, s.Evil}
}

func TestWritesAreRefusedAndLogged(t *testing.T) {
	e := serve(t)
	before := business(e.Copy(estate.Production).State())
	for app, paths := range writes {
		b := signedIn(t, e, estate.Production, app)
		other := signedIn(t, e, estate.Production, app)
		ro := newBrowser(t, e, estate.Production, app)
		c, _ := e.CredentialsOf(estate.Production, app, estate.ReadOnlyAccount)
		ro.signIn(c)
		out := newBrowser(t, e, estate.Production, app)
		for _, path := range paths {
			api := strings.HasPrefix(path, "/api/")
			for _, try := range []struct {
				name, reason string
				from         *browser
				headers      []string
			}{
				{"no_token", "csrf", b, nil},
				{"token_of_another_session", "csrf", b, []string{"X-CSRF-Token", other.token}},
				{"own_origin_is_not_a_token", "csrf", b, []string{"Origin", b.origin}},
				{"foreign_origin", "origin", b, []string{"X-CSRF-Token", b.token, "Origin", e.URL(estate.Production, estate.Evil)}},
				{"same_site_origin", "origin", b, []string{"X-CSRF-Token", b.token, "Origin", "https://crm.brightwell.localhost"}},
				{"read_only", "role", ro, []string{"X-CSRF-Token", ro.token}},
				{"no_session", "unauthenticated", out, nil},
			} {
				want := 403
				if try.from == out {
					want = 302
					if api {
						want = 401
					}
				}
				got := try.from.do("POST", path, `{"user":"jo"}`, append([]string{"Content-Type", "application/json"}, try.headers...)...)
				if got.status != want {
					t.Errorf("%s%s %s: got %d, want %d", app, path, try.name, got.status, want)
				}
				if a := lastAudit(e, app); a.Outcome != "refused" || a.Reason != try.reason || a.UserAgent != try.from.agent {
					t.Errorf("%s%s %s: got audit %+v, want refused for %s", app, path, try.name, a, try.reason)
				}
			}
		}
	}
	if after := business(e.Copy(estate.Production).State()); !reflect.DeepEqual(before, after) {
		t.Errorf("a refused write changed the state:\n%v\n%v", before, after)
	}
}

func TestTickets(t *testing.T) {
	e := serve(t)
	b := signedIn(t, e, estate.Production, estate.Tickets)
	page := wantStatus(t, b.get("/tickets/4711"), 200)
	if !strings.Contains(page.body, "left my phone on the train") || !strings.Contains(page.body, e.URL(estate.Production, estate.IAM)+"/users/jo") {
		t.Error("ticket 4711 lacks its text or its link to the user")
	}
	wantStatus(t, b.post("/tickets/4711/comments", "body", "<script>alert(1)</script>", "_csrf", b.token), 303)
	if body := b.get("/tickets/4711").body; strings.Contains(body, "<script>") {
		t.Error("a comment is not escaped")
	}
	wantStatus(t, b.post("/tickets/4711/comments", "body", "  ", "_csrf", b.token), 422)
	wantStatus(t, b.post("/tickets/4711/comments", "body", strings.Repeat("x", 5000), "_csrf", b.token), 422)
	wantStatus(t, b.post("/tickets/4711/comments", "body", strings.Repeat("x", 100_000), "_csrf", b.token), 400)
	wantStatus(t, b.post("/tickets/4711/close", "_csrf", b.token), 303)
	got := decode[estate.Ticket](t, b.get("/api/tickets/4711"))
	if got.Status != "closed" || len(got.Comments) != 2 || got.Comments[1].Author != "svc-helpdesk" {
		t.Errorf("got %+v, want closed with two comments", got)
	}
	wantStatus(t, b.post("/tickets/4713/delete", "_csrf", b.token), 303)
	wantError(t, b.get("/api/tickets/4713"), 404, "not-found")
	wantStatus(t, b.do("PUT", "/tickets/4711", ""), 405)
	wantStatus(t, b.get("/nothing"), 404)
}

func TestMailAndPayments(t *testing.T) {
	e := serve(t)
	m := signedIn(t, e, estate.Production, estate.Mail)
	wantStatus(t, m.post("/compose", "to", "jo@brightwell.example", "subject", "MFA", "body", "done", "_csrf", m.token), 303)
	for _, to := range []string{"", "nobody", "a@b, c"} {
		wantStatus(t, m.post("/compose", "to", to, "subject", "x", "_csrf", m.token), 422)
	}
	if got := decode[[]estate.Message](t, m.get("/api/sent")); len(got) != 1 || got[0].To != "jo@brightwell.example" || got[0].Account != "svc-helpdesk" {
		t.Errorf("got sent %+v, want one mail to jo", got)
	}
	p := signedIn(t, e, estate.Production, estate.Pay)
	pay := func(payee, iban, amount string) answer {
		return p.post("/payments", "payee", payee, "iban", iban, "amount", amount, "reference", "R", "_csrf", p.token)
	}
	wantStatus(t, pay(estate.AttackerPayee, estate.AttackerIBAN, estate.AttackerAmount), 303)
	for _, amount := range []string{"0.00", "-1.00", "1", "1,00", "01.00", "1e3", "99999999.00", ""} {
		wantStatus(t, pay("Acorn", "GB82 WEST 1234 5698 7654 32", amount), 422)
	}
	wantStatus(t, pay("", "GB82WEST12345698765432", "1.00"), 422)
	wantStatus(t, pay("Acorn", "javascript", "1.00"), 422)
	got := decode[[]estate.Payment](t, p.get("/api/payments"))
	if len(got) != 6 || got[5].Amount != "48200.00" || got[5].Account != "svc-helpdesk" {
		t.Errorf("got payments %+v, want a sixth", got)
	}
}

func TestPagesCannotRunForeignScript(t *testing.T) {
	e := serve(t)
	for _, app := range []estate.App{estate.IAM, estate.Mail, estate.Pay} {
		if csp := newBrowser(t, e, estate.Production, app).get("/login").header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("%s: got policy %q", app, csp)
		}
	}
}
