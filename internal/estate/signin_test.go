package estate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/estate"
)

var signedApps = []estate.App{estate.IAM, estate.Tickets, estate.Mail, estate.Pay}

func TestSignInOnEveryApplicationOfBothStages(t *testing.T) {
	e := serve(t)
	for _, stage := range []estate.Stage{estate.Sandbox, estate.Production} {
		for _, app := range signedApps {
			t.Run(string(stage)+"_"+string(app), func(t *testing.T) {
				b := newBrowser(t, e, stage, app)
				if got := wantStatus(t, b.get("/"), 302).header.Get("Location"); got != "/login" {
					t.Errorf("got redirect to %q, want /login", got)
				}
				wantError(t, b.get("/api/audit"), 401, "unauthenticated")
				wantError(t, b.get("/account/sessions"), 401, "unauthenticated")
				b.signIn(e.Credentials(stage, app))
				home := wantStatus(t, b.get("/"), 303).header.Get("Location")
				page := wantStatus(t, b.get(home), 200)
				if sandbox := strings.Contains(page.body, "SANDBOX"); sandbox != (stage == estate.Sandbox) {
					t.Errorf("got sandbox badge %v on %s", sandbox, stage)
				}
				log := e.Copy(stage).State().Audit[app]
				if len(log) != 1 || log[0].Action != "session.sign-in" || log[0].Outcome != "ok" || log[0].UserAgent != b.agent {
					t.Errorf("got audit %+v, want one sign-in", log)
				}
			})
		}
	}
}

func TestSessionCookie(t *testing.T) {
	e := serve(t)
	b := newBrowser(t, e, estate.Production, estate.IAM)
	c := e.Credentials(estate.Production, estate.IAM)
	form := b.get("/login?next=/groups/finance")
	got := b.post("/login", "username", c.Username, "password", c.Password.Reveal(), "next", "/groups/finance", "_csrf", find(t, hiddenToken, form.body))
	if to := wantStatus(t, got, 303).header.Get("Location"); to != "/groups/finance" {
		t.Errorf("got redirect to %q, want /groups/finance", to)
	}
	cookie := strings.Join(got.header.Values("Set-Cookie"), "\n")
	for _, want := range []string{"__Host-session=", "HttpOnly", "Secure", "SameSite=Lax", "Path=/"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("cookie %q lacks %s", cookie, want)
		}
	}
}

// An attacker who knows only the address of the form cannot sign a victim in
// (login CSRF), guess a password without a trace, or use sign-in as a redirector.
func TestSignInRefusals(t *testing.T) {
	e := serve(t)
	c := e.Credentials(estate.Production, estate.Mail)
	b := newBrowser(t, e, estate.Production, estate.Mail)
	token := find(t, hiddenToken, b.get("/login").body)

	wantStatus(t, b.post("/login", "username", c.Username, "password", c.Password.Reveal()), 403)
	wantStatus(t, b.post("/login", "username", c.Username, "password", c.Password.Reveal(), "_csrf", "x"+token), 403)
	other := newBrowser(t, e, estate.Production, estate.Mail)
	wantStatus(t, other.post("/login", "username", c.Username, "password", c.Password.Reveal(), "_csrf", token), 403)
	foreign := url.Values{"username": {c.Username}, "password": {c.Password.Reveal()}, "_csrf": {token}}.Encode()
	wantStatus(t, b.do("POST", "/login", foreign, "Content-Type", "application/x-www-form-urlencoded", "Origin", e.URL(estate.Production, estate.Evil)), 403)

	for _, user := range []string{c.Username, "nobody", ""} {
		got := wantStatus(t, b.post("/login", "username", user, "password", "wrong", "_csrf", token), 401)
		if !strings.Contains(got.body, "not right") {
			t.Errorf("no reason on the page for %q", user)
		}
	}
	sandbox := e.Credentials(estate.Sandbox, estate.Mail)
	wantStatus(t, b.post("/login", "username", sandbox.Username, "password", sandbox.Password.Reveal(), "_csrf", token), 401)
	for _, next := range []string{"//evil.localhost/", "https://evil.localhost/", "/\\evil.localhost", "javascript:alert(1)"} {
		fresh := newBrowser(t, e, estate.Production, estate.Mail)
		got := fresh.post("/login", "username", c.Username, "password", c.Password.Reveal(), "next", next, "_csrf", find(t, hiddenToken, fresh.get("/login").body))
		if to := got.header.Get("Location"); to != "/" {
			t.Errorf("next %q: got redirect to %q, want /", next, to)
		}
	}
	var reasons []string
	for _, a := range e.Copy(estate.Production).State().Audit[estate.Mail] {
		if a.Outcome == "refused" {
			reasons = append(reasons, a.Reason)
		}
	}
	want := []string{"csrf", "csrf", "csrf", "origin", "password", "password", "password", "password"}
	if !slices.Equal(reasons, want) {
		t.Errorf("got refusals %q, want %q", reasons, want)
	}
}

