package lease_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/lease"
)

// twoPages is an application that asks for the code on a page of its own, which a
// right password opens.
func twoPages(right string) *httptest.Server {
	at := func(r *http.Request) string {
		c, err := r.Cookie("session")
		if err != nil {
			return ""
		}
		return c.Value
	}
	to := func(w http.ResponseWriter, r *http.Request, session, path string) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: session})
		http.Redirect(w, r, path, http.StatusSeeOther)
	}
	form := func(token string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `<input name="csrf" value="%s">`, token) }
	}
	m := http.NewServeMux()
	m.HandleFunc("GET /login", form("one"))
	m.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("csrf") != "one" || r.FormValue("user") != "svc" || r.FormValue("password") != "hunter2" || r.FormValue("otp") != "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		to(w, r, "half", "/login/code")
	})
	m.HandleFunc("GET /login/code", func(w http.ResponseWriter, r *http.Request) {
		if at(r) != "half" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		form("two")(w, r)
	})
	m.HandleFunc("POST /login/code", func(w http.ResponseWriter, r *http.Request) {
		if at(r) != "half" || r.FormValue("csrf") != "two" || r.FormValue("otp") != right {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		to(w, r, "whole", "/")
	})
	m.HandleFunc("GET /me", func(w http.ResponseWriter, r *http.Request) {
		if at(r) != "whole" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	return httptest.NewServer(m)
}

func TestCodeOnAPageOfItsOwn(t *testing.T) {
	s := twoPages("123456")
	defer s.Close()
	c := s.Client()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	asked := 0
	f := &lease.Form{Client: c, Account: "svc", Password: func(context.Context) ([]byte, error) { return []byte("hunter2"), nil },
		Recipe: lease.Recipe{Origin: s.URL, LoginPath: "/login", UserField: "user", PasswordField: "password", CSRFField: "csrf", CodeField: "otp", CodePath: "/login/code",
			LogoutPath: "/logout", ConfirmPath: "/me", ConfirmStatus: 401}}
	issue := func() ([]byte, error) { return f.Issue(t.Context(), lease.Order{Label: "l"}) }
	if _, err := issue(); !errors.Is(err, lease.ErrNotIssued) || !strings.Contains(err.Error(), "no totp") {
		t.Errorf("without codes: got %v", err)
	}
	f.Code = func(context.Context) (string, error) { asked++; return "123456", nil }
	secret, err := issue()
	if err != nil {
		t.Fatal(err)
	}
	if cs, err := lease.ParseCookies(secret); err != nil || len(cs) != 1 || cs[0].Value != "whole" || asked != 1 {
		t.Errorf("got %+v %v, asked for %d codes", cs, err, asked)
	}
	f.Code = func(context.Context) (string, error) { return "654321", nil }
	if _, err := issue(); !errors.Is(err, lease.ErrNotIssued) || !strings.Contains(err.Error(), "clock") {
		t.Errorf("a wrong code: got %v", err)
	}
	f.Code = func(context.Context) (string, error) { return "", errors.New("none left") }
	if _, err := issue(); !errors.Is(err, lease.ErrNotIssued) {
		t.Errorf("no code: got %v", err)
	}
	f.Password = func(context.Context) ([]byte, error) { return []byte("wrong"), nil }
	f.Code = func(context.Context) (string, error) { t.Error("a code was spent on a wrong password"); return "", nil }
	if _, err := issue(); !errors.Is(err, lease.ErrNotIssued) {
		t.Errorf("a wrong password: got %v", err)
	}
}
