package egress

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

// receivedDigest computes the digest from what an origin received, with nothing
// but the bytes: the other side of wireDigest.
func receivedDigest(t testing.TB, origin string, s seen) action.Digest {
	t.Helper()
	path, query, _ := strings.Cut(s.URI, "?")
	f := wireForm{Version: wireVersion, Method: s.Method, Origin: origin, Path: path, Query: query,
		Body: string(canon.Digest(s.Body)), Size: len(s.Body), Fields: [][2]string{}}
	for n, values := range s.Header {
		if n != "Content-Length" { // framing, made from the size
			for _, v := range values {
				f.Fields = append(f.Fields, [2]string{strings.ToLower(n), v})
			}
		}
	}
	slices.SortStableFunc(f.Fields, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	d, err := canon.DigestOf(f)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDecidedIsSent draws requests and compares the digest that was decided with
// one computed from what the origin received.
//
// Threats: T20, C8 (dispatch)
func TestDecidedIsSent(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("tls_", secure), func(t *testing.T) {
			o := newOrigin(t, secure, nil)
			r := newRig(t, o, nil)
			c := r.client(secure)
			segment := rapid.StringMatching(`[A-Za-z0-9._~!$&'()*+,;=:@|^"<>{}-]{0,6}(%[0-9A-Fa-f]{2})?`)
			rapid.Check(t, func(rt *rapid.T) {
				var path strings.Builder
				for range rapid.IntRange(1, 4).Draw(rt, "segments") {
					path.WriteString("/" + segment.Draw(rt, "segment"))
				}
				query := rapid.StringMatching(`([a-z\[\]%"'|?/\\.=&+-]{0,12})`).Draw(rt, "query")
				method := rapid.SampledFrom([]string{"GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "OPTIONS"}).Draw(rt, "method")
				var body []byte
				if writes(method) {
					body = rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(rt, "body")
				}
				req, err := http.NewRequest(method, o.name(), bytes.NewReader(body))
				if err != nil {
					rt.Fatal(err)
				}
				req.URL.Opaque, req.URL.RawQuery = path.String(), query
				if strings.HasPrefix(req.URL.Opaque, "//") {
					return // an authority to the test's own client
				}
				if !secure {
					// An http proxy is sent the absolute form, which net/http does not write for Opaque.
					req.URL.Opaque = "//" + req.URL.Host + path.String()
				}
				for range rapid.IntRange(0, 4).Draw(rt, "fields") {
					name := rapid.StringMatching(`X-[A-Za-z0-9]{1,8}|Accept|Referer|Origin|If-Match|Content-Type|Idempotency-Key`).Draw(rt, "name")
					value := rapid.StringMatching(`[!-~]([ -~]{0,10}[!-~])?`).Draw(rt, "value")
					if http.CanonicalHeaderKey(name) == "Content-Type" {
						req.Header.Set(name, value)
					} else {
						req.Header.Add(name, value)
					}
				}
				before := len(o.all())
				resp, err := c.Do(req)
				if err != nil {
					rt.Fatal(err)
				}
				read(t, resp)
				d := r.last(t)
				got := o.all()[before:]
				if d.Decision.Verdict != action.Allow {
					if len(got) != 0 {
						rt.Fatalf("denied %+v and sent %+v", d.Decision, got)
					}
					return
				}
				if len(got) != 1 {
					rt.Fatalf("origin got %d requests (%d)", len(got), resp.StatusCode)
				}
				if want := receivedDigest(t, o.name(), got[0]); d.Action.Digest != want {
					rt.Fatalf("decided %+v\nreceived %+v", d.Action.Request, got[0])
				}
				if a := d.Action.Request; a.Method != got[0].Method || !strings.HasPrefix(got[0].URI, a.Path) || !bytes.Equal(got[0].Body, body) {
					rt.Fatalf("decided %+v\nreceived %+v", a, got[0])
				}
			})
		})
	}
}

// FuzzWire feeds bytes to a tunnel. Whatever they are, each request that the
// origin receives was decided with the same digest, and there are no others.
func FuzzWire(f *testing.F) {
	o := newOrigin(f, false, nil)
	r := newRig(f, o, nil)
	for _, s := range []string{
		"GET /a?b HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: HOST\r\n\r\n",
		"PUT /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET /%2e%2e/ HTTP/1.1\r\nHost: HOST\r\nConnection: x\r\nX-HTTP-Method-Override: PUT\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	// An origin may be reached by a request whose client has gone before it was
	// answered, so what was decided and not yet seen is kept.
	var digests []action.Digest
	decided, got := 0, 0
	f.Fuzz(func(t *testing.T, in []byte) {
		c := r.tunnel(t, o.authority())
		c.Write(bytes.ReplaceAll(in, []byte("HOST"), []byte(o.authority())))
		c.(interface{ CloseWrite() error }).CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
		received := o.all() // before the decisions: what is received was decided
		all := r.Log.Decisions(t)
		for _, d := range all[decided:] {
			if d.Decision.Verdict == action.Allow {
				digests = append(digests, d.Action.Digest)
			}
		}
		decided = len(all)
		for _, s := range received[got:] {
			d := receivedDigest(t, o.name(), s)
			i := slices.Index(digests, d)
			if i < 0 {
				t.Fatalf("origin got what was not decided: %+v", s)
			}
			digests = slices.Delete(digests, i, i+1)
		}
		got = len(received)
	})
}

// FuzzTarget: a host has one spelling after normalisation, and reads back as itself.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"a.example:443", "[::1]:80", "127.1", "A.", "0x7f.1", "a@b", "[::ffff:1.2.3.4]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, code := parseTarget("https", s)
		if code != "" {
			return
		}
		b, code := parseTarget("https", a.authority())
		if code != "" || a != b {
			t.Errorf("%q is %+v, read again %+v %s", s, a, b, code)
		}
	})
}