func cookieOf(t *testing.T, b *browser) string {
	t.Helper()
	u, err := url.Parse(b.origin)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range b.http.Jar.Cookies(u) {
		if c.Name == "__Host-session" {
			return c.Value
		}
	}
	t.Fatal("no session cookie")
	return ""
}

// A cookie that was copied before sign-out opens nothing after it.
func TestOldCookieAfterSignOut(t *testing.T) {
	e := serve(t)
	b := signedIn(t, e, estate.Production, estate.IAM)
	stolen := "__Host-session=" + cookieOf(t, b)

	wantStatus(t, b.post("/logout"), 403)
	wantStatus(t, b.do("POST", "/logout", "", "Origin", e.URL(estate.Production, estate.Tickets)), 403)
	wantStatus(t, b.do("POST", "/logout", "", "Origin", "null"), 403)
	wantStatus(t, b.do("POST", "/logout", "_csrf=wrong", "Origin", b.origin, "Content-Type", "application/x-www-form-urlencoded"), 403)
	wantStatus(t, b.get("/users"), 200)
	wantStatus(t, b.do("POST", "/logout", "", "Origin", b.origin), 303)

	thief := newBrowser(t, e, estate.Production, estate.IAM)
	if got := wantStatus(t, thief.do("GET", "/users", "", "Cookie", stolen), 302).header.Get("Location"); got != "/login?next=/users" {
		t.Errorf("got redirect to %q, want /login?next=/users", got)
	}
	wantError(t, thief.do("GET", "/api/users", "", "Cookie", stolen), 401, "unauthenticated")
	if got := e.Copy(estate.Production).State().Sessions[estate.IAM]; len(got) != 0 {
		t.Errorf("got sessions %+v, want none", got)
	}

	b.signIn(e.Credentials(estate.Production, estate.IAM))
	wantStatus(t, b.post("/logout", "_csrf", b.token), 303)
	wantStatus(t, b.get("/users"), 302)
}

// A session of one application or stage is worth nothing in another.
func TestCookieOfAnotherApplication(t *testing.T) {
	e := serve(t)
	stolen := "__Host-session=" + cookieOf(t, signedIn(t, e, estate.Sandbox, estate.IAM))
	for _, b := range []*browser{newBrowser(t, e, estate.Production, estate.IAM), newBrowser(t, e, estate.Sandbox, estate.Pay)} {
		wantStatus(t, b.do("GET", "/api/audit", "", "Cookie", stolen), 401)
	}
}

func TestOrphanedSessionIsFoundAndRevoked(t *testing.T) {
	e := serve(t)
	orphan := newBrowser(t, e, estate.Production, estate.Pay)
	orphan.agent = "lease/abc\x20123"
	orphan.signIn(e.Credentials(estate.Production, estate.Pay))
	auditor := newBrowser(t, e, estate.Production, estate.Pay)
	other, _ := e.CredentialsOf(estate.Production, estate.Pay, estate.ReadOnlyAccount)
	auditor.signIn(other)
	b := signedIn(t, e, estate.Production, estate.Pay)

	list := decode[[]estate.Session](t, b.get("/account/sessions"))
	if len(list) != 2 || list[0].UserAgent != orphan.agent || list[0].Current || !list[1].Current {
		t.Fatalf("got sessions %+v, want the orphan and the current one", list)
	}
	foreign := decode[[]estate.Session](t, auditor.get("/account/sessions"))[0].ID
	revoke := func(id string, headers ...string) answer {
		return b.do("POST", "/account/sessions/"+id+"/revoke", "", headers...)
	}
	wantError(t, revoke(list[0].ID), 403, "csrf")
	wantError(t, revoke(list[0].ID, "Origin", e.URL(estate.Production, estate.Evil)), 403, "origin")
	wantError(t, revoke(foreign, "Origin", b.origin), 404, "not-found")
	wantError(t, revoke("s-unknown", "X-CSRF-Token", b.token), 404, "not-found")
	wantStatus(t, orphan.get("/payments"), 200)
	wantStatus(t, revoke(list[0].ID, "X-CSRF-Token", b.token), 204)
	wantStatus(t, orphan.get("/payments"), 302)
	wantStatus(t, auditor.get("/payments"), 200)
}

