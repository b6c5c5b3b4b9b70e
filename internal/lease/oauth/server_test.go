package oauth_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/oauth"
)

const (
	clientSecret = "s3cret-of-the-client"
	token        = "token-0123456789-abcdef"
)

// hostile is an authorization server that says what a test tells it to.
type hostile struct {
	*httptest.Server
	mu     sync.Mutex
	meta   map[string]any
	answer func(w http.ResponseWriter, r *http.Request) // of the token endpoint
	ended  []string
	alive  bool // what introspection says
	lies   bool // a revocation does nothing
	broken bool // it fails
	got    []*http.Request
}

func newHostile(t testing.TB) *hostile {
	h := &hostile{alive: true}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		r.ParseForm()
		h.got = append(h.got, r)
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/oauth-authorization-server":
			json.NewEncoder(w).Encode(h.meta)
		case "/token":
			h.answer(w, r)
		case "/revoke":
			if h.broken {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			h.ended = append(h.ended, r.PostForm.Get("token"))
			h.alive = h.alive && h.lies
		case "/introspect":
			fmt.Fprintf(w, `{"active": %v}`, h.alive)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(h.Close)
	h.meta = map[string]any{"issuer": h.URL, "token_endpoint": h.URL + "/token", "revocation_endpoint": h.URL + "/revoke", "introspection_endpoint": h.URL + "/introspect"}
	return h
}

func (h *hostile) source(t testing.TB, change func(*oauth.Config)) *oauth.Source {
	t.Helper()
	server, err := oauth.NewServer(h.URL, noRedirects())
	if err != nil {
		t.Fatal(err)
	}
	c := oauth.Config{Server: server, Grant: oauth.ClientCredentials, ClientID: "c", Life: life, Scope: []string{"read"},
		Secret: func(context.Context) ([]byte, error) { return []byte(clientSecret), nil }}
	if change != nil {
		change(&c)
	}
	return oauth.New(c)
}

// What a server says of itself is believed only if it is the declared one, and only
// where secrets may be sent.
//
// Threats: K22, K23 (policy)
func TestMetadata(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(h *hostile, m map[string]any)
		life   time.Duration
		probe  bool
		want   string
	}{
		"whole":                     {life: time.Hour},
		"no_revocation":             {change: func(_ *hostile, m map[string]any) { delete(m, "revocation_endpoint") }, life: time.Hour, probe: true, want: "has no revocation endpoint (RFC 7009)"},
		"no_revocation_short":       {change: func(_ *hostile, m map[string]any) { delete(m, "revocation_endpoint") }, life: oauth.ShortLife},
		"no_introspection":          {change: func(_ *hostile, m map[string]any) { delete(m, "introspection_endpoint") }, life: time.Hour, want: "has no introspection endpoint (RFC 7662)"},
		"no_introspection_probe":    {change: func(_ *hostile, m map[string]any) { delete(m, "introspection_endpoint") }, life: time.Hour, probe: true},
		"mixed_up":                  {change: func(_ *hostile, m map[string]any) { m["issuer"] = "https://other.example" }, want: "its issuer is https://other.example"},
		"issuer_with_a_slash":       {change: func(h *hostile, m map[string]any) { m["issuer"] = h.URL + "/" }, want: "RFC 8414 section 3.3"},
		"no_issuer":                 {change: func(_ *hostile, m map[string]any) { delete(m, "issuer") }, want: "RFC 8414 section 3.3"},
		"no_token_endpoint":         {change: func(_ *hostile, m map[string]any) { delete(m, "token_endpoint") }, want: "no token_endpoint"},
		"token_without_tls":         {change: func(_ *hostile, m map[string]any) { m["token_endpoint"] = "http://tokens.example/token" }, want: "token_endpoint: want https"},
		"revocation_without_tls":    {change: func(_ *hostile, m map[string]any) { m["revocation_endpoint"] = "http://10.0.0.1/revoke" }, want: "revocation_endpoint: want https"},
		"introspection_as_userinfo": {change: func(_ *hostile, m map[string]any) { m["introspection_endpoint"] = "https://a@evil.example/" }, want: "introspection_endpoint: want https"},
		"too_long":                  {change: func(_ *hostile, m map[string]any) { m["x"] = strings.Repeat("x", 70<<10) }, want: "longer than"},
		"wrong_type":                {change: func(_ *hostile, m map[string]any) { m["token_endpoint"] = 1 }, want: "cannot be read"},
	} {
		h := newHostile(t)
		if tt.change != nil {
			tt.change(h, h.meta)
		}
		s, err := oauth.NewServer(h.URL, noRedirects())
		if err != nil {
			t.Fatal(err)
		}
		err = s.Check(t.Context(), tt.life, tt.probe)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	for _, issuer := range []string{"http://as.example", "http://10.0.0.1", "ftp://as.example", "https://u:p@as.example", "https://as.example?x=1", "https://as.example#f", "as.example", ""} {
		if _, err := oauth.NewServer(issuer, noRedirects()); err == nil {
			t.Errorf("%q is taken for an issuer", issuer)
		}
	}
}

// Answers of a token endpoint that are not what was asked for. None is used; what
// exists comes with the error, to be ended; no error repeats what was sent; and nothing is sent elsewhere.
//
// Threats: K22 (lease)
func TestTokenEndpoint(t *testing.T) {
	var elsewhere []string
	evil := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		elsewhere = append(elsewhere, fmt.Sprint(r.Header, r.Form))
	}))
	defer evil.Close()
	ok := map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 30, "scope": "read"}
	with := func(k string, v any) map[string]any {
		m := map[string]any{}
		for a, b := range ok {
			m[a] = b
		}
		if m[k] = v; v == nil {
			delete(m, k)
		}
		return m
	}
	redirect := func(code int) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, evil.URL+"/token", code) }
	}
	fails := func(status int, code, text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": text + " " + r.Header.Get("Authorization")})
		}
	}
	for name, tt := range map[string]struct {
		says   any
		does   func(http.ResponseWriter, *http.Request)
		want   string
		not    bool // certainly not issued
		ended  bool
		grants oauth.Grant
		dead   bool // introspection says inactive always
	}{
		"good":                {says: ok},
		"dead_from_birth":     {says: ok, dead: true, want: "just given is inactive", ended: true},
		"lower_case_type":     {says: with("token_type", "bearer")},
		"dpop":                {says: with("token_type", "DPoP"), want: "of type DPoP", ended: true},
		"no_type":             {says: with("token_type", nil), want: "want Bearer", ended: true},
		"lives_for_ever":      {says: with("expires_in", nil), want: "how long the token lives", ended: true},
		"wrong_type_of_scope": {says: with("scope", []string{"read"}), want: "cannot be read", ended: true},
		"lives_too_long":      {says: with("expires_in", 61), want: "at most 60 s", ended: true},
		"lives_for_a_moment":  {says: with("expires_in", 9), want: "at least 10 s", ended: true},
		"short_token":         {says: with("access_token", "t0ken-7"), want: "too few to be found", ended: true},
		"wider_scope":         {says: with("scope", "read admin"), want: "scope admin, which was not asked for", ended: true},
		"injecting_token":     {says: with("access_token", "abc\r\nHost: evil.example"), want: "no header field carries", ended: true},
		"no_token":            {says: with("access_token", nil), want: "without a token"},
		"not_exchanged":       {says: ok, grants: oauth.TokenExchange, want: "the exchange gave a token of type", ended: true},
		"not_json":            {does: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "access_token="+token) }, want: "cannot be read"},
		"other_media_type": {does: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			json.NewEncoder(w).Encode(ok)
		}, want: "is no JSON"},
		"endless":        {does: func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) }, want: "longer than"},
		"redirect_302":   {does: redirect(302), want: "a redirect, which is not followed", not: true},
		"redirect_307":   {does: redirect(307), want: "a redirect, which is not followed", not: true},
		"redirect_308":   {does: redirect(308), want: "a redirect, which is not followed", not: true},
		"refused":        {does: fails(400, "invalid_scope", "no"), want: "400 invalid_scope", not: true},
		"repeats_secret": {does: fails(401, "invalid_client", "your secret is "+clientSecret), want: "401 invalid_client", not: true},
		"broken":         {does: fails(500, "", "oops"), want: "answered 500"},
		"cut":            {does: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostile(t)
			h.alive = !tt.dead
			if h.answer = tt.does; h.answer == nil {
				h.answer = func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(tt.says) }
			}
			s := h.source(t, func(c *oauth.Config) {
				if tt.grants != "" {
					c.Grant, c.Subject = tt.grants, func(context.Context, string, string) (string, error) { return "the.subject.token", nil }
				}
			})
			got, err := s.Issue(t.Context(), lease.Order{Label: "sallyport-1", Task: "t", Agent: "a"})
			if tt.want == "" && name != "cut" {
				if have, _, perr := oauth.Token(got); err != nil || perr != nil || have != token {
					t.Errorf("got %q %v %v", have, err, perr)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, lease.ErrNotIssued) != tt.not {
				t.Errorf("got %v, want %q; certainly not issued: %v", err, tt.want, tt.not)
			}
			for _, secret := range []string{clientSecret, token, base64.RawStdEncoding.EncodeToString([]byte("c:" + clientSecret)), "the.subject.token"} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("the error repeats a secret: %v", err)
				}
			}
			if (got != nil) != tt.ended {
				t.Errorf("what ends it: %q", got)
			} else if got != nil {
				if err := s.Revoke(t.Context(), lease.Credential{Label: "sallyport-1", Secret: got}); err != nil || len(h.ended) != 1 {
					t.Errorf("ended %q: %v", h.ended, err)
				}
			}
		})
	}
	if len(elsewhere) > 0 {
		t.Errorf("another host got %q", elsewhere)
	}
}

