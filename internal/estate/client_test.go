package estate_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/estate"
)

func serve(t *testing.T) *estate.Estate {
	t.Helper()
	e, err := estate.Serve(t.Context(), estate.Config{AdminAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// A browser is a client of one application, with a cookie jar.
type browser struct {
	t      *testing.T
	http   *http.Client
	origin string
	agent  string
	token  string
}

type answer struct {
	status int
	header http.Header
	body   string
}

func newBrowser(t *testing.T, e *estate.Estate, stage estate.Stage, app estate.App) *browser {
	return &browser{t: t, http: e.HTTPClient(), origin: e.URL(stage, app), agent: "test/" + t.Name()}
}

func (b *browser) do(method, path, body string, headers ...string) answer {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.origin+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("User-Agent", b.agent)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(raw)}
}

func (b *browser) get(path string) answer { b.t.Helper(); return b.do("GET", path, "") }

func (b *browser) post(path string, fields ...string) answer {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return b.do("POST", path, form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}

var (
	hiddenToken = regexp.MustCompile(`name="_csrf" value="([^"]+)"`)
	metaToken   = regexp.MustCompile(`<meta name="csrf-token" content="([^"]+)">`)
)

func find(t *testing.T, re *regexp.Regexp, body string) string {
	t.Helper()
	m := re.FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no %v in %s", re, body)
	}
	return m[1]
}

// signIn signs in as a browser would and keeps the session's token.
func (b *browser) signIn(c estate.Credentials) *browser {
	b.t.Helper()
	form := b.get("/login")
	got := b.post("/login", "username", c.Username, "password", c.Password.Reveal(), "_csrf", find(b.t, hiddenToken, form.body))
	if got.status != http.StatusSeeOther {
		b.t.Fatalf("sign in: got %d, want 303", got.status)
	}
	b.token = find(b.t, metaToken, b.get("/account").body)
	return b
}

func signedIn(t *testing.T, e *estate.Estate, stage estate.Stage, app estate.App) *browser {
	t.Helper()
	return newBrowser(t, e, stage, app).signIn(e.Credentials(stage, app))
}

func decode[T any](t *testing.T, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("decode %s: %v", a.body, err)
	}
	return v
}

func wantStatus(t *testing.T, a answer, want int) answer {
	t.Helper()
	if a.status != want {
		t.Fatalf("got status %d, want %d: %.300s", a.status, want, a.body)
	}
	return a
}

func wantError(t *testing.T, a answer, status int, code string) {
	t.Helper()
	wantStatus(t, a, status)
	if got := decode[map[string]string](t, a)["error"]; got != code {
		t.Errorf("got error %q, want %q", got, code)
	}
}

// newLoopback serves h over plain HTTP on loopback and returns its origin.
func newLoopback(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}
