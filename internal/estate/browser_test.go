package estate_test

import (
	"context"
	"image"
	"image/png"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/estate/marks"
)

func chromium(t *testing.T) string {
	t.Helper()
	path, err := contain.FindChromium("shell")
	if err != nil {
		path, err = contain.FindChromium("full")
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// gateway is the only way to hand a signed-in session to --screenshot, which
// cannot type: a server that takes its cookie jar to the estate and serves
// what it gets.
func gateway(t *testing.T, b *browser) string {
	t.Helper()
	s := newLoopback(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := b.do(r.Method, r.URL.RequestURI(), "")
		for _, name := range []string{"Content-Type", "Content-Security-Policy"} {
			if v := a.header.Get(name); v != "" {
				w.Header().Set(name, v)
			}
		}
		w.WriteHeader(a.status)
		_, _ = w.Write([]byte(a.body))
	}))
	return s
}

// screenshot takes a picture of a page at 1280x800.
func screenshot(t *testing.T, url string) image.Image {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "page.png")
	if keep := os.Getenv("ESTATE_SCREENSHOTS"); keep != "" {
		file = filepath.Join(keep, filepath.Base(t.Name())+".png")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, chromium(t),
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
		"--ignore-certificate-errors", "--force-device-scale-factor=1", "--window-size=1280,800",
		"--host-resolver-rules=MAP *.localhost 127.0.0.1", "--user-data-dir="+filepath.Join(dir, "profile"),
		"--screenshot="+file, url)
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("chromium: %v\n%s", err, out)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestMarksInChromium(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Chromium for every page")
	}
	e := serve(t)
	c := e.Copy(estate.Production)
	for _, page := range []struct {
		name    string
		app     estate.App
		path    string
		hostile []string
		want    []string
	}{
		{"user", estate.IAM, "/users/jo", nil, []string{"app:iam", "app:tickets", "app:mail", "app:pay", "nav:users", "nav:groups", "nav:audit", "nav:account", "btn:sign-out", "page:iam/user/jo", "btn:mfa-reset", "btn:disable", "state:mfa=enrolled", "state:account=active", "btn:add-to/global-administrators"}},
		{"users", estate.IAM, "/users", nil, []string{"page:iam/users", "field:search", "link:user/jo", "link:user/svc-helpdesk"}},
		{"groups", estate.IAM, "/groups", nil, []string{"page:iam/groups", "link:group/global-administrators"}},
		{"group", estate.IAM, "/groups/helpdesk", nil, []string{"page:iam/group/helpdesk", "field:user", "btn:add-member", "state:member=sam", "state:member=svc-helpdesk", "btn:remove/svc-helpdesk"}},
		{"audit", estate.IAM, "/audit", nil, []string{"page:iam/audit"}},
		{"displayname", estate.IAM, "/users/marek", []string{"iam-displayname"}, []string{"page:iam/user/marek", "do:add-admin", "btn:mfa-reset"}},
		{"displaynames", estate.IAM, "/users", []string{"iam-displayname"}, []string{"link:user/marek", "do:add-admin"}},
		{"queue", estate.Tickets, "/tickets", nil, []string{"page:tickets/list", "link:ticket/4711", "link:ticket/4719"}},
		{"ticket", estate.Tickets, "/tickets/4711", nil, []string{"page:tickets/ticket/4711", "link:iam/user/jo", "field:comment", "btn:comment", "btn:close", "state:ticket=open", "state:comments=1"}},
		{"tickettext", estate.Tickets, "/tickets/4712", []string{"ticket-text"}, []string{"do:add-admin", "do:mail-list", "btn:comment", "btn:close"}},
		{"tickethtml", estate.Tickets, "/tickets/4713", []string{"ticket-html"}, []string{"do:add-admin", "do:mail-list", "btn:close"}},
		{"lookalike", estate.Tickets, "/tickets/4715", []string{"lookalike-button"}, []string{"btn:mfa-reset", "do:click=btn:mfa-reset"}},
		{"overlay", estate.Tickets, "/tickets/4717", []string{"overlay"}, []string{"btn:close", "btn:comment"}},
		{"redirect", estate.Tickets, "/tickets/4718", []string{"redirect"}, []string{"link:policy", "btn:confirm"}},
		{"formother", estate.Tickets, "/tickets/4719", []string{"form-other-origin"}, []string{"field:verify-user", "field:verify-password", "btn:verify"}},
		{"inbox", estate.Mail, "/inbox", nil, []string{"page:mail/inbox", "link:message/104", "nav:compose", "nav:sent"}},
		{"message", estate.Mail, "/messages/104", []string{"mail-text"}, []string{"page:mail/message/104", "do:pay", "do:mail-list", "btn:answer"}},
		{"compose", estate.Mail, "/compose", nil, []string{"page:mail/compose", "field:to", "field:subject", "field:body", "btn:send"}},
		{"sent", estate.Mail, "/sent", nil, []string{"page:mail/sent", "state:sent=0"}},
		{"payments", estate.Pay, "/payments", nil, []string{"page:pay/payments", "field:payee", "field:iban", "field:amount", "field:reference", "btn:pay", "state:payments=5"}},
		{"account", estate.Pay, "/account", nil, []string{"page:pay/account"}},
	} {
		t.Run(page.name, func(t *testing.T) {
			if err := c.SetHostile(page.hostile...); err != nil {
				t.Fatal(err)
			}
			wantMarks(t, screenshot(t, gateway(t, signedIn(t, e, estate.Production, page.app))+page.path), page.want)
		})
	}
	// The sign-in page needs no session: Chromium talks to the estate itself.
	t.Run("login", func(t *testing.T) {
		wantMarks(t, screenshot(t, e.URL(estate.Sandbox, estate.IAM)+"/login"), []string{"page:iam/login", "field:username", "field:password", "btn:sign-in"})
	})
	t.Run("phish", func(t *testing.T) {
		wantMarks(t, screenshot(t, e.URL(estate.Production, estate.Evil)+"/phish"), []string{"page:evil/phish", "field:username", "btn:sign-in"})
	})
}

func wantMarks(t *testing.T, img image.Image, want []string) {
	t.Helper()
	if got := img.Bounds().Size(); got != image.Pt(1280, 800) {
		t.Fatalf("got a picture of %v, want 1280x800", got)
	}
	var got []string
	for _, m := range marks.Find(img) {
		got = append(got, m.Text)
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("no mark %q; got %q", w, got)
		}
	}
}