// A server that keeps one who asks waiting keeps no other for longer than its own time,
// and is not asked again for each: all have the one answer.
//
// Threats: K4 (lease)
func TestSlowMetadataHoldsNobody(t *testing.T) {
	var asked atomic.Int32
	came, let := make(chan struct{}, 2), make(chan struct{})
	var slow *httptest.Server
	slow = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		came <- struct{}{}
		<-let
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"issuer": %q, "token_endpoint": "%[1]s/token"}`, slow.URL)
	}))
	defer slow.Close()
	s, err := oauth.NewServer(slow.URL, noRedirects())
	if err != nil {
		t.Fatal(err)
	}
	check := func(ctx context.Context) chan error {
		out := make(chan error, 1)
		go func() { out <- s.Check(ctx, life, false) }()
		return out
	}
	first, giveUp := context.WithCancel(t.Context())
	waits := check(first)
	<-came
	others := []chan error{check(t.Context()), check(t.Context())}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	giveUp()
	for _, out := range []chan error{check(over), waits} {
		select {
		case err := <-out:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("one whose time is over waits for the server")
		}
	}
	close(let)
	for _, out := range others {
		if err := <-out; err != nil {
			t.Errorf("another's time was over, and so got %v", err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

// A revocation that is answered well and did nothing, and a server that nobody can
// ask: neither is taken for an end.
//
// Threats: K2, K4, K23 (lease)
func TestEndIsNotBelieved(t *testing.T) {
	h := newHostile(t)
	h.answer = func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"access_token": %q, "refresh_token": "refresh-0123456789", "token_type": "Bearer", "expires_in": 30}`, token)
	}
	now := time.Now()
	clock := func(c *oauth.Config) { c.Now = func() time.Time { return now } }
	s := h.source(t, clock)
	secret, err := s.Issue(t.Context(), lease.Order{Label: "sallyport-1"})
	if err != nil {
		t.Fatal(err)
	}
	c := lease.Credential{Label: "sallyport-1", Secret: secret}
	h.lies = true
	if err := s.Revoke(t.Context(), c); err != nil || s.Confirm(t.Context(), c) == nil {
		t.Errorf("%v; a live token is confirmed dead", err)
	}
	if len(h.ended) != 2 || h.ended[0] != "refresh-0123456789" || h.ended[1] != token {
		t.Errorf("ended %q, want the refresh token that came with it as well", h.ended)
	}
	h.alive = false
	if err := s.Confirm(t.Context(), c); err != nil {
		t.Error(err)
	}
	dead := errors.New("the application takes it")
	probed := h.source(t, func(c *oauth.Config) { c.Probe = func(context.Context, string) error { return dead } })
	if err := probed.Confirm(t.Context(), c); !errors.Is(err, dead) {
		t.Errorf("the application was not asked: %v", err)
	}
	// Nobody can be asked: in sight until its life is over.
	delete(h.meta, "introspection_endpoint")
	delete(h.meta, "revocation_endpoint")
	blind := h.source(t, clock)
	if err := blind.Revoke(t.Context(), c); err != nil || blind.Confirm(t.Context(), c) == nil {
		t.Errorf("%v; a token that nobody can end is confirmed dead", err)
	}
	now = now.Add(36 * time.Second)
	if err := blind.Confirm(t.Context(), c); err != nil {
		t.Error(err)
	}
	// What nobody received, neither.
	lost := lease.Credential{Label: "sallyport-2", Asked: now}
	if blind.Confirm(t.Context(), lost) == nil {
		t.Error("a token that was lost is confirmed dead")
	}
	now = now.Add(life + 66*time.Second)
	if err := blind.Confirm(t.Context(), lost); err != nil {
		t.Error(err)
	}
}