// TestHeaderPolicy: spoofs, placeholders and overrides end at the door.
//
// Threats: T21, T22, B8, C6, C7, C9 (door)
func TestHeaderPolicy(t *testing.T) {
	o := newOrigin(t, true, nil)
	gone := []string{"X-Sallyport-Task", "Sallyport-Decision", "Proxy-Authorization", "Proxy-Foo", "Cookie", "Authorization", "Range", "If-Range",
		"X-Http-Method-Override", "X-Method-Override", "X-Http-Method", "X-Original-Url", "X-Rewrite-Url", "X_http_method_override",
		"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Http-Path-Override", "X-Sendfile-Type", "Soapaction", "X-Amz-Target", "Next-Action",
		"X-Amz-Copy-Source", "X-Amz-Acl", "X-Amz-Grant-Read", "x_amz_acl", "Impersonate-User", "Impersonate-Extra-Scopes", "Impersonate_group", "X-Real-Ip", "Via", "Te", "Keep-Alive", "X_under_score"}
	kept := []string{"Referer", "X-Amz-Checksum-Sha256", "Origin", "X-Csrf-Token", "Sec-Fetch-Dest", "If-None-Match", "User-Agent"}
	do := func(r *rig) seen {
		req, _ := http.NewRequest("POST", o.name()+"/w", strings.NewReader("x"))
		for _, n := range append(slices.Clone(gone), kept...) {
			req.Header[n] = []string{"spoof"}
		}
		req.Header["Te"] = []string{"trailers"}
		before := len(o.all())
		resp, err := r.client(true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		read(t, resp)
		all := o.all()
		if len(all) != before+1 {
			t.Fatalf("got %d %s", resp.StatusCode, resp.Header.Get("Sallyport-Decision"))
		}
		return all[before]
	}
	j := &jar{value: "real"}
	r := newRig(t, o, nil, func(c *Config) { c.Credentials = j })
	got := do(r)
	for _, n := range gone {
		if v := got.Header[n]; len(v) > 0 && !(n == "Cookie" && v[0] == "session=real") {
			t.Errorf("%s: %s was sent", n, v)
		}
	}
	for _, n := range kept {
		if got.Header.Get(n) != "spoof" {
			t.Errorf("%s was not sent", n)
		}
	}
	if got.Header.Get("Cookie") != "session=real" {
		t.Errorf("cookie %q", got.Header.Get("Cookie"))
	}
	if s := r.last(t).Action.Params["stripped"]; !strings.Contains(s, "x-http-method-override") || !strings.Contains(s, "x_http_method_override") {
		t.Errorf("stripped %q is not recorded", s)
	}
	// An origin whose credentials are the client's own.
	own := newRig(t, o, nil, func(c *Config) {
		c.Credentials = j
		c.Connectors = connectors(func(action.Request, []byte) (Recognized, error) {
			return Recognized{Operation: "app.write", Effect: action.Write, Allowed: true, AllowLocal: true, OwnCredentials: true}, nil
		})
	})
	if got := do(own); got.Header.Get("Cookie") != "spoof" || got.Header.Get("Authorization") != "spoof" {
		t.Errorf("got %v", got.Header)
	}
}

// Threats: T19 (form)
func TestOverrideField(t *testing.T) {
	const mp = "--b\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nPUT\r\n--b--\r\n"
	for name, tc := range map[string]struct{ query, bodyType, body string }{
		"query": {"a=1&_method=put", "", ""}, "query_case": {"_METHOD=put", "", ""}, "query_array": {"_method[]=put", "", ""},
		"query_semicolon": {"a=1;_method=put", "", ""}, "query_encoded": {"%5Fmethod=put", "", ""},
		"form":              {"", "application/x-www-form-urlencoded; charset=utf-8", "a=1&_method=put"},
		"multipart":         {"", "multipart/form-data; boundary=b", mp},
		"json":              {"", "application/json", `{"\u005fmethod":"put"}`},
		"json_api":          {"", "application/vnd.api+json", `{"_method":"put"}`},
		"query_header_name": {"X-HTTP-Method-Override=put", "", ""}, "query_dots": {"x.http.method=put", "", ""}, "query_blank": {"+_method=put", "", ""},
		"form_header_name": {"", "application/x-www-form-urlencoded", "x_method_override=put"},
		"multipart_case":   {"", "multipart/form-data; boundary=b", strings.Replace(mp, "_method", "_METHOD", 1)},
		"multipart_header": {"", "multipart/form-data; boundary=b", strings.Replace(mp, "_method", "X-HTTP-Method", 1)},
	} {
		if code := checkOverride(tc.query, tc.bodyType, []byte(tc.body), ""); code == "" {
			t.Errorf("%s: not found", name)
		}
		if code := checkOverride(tc.query, tc.bodyType, []byte(tc.body), "PUT"); code != "" {
			t.Errorf("%s: refused although the connector read it", name)
		}
		if code := checkOverride(tc.query, tc.bodyType, []byte(tc.body), "DELETE"); code == "" {
			t.Errorf("%s: another override passed", name)
		}
	}
	if code := checkOverride("x=_method", "text/plain", []byte("_method=put"), ""); code != "" {
		t.Errorf("got %s", code)
	}
}

// TestTransportDoesNotRepeat: net/http sends some requests again when a kept
// connection breaks. A permit is for one.
//
// Threats: T19 (door)
func TestTransportDoesNotRepeat(t *testing.T) {
	var n atomic.Int32
	var cut atomic.Bool
	o := newOrigin(t, false, func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		if cut.Load() {
			panic(http.ErrAbortHandler)
		}
	})
	r := newRig(t, o, nil)
	c := r.client(false)
	for _, tc := range [][3]string{{"POST", "/w"}, {"POST", "/w", "x"}, {"GET", "/changes"}} {
		cut.Store(false)
		get(t, c, o.name()+"/warm") // a kept connection, so that a repeat is possible
		cut.Store(true)
		n.Store(0)
		req, _ := http.NewRequest(tc[0], o.name()+tc[1], strings.NewReader(tc[2]))
		req.Header.Set("Idempotency-Key", "k")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		read(t, resp)
		if resp.StatusCode != http.StatusBadGateway || n.Load() != 1 {
			t.Errorf("%q: got %d, the origin was asked %d times", tc, resp.StatusCode, n.Load())
		}
		if got := o.all()[len(o.all())-1].Header.Get("Idempotency-Key"); got != "k" {
			t.Errorf("idempotency key %q", got)
		}
		if got := lastOutcome(t, r); got.State != action.Unknown {
			t.Errorf("%q: outcome %+v, want unknown", tc, got)
		}
	}
}