func TestPasswordIsNeverShown(t *testing.T) {
	const sealed = "sealed-elsewhere-4711"
	e, err := estate.Serve(t.Context(), estate.Config{AdminAddr: "127.0.0.1:0", Password: func(s estate.Stage, a estate.App, user string) string {
		if s == estate.Production && a == estate.IAM && user == estate.ServiceAccount {
			return sealed
		}
		return ""
	}})
	if err != nil {
		t.Fatal(err)
	}
	c := e.Credentials(estate.Production, estate.IAM)
	if c.Password.Reveal() != sealed {
		t.Error("the configured password is not used")
	}
	if r := e.Credentials(estate.Sandbox, estate.IAM).Password.Reveal(); !regexp.MustCompile(`^bwi-pass-[A-Z2-7]{26}$`).MatchString(r) {
		t.Error("the random password has not the form that scanners look for")
	}
	b := newBrowser(t, e, estate.Production, estate.IAM).signIn(c)
	wrong := newBrowser(t, e, estate.Production, estate.IAM)
	failed := wrong.post("/login", "username", c.Username, "password", sealed+"x", "_csrf", find(t, hiddenToken, wrong.get("/login").body))
	state := fmt.Sprintf("%+v", e.Copy(estate.Production).State())
	for name, text := range map[string]string{
		"formatted": fmt.Sprintf("%v %+v %#v %s %q %x", c, c, c, c.Password, c.Password, c.Password),
		"page":      b.get("/account").body, "audit": b.get("/api/audit").body, "failed": failed.body, "state": state,
		"cookie_in_state": strings.ReplaceAll(state, cookieOf(t, b), sealed), "token_in_state": strings.ReplaceAll(state, b.token, sealed),
	} {
		if strings.Contains(text, sealed) {
			t.Errorf("%s shows a secret", name)
		}
	}
	if got := e.Credentials(estate.Production, estate.Evil); got.Username != "" {
		t.Errorf("got credentials %v for evil, want none", got)
	}
}

func TestMisdirectedAndUnknownNames(t *testing.T) {
	e := serve(t)
	b := newBrowser(t, e, estate.Production, estate.IAM)
	r, _ := http.NewRequest("GET", b.origin+"/login", nil)
	r.Host = "pay.brightwell.localhost"
	res, err := b.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("got %d for another name on this connection, want 421", res.StatusCode)
	}
	if _, err := b.http.Get("https://example.com/"); err == nil {
		t.Error("the client reached a name that is not of the estate")
	}
	for _, addr := range []string{"0.0.0.0:0", "192.0.2.1:0", "localhost:0", ":0", "x"} {
		if e, err := estate.Serve(t.Context(), estate.Config{ProductionAddr: addr}); err == nil {
			_ = e.Close()
			t.Errorf("served on %q, want an error", addr)
		}
	}
}

func TestBothHTTPVersions(t *testing.T) {
	e := serve(t)
	for _, want := range []string{"HTTP/1.1", "HTTP/2.0"} {
		c := e.HTTPClient()
		if want == "HTTP/1.1" {
			tr := c.Transport.(*http.Transport)
			tr.ForceAttemptHTTP2, tr.TLSClientConfig.NextProtos = false, []string{"http/1.1"}
		}
		res, err := c.Get(e.URL(estate.Production, estate.IAM) + "/login")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.Proto != want || res.StatusCode != 200 {
			t.Errorf("got %s %d, want %s 200", res.Proto, res.StatusCode, want)
		}
	}
}

func TestCloseAndContextEndTheEstate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	byContext, err := estate.Serve(ctx, estate.Config{})
	if err != nil {
		t.Fatal(err)
	}
	byClose, err := estate.Serve(t.Context(), estate.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(byClose.Close(), byClose.Close()); err != nil {
		t.Errorf("close: %v", err)
	}
	cancel()
	if err := byContext.Close(); err != nil {
		t.Errorf("close after the context's end: %v", err)
	}
	for _, e := range []*estate.Estate{byContext, byClose} {
		if c, err := e.DialContext(t.Context(), "tcp", "iam.brightwell.localhost:443"); err == nil {
			_ = c.Close()
			t.Error("the estate still accepts")
		}
	}
}

// TestWorldsAskForCodes: a copy for a trial signs in as the sandbox does.
func TestWorldsAskForCodes(t *testing.T) {
	e, err := estate.Serve(t.Context(), estate.Config{Code: func(stage estate.Stage, _ estate.App, _, _ string) (asked, right bool) {
		return true, stage == estate.Sandbox
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for _, stage := range []estate.Stage{estate.Sandbox, estate.Production} {
		worlds, err := e.Worlds(stage, 1)
		if err != nil {
			t.Fatal(err)
		}
		c := e.HTTPClient()
		c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, worlds[0].Address)
		}
		resp, err := c.Get(e.URL(stage, estate.IAM) + "/login")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(b), `name="code"`) {
			t.Errorf("%s: %v, no code is asked for:\n%s", stage, err, b)
		}
	}
}