// TestPermitIsForTheseBytes: a request that changed after the decision is not sent.
//
// Threats: T20, I1 (dispatch)
func TestPermitIsForTheseBytes(t *testing.T) {
	o := newOrigin(t, false, nil)
	r := newRig(t, o, nil)
	to, _ := parseTarget("http", o.authority())
	up, err := r.p.ups.get(t.Context(), to, true)
	if err != nil {
		t.Fatal(err)
	}
	change := map[string]func(x *exchange){
		"method": func(x *exchange) { x.out.Method = "DELETE" },
		"path":   func(x *exchange) { x.out.URL.Opaque = "/other" },
		"query":  func(x *exchange) { x.out.URL.RawQuery = "a" },
		"host":   func(x *exchange) { x.out.Host = "evil.example" },
		"header": func(x *exchange) { x.out.Header.Set("X-A", "1") },
		"body":   func(x *exchange) { x.in.body = []byte("other") },
	}
	for name, f := range change {
		req := action.Request{Method: "POST", Origin: o.name(), Path: "/w"}
		x := &exchange{p: r.p, up: up, in: incoming{to: to, body: []byte("body")}, out: outgoing(req, http.Header{}, []byte("body"))}
		a := Name(r.p.actor(), req, Recognized{Operation: "app.write", Effect: action.Write, Allowed: true})
		a.Digest, _ = wireDigest(x.out, x.in.body)
		f(x)
		res := r.Act(t.Context(), a, nil, x.dispatch)
		if res.Outcome == nil || res.Outcome.Detail != "permit_refused" || len(o.all()) != 0 {
			t.Errorf("%s: %+v, origin %+v", name, res.Outcome, o.all())
		}
	}
}

// TestSessionsShareNothing: two proxies have different keys.
func TestSessionsShareNothing(t *testing.T) {
	a, b := newRig(t, nil, nil), newRig(t, nil, nil)
	if a.p.SPKI() == b.p.SPKI() || bytes.Equal(a.p.CAPEM(), b.p.CAPEM()) {
		t.Error("two sessions share a key")
	}
	c, err := a.tlsTunnel(t, "x.example:443", "x.example")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(c.ConnectionState().PeerCertificates); n != 2 {
		t.Errorf("chain of %d certificates, want the leaf and the authority", n)
	}
	if _, err := tlsWith(t, b, a); err == nil {
		t.Error("one session's authority is trusted by the other")
	}
}

// tlsWith connects to a's proxy with b's trust.
func tlsWith(t *testing.T, a, b *rig) (*tls.Conn, error) {
	t.Helper()
	pool := newPool(b.p.CAPEM())
	c := tls.Client(a.tunnel(t, "x.example:443"), &tls.Config{RootCAs: pool, ServerName: "x.example"})
	return c, c.Handshake()
}

var _ Gate = (*gate.Gate)(nil)

// TestKeysServeOneSession: keys made before a session are that session's alone.
func TestKeysServeOneSession(t *testing.T) {
	keys, err := NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	cfg := newRig(t, nil, nil).p.cfg
	cfg.Keys = keys
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.SPKI() != keys.SPKI() {
		t.Error("the proxy has other keys than it was given")
	}
	if again, err := New(cfg); err == nil {
		again.Close()
		t.Error("a second session got the keys of the first")
	}
}
