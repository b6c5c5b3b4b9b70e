package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
)

const bearer = "ghp_0123456789abcdefABCDEF"

// taking is an application that takes the credential of api-token.
func taking(origin string, take connector.Take) *connector.Spec {
	take.Source = "api-token"
	return &connector.Spec{Stages: map[action.Stage]connector.Stage{action.Sandbox: {Origins: []connector.Origin{{Name: "main", URL: origin, Local: true}}}},
		Reads: connector.ReadsAllow, Takes: []connector.Take{take}, Operations: []connector.Operation{
			{Name: "app.thing.write", Method: "POST", Path: "/write", Effect: action.Write, Body: &connector.Body{Type: connector.BodyForm, AllowExtra: true}},
			{Name: "app.thing.get", Method: "GET", Path: "/thing", Effect: action.Read},
			{Name: "app.socket.open", Kind: connector.KindWebSocket, Method: "GET", Path: "/ws", Effect: action.Write}}}
}

func takeRig(t testing.TB, o *origin, value string, take connector.Take, edit ...func(*Config)) (*rig, *leased) {
	t.Helper()
	var l *leased
	r := newRig(t, o, nil, append([]func(*Config){func(c *Config) {
		c.Source = "harness"
		c.Connectors = recognizing(t, map[string]*connector.Spec{"app": taking(o.name(), take)})
		l = lend(t, c.Gate.(*gatetest.Kit).Log, o.name(), value)
		c.Secrets, c.Redactor = l, secrets{Secret(value)}
	}}, edit...)...)
	return r, l
}

// TestCredentialIsPutIn: the origin gets the credential where its connector says,
// after the use is on record; the client sends nothing or the placeholder, and has
// the credential neither from the answer nor from a record.
//
// Threats: T44, T54 (door)
func TestCredentialIsPutIn(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, tt := range map[string]struct {
		take               connector.Take
		value, field, want string
		names              string // what a client that insists sends
	}{
		"bearer": {connector.Take{As: connector.AsBearer}, bearer, "Authorization", "Bearer " + bearer, "bearer " + placeholder},
		"basic":  {connector.Take{As: connector.AsBasic}, "svc:pass word+/", "Authorization", basic("svc:pass word+/"), basic("anybody:" + placeholder)},
		"header": {connector.Take{As: connector.AsHeader, Header: "x-api-key"}, bearer, "X-Api-Key", bearer, placeholder},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, true, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Echo", r.Header.Get(tt.field))
				w.Header().Set("Content-Type", "image/png") // which is searched all the same
				fmt.Fprintf(w, "you sent %s", r.Header.Get(tt.field))
			})
			r, _ := takeRig(t, o, tt.value, tt.take)
			for _, h2 := range []bool{false, true} {
				for _, value := range []string{"", tt.names} {
					req, _ := http.NewRequest("POST", o.name()+"/write", strings.NewReader("a=b"))
					req.Header.Set("Content-Type", formType)
					if value != "" {
						req.Header.Set(tt.field, value)
					}
					resp, err := r.client(h2).Do(req)
					if err != nil {
						t.Fatal(err)
					}
					body := read(t, resp)
					if resp.StatusCode != 200 || strings.Contains(body+resp.Header.Get("X-Echo"), tt.value) || strings.Contains(body, tt.want) {
						t.Errorf("%q: got %d %q %v", value, resp.StatusCode, body, resp.Header)
					}
				}
			}
			all := o.all()
			if len(all) != 4 {
				t.Fatalf("origin got %d requests", len(all))
			}
			for _, got := range all {
				if v := got.Header[tt.field]; len(v) != 1 || v[0] != tt.want || string(got.Body) != "a=b" {
					t.Errorf("origin got %q %q, want %q", v, got.Body, tt.want)
				}
			}
			used := 0
			for _, e := range r.Log.All() {
				if e.Type == "lease.used" {
					used++
				}
				if strings.Contains(string(e.Body), tt.value) {
					t.Errorf("the credential is in record %s", e.Type)
				}
			}
			if used != 4 {
				t.Errorf("%d uses on record, want 4", used)
			}
		})
	}
}

// What a client sends of its own in the place of a credential is refused, whatever
// it is, and the origin gets neither.
//
// Threats: K21 (form)
func TestOwnCredential(t *testing.T) {
	for name, take := range map[string]connector.Take{"Authorization": {As: connector.AsBearer}, "X-Api-Key": {As: connector.AsHeader, Header: "X-Api-Key"}} {
		o := newOrigin(t, false, nil)
		r, _ := takeRig(t, o, bearer, take)
		for _, value := range []string{"Bearer mine", "", "Basic bWU6bWU=", placeholder + "x", "Bearer  " + placeholder, "token " + placeholder} {
			req, _ := http.NewRequest("GET", o.name()+"/thing", nil)
			req.Header[name] = []string{value}
			resp, err := r.client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body := read(t, resp)
			wantDenied(t, resp.StatusCode, resp.Header, "own_credential")
			if !strings.Contains(body, "the boundary puts the credential in") {
				t.Errorf("%s %q: got %q", name, value, body)
			}
		}
		req, _ := http.NewRequest("GET", o.name()+"/thing", nil)
		req.Header["X-Api-Key"] = []string{placeholder, placeholder}
		resp, err := r.client(false).Do(req)
		if err != nil || resp.StatusCode != 403 {
			t.Errorf("two of them: %v %v", resp, err)
		}
		if got := o.all(); len(got) != 0 {
			t.Errorf("origin got %+v", got)
		}
	}
}

// An operation that is not named, a preflight, a task without a lease of it, and
// one whose lease is over: no credential, and after its end no request either.
//
// Threats: K2, K6 (door)
func TestCredentialIsForItsOperations(t *testing.T) {
	o := newOrigin(t, false, nil)
	r, l := takeRig(t, o, bearer, connector.Take{As: connector.AsBearer, Operations: []string{"app.thing.get"}})
	for _, path := range []string{"/thing", "/other"} {
		get(t, r.client(false), o.name()+path)
	}
	req, _ := http.NewRequest("OPTIONS", o.name()+"/thing", nil)
	if resp, err := r.client(false).Do(req); err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	var with []string
	for _, got := range o.all() {
		if got.Header.Get("Authorization") != "" {
			with = append(with, got.Method+" "+got.URI)
		}
	}
	if len(with) != 1 || with[0] != "GET /thing" {
		t.Errorf("sent with a credential: %q", with)
	}
	if err := l.keeper.End(t.Context(), gatetest.Task); err != nil {
		t.Fatal(err)
	}
	if resp, _ := get(t, r.client(false), o.name()+"/thing"); resp.StatusCode != http.StatusBadGateway || !strings.Contains(resp.Header.Get("Sallyport-Decision"), "secret_refused") {
		t.Errorf("after the end of the lease: %d %v", resp.StatusCode, resp.Header)
	}
	if n := len(o.all()); n != 3 {
		t.Errorf("origin got %d requests", n)
	}
}

// A task without a lease of it sends the request without a credential, and not its
// placeholder; two credentials for one field are sent neither.
//
// Threats: K20 (form)
func TestCredentialIsTheTasksOwn(t *testing.T) {
	o := newOrigin(t, false, nil)
	r, _ := takeRig(t, o, bearer, connector.Take{As: connector.AsBearer}, func(c *Config) {
		c.Secrets.(*leased).lease.Audience = "http://other.localhost"
	})
	send := func(r *rig, value string) *http.Response {
		q, _ := http.NewRequest("GET", o.name()+"/thing", nil)
		if value != "" {
			q.Header.Set("Authorization", value)
		}
		resp, err := r.client(false).Do(q)
		if err != nil {
			t.Fatal(err)
		}
		read(t, resp)
		return resp
	}
	if resp := send(r, ""); resp.StatusCode != 200 || o.one(t).Header.Get("Authorization") != "" {
		t.Errorf("got %d, origin got %v", resp.StatusCode, o.all())
	}
	resp := send(r, "Bearer "+placeholder)
	wantDenied(t, resp.StatusCode, resp.Header, "secret_not_leased")
	r, _ = takeRig(t, o, bearer, connector.Take{As: connector.AsBearer}, func(c *Config) {
		inner := c.Connectors
		c.Connectors = connectors(func(req action.Request, body []byte) (Recognized, error) {
			rec, err := inner.Recognize(req, body)
			rec.Takes = append(rec.Takes, rec.Takes...)
			return rec, err
		})
	})
	resp = send(r, "")
	wantDenied(t, resp.StatusCode, resp.Header, "credentials_clash")
	if n := len(o.all()); n != 1 {
		t.Errorf("origin got %d requests", n)
	}
}

// The read-back of an operation is part of it, and takes the same credentials.
func TestReadBackTakesCredential(t *testing.T) {
	o := newOrigin(t, true, nil)
	r, _ := takeRig(t, o, bearer, connector.Take{As: connector.AsBearer}, func(c *Config) {
		inner := c.Connectors
		c.Connectors = connectors(func(req action.Request, body []byte) (Recognized, error) {
			rec, err := inner.Recognize(req, body)
			rec.ReadBack = &ReadBack{Path: "/thing", Before: func(int, []byte) {}, Verify: func(int, []byte) string { return "verified" }}
			return rec, err
		})
	})
	post(t, r.client(true), o.name()+"/write", formType, "a=b")
	all := o.all()
	if len(all) != 3 {
		t.Fatalf("origin got %d requests", len(all))
	}
	for _, got := range all {
		if got.Header.Get("Authorization") != "Bearer "+bearer {
			t.Errorf("%s %s with %q", got.Method, got.URI, got.Header["Authorization"])
		}
	}
	if lastOutcome(t, r).ReadBack != "verified" {
		t.Errorf("got %+v", lastOutcome(t, r))
	}
}

// A credential that signs does so over what is sent, and changes nothing but its
// own fields.
//
// Threats: T20 (door)
func TestCredentialChangesNothingElse(t *testing.T) {
	o := newOrigin(t, false, nil)
	for name, tt := range map[string]struct {
		put  func(*http.Request, []byte) error
		sent bool
	}{
		"signature": {func(r *http.Request, b []byte) error {
			r.Header.Set("X-Sig", fmt.Sprintf("%s %d", r.URL.Opaque, len(b)))
			return nil
		}, true},
		"another_field": {func(r *http.Request, _ []byte) error { r.Header.Set("X-Other", "1"); return nil }, false},
		"field_gone":    {func(r *http.Request, _ []byte) error { r.Header.Del("Content-Type"); return nil }, false},
		"host":          {func(r *http.Request, _ []byte) error { r.Host = "evil.example"; return nil }, false},
		"target":        {func(r *http.Request, _ []byte) error { r.URL.Opaque = "/other"; return nil }, false},
		"error":         {func(*http.Request, []byte) error { return errors.New(bearer) }, false},
	} {
		r, _ := takeRig(t, o, bearer, connector.Take{As: connector.AsBearer}, func(c *Config) {
			inner := c.Connectors
			c.Connectors = connectors(func(req action.Request, body []byte) (Recognized, error) {
				rec, err := inner.Recognize(req, body)
				rec.Takes = []Take{{Source: "api-token", Fields: []string{"X-Sig"}, Names: func(string) bool { return false },
					Put: func(r *http.Request, body []byte, _ string) error { return tt.put(r, body) }}}
				return rec, err
			})
		})
		before := len(o.all())
		resp, body := post(t, r.client(false), o.name()+"/write", formType, "a=b")
		all := o.all()
		if sent := len(all) > before; sent != tt.sent || strings.Contains(body, bearer) {
			t.Errorf("%s: sent %v, got %d %q", name, sent, resp.StatusCode, body)
		}
		if tt.sent && all[len(all)-1].Header.Get("X-Sig") != "/write 3" {
			t.Errorf("%s: origin got %v", name, all[len(all)-1].Header)
		}
	}
}

// A handshake of a socket takes the credential as any request.
func TestSocketTakesCredential(t *testing.T) {
	o := newOrigin(t, true, func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptKey(r.Header.Get("Sec-Websocket-Key")))
		rw.Flush()
	})
	r, _ := takeRig(t, o, bearer, connector.Take{As: connector.AsBearer})
	c, err := r.tlsTunnel(t, o.authority(), o.host)
	if err != nil {
		t.Fatal(err)
	}
	status, _, _ := raw(t, c, handshake(o, "/ws"))
	if got := o.one(t); status != 101 || got.Header.Get("Authorization") != "Bearer "+bearer {
		t.Errorf("got %d, origin got %v", status, got.Header)
	}
}

// A client certificate is shown to its origin, on connections of its own, and to
// no other; and not for what does not take it.
//
// Threats: K20 (door)
func TestClientCertificate(t *testing.T) {
	a, err := newAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.certificate(target{scheme: "https", host: "client.example"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	value := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	if err := CheckCertificate(value); err != nil {
		t.Fatal(err)
	}
	shown := func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, len(r.TLS.PeerCertificates)) }
	o, other := newOrigin(t, true, shown), newOriginAt(t, "other.localhost", true, shown)
	o.TLS.ClientAuth, other.TLS.ClientAuth = tls.RequestClientCert, tls.RequestClientCert
	for _, ops := range [][]string{nil, {"app.thing.get"}} {
		r, _ := takeRig(t, o, value, connector.Take{As: connector.AsCertificate, Operations: ops}, func(c *Config) {
			c.Connectors = recognizing(t, map[string]*connector.Spec{"app": taking(o.name(), connector.Take{As: connector.AsCertificate, Operations: ops}),
				"else": {Stages: map[action.Stage]connector.Stage{action.Sandbox: {Origins: []connector.Origin{{Name: "main", URL: other.name(), Local: true}}}}, Reads: connector.ReadsAllow}})
			c.RootsFor = func(name string) *x509.CertPool {
				return map[string]*x509.CertPool{o.name(): o.TLS.ClientCAs, other.name(): other.TLS.ClientCAs}[name]
			}
		})
		want := map[string]string{o.name() + "/thing": "1", o.name() + "/any": "1", other.name() + "/thing": "0"}
		if ops != nil {
			want[o.name()+"/any"] = "0"
		}
		for range 2 {
			for u, n := range want {
				if resp, body := get(t, r.client(false), u); body != n {
					t.Errorf("%v %s: got %d %s certificates, want %s", ops, u, resp.StatusCode, body, n)
				}
			}
		}
	}
}

// TestTokenLeavesItsHost: everything that makes clients send a token to a host that
// is not its own. The other hosts are governed too, and would get any request.
//
// Threats: K20 (door, form)
func TestTokenLeavesItsHost(t *testing.T) {
	evil := newOriginAt(t, "evil.localhost", true, nil)
	plain := newOriginAt(t, "app.localhost", false, nil) // another port, and no TLS
	var o *origin
	o = newOrigin(t, true, func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			code := http.StatusTemporaryRedirect
			if r.URL.Query().Get("code") == "308" {
				code = http.StatusPermanentRedirect
			}
			http.Redirect(w, r, to, code)
			return
		}
		io.WriteString(w, "hello")
	})
	lookalike := newOriginAt(t, "app.localhost.evil.localhost", true, nil)
	spec := func(u string) *connector.Spec {
		return &connector.Spec{Stages: map[action.Stage]connector.Stage{action.Sandbox: {Origins: []connector.Origin{{Name: "main", URL: u, Local: true}}}}, Reads: connector.ReadsAllow,
			Operations: []connector.Operation{{Name: "x.thing.write", Method: "POST", Path: "/write", Effect: action.Write, Body: &connector.Body{Type: connector.BodyForm, AllowExtra: true}}}}
	}
	roots := map[string]*x509.CertPool{}
	for _, x := range []*origin{evil, o, lookalike} {
		roots[x.name()] = x.TLS.ClientCAs
	}
	r, _ := takeRig(t, o, bearer, connector.Take{As: connector.AsBearer}, func(c *Config) {
		specs := map[string]*connector.Spec{"app": taking(o.name(), connector.Take{As: connector.AsBearer})}
		for name, u := range map[string]string{"evil": evil.name(), "plain": plain.name(), "lookalike": lookalike.name(), "address": "https://127.0.0.1:" + evil.port()} {
			s := spec(u)
			for i := range s.Operations {
				s.Operations[i].Name = name + ".thing.write"
			}
			specs[name] = s
		}
		specs["app"].Operations[0].Query = &connector.Fields{AllowExtra: true}
		c.Connectors = recognizing(t, specs)
		c.RootsFor = func(name string) *x509.CertPool { return roots[name] }
	})
	follow := func(h2 bool) *http.Client {
		c := r.client(h2)
		c.CheckRedirect = nil
		return c
	}
	tunnelled := func(hostport, sni, host string, protos ...string) {
		c, err := r.tlsTunnel(t, hostport, sni, protos...)
		if err != nil {
			return
		}
		defer c.Close()
		raw(t, c, "GET /thing HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
	}
	redirect := func(to, code string, h2 bool) func(*testing.T) {
		return func(t *testing.T) {
			resp, err := follow(h2).Post(o.name()+"/write?to="+url.QueryEscape(to)+"&code="+code, formType, strings.NewReader("a=b"))
			if err == nil {
				read(t, resp)
			}
		}
	}
	u := func(s string) func(*testing.T) {
		return func(t *testing.T) {
			for _, h2 := range []bool{false, true} {
				if resp, err := follow(h2).Get(s); err == nil {
					read(t, resp)
				}
			}
		}
	}
	reached := 0
	for name, attack := range map[string]func(*testing.T){
		"other_origin":            u(evil.name() + "/thing"),
		"look_alike":              u(lookalike.name() + "/thing"),
		"other_port_no_tls":       u(plain.name() + "/thing"),
		"other_port":              u("https://app.localhost:" + evil.port() + "/thing"),
		"address_of_the_host":     u("https://127.0.0.1:" + o.port() + "/thing"),
		"address_governed":        u("https://127.0.0.1:" + evil.port() + "/thing"),
		"scheme":                  u("http://" + o.authority() + "/thing"),
		"userinfo":                u("https://" + o.authority() + "@" + evil.authority() + "/thing"),
		"userinfo_encoded":        u("https://" + o.host + "%2f@" + evil.authority() + "/thing"),
		"redirect_307":            redirect(evil.name()+"/write", "307", false),
		"redirect_308":            redirect(evil.name()+"/write", "308", true),
		"redirect_look_alike":     redirect(lookalike.name()+"/write", "307", true),
		"redirect_to_no_tls":      redirect(plain.name()+"/write", "307", false),
		"connect_other_sni":       func(*testing.T) { tunnelled(o.authority(), evil.host, evil.authority()) },
		"connect_evil_sni_app":    func(*testing.T) { tunnelled(evil.authority(), o.host, o.authority()) },
		"connect_evil_host_app":   func(*testing.T) { tunnelled(evil.authority(), evil.host, o.authority()) },
		"connect_app_host_evil":   func(*testing.T) { tunnelled(o.authority(), o.host, evil.authority()) },
		"connect_no_sni":          func(*testing.T) { tunnelled(evil.authority(), "", o.authority()) },
		"host_twice":              func(*testing.T) { tunnelled(evil.authority(), evil.host, evil.authority()+"\r\nHost: "+o.authority()) },
		"absolute_target":         func(*testing.T) { rawAt(t, r, "GET "+evil.name()+"/thing HTTP/1.1\r\nHost: "+o.authority()+"\r\n\r\n") },
		"absolute_target_and_app": func(*testing.T) { rawAt(t, r, "GET "+o.name()+"/thing HTTP/1.1\r\nHost: "+evil.authority()+"\r\n\r\n") },
		"coalesced": func(t *testing.T) { // one HTTP/2 connection, and on it the name of another origin
			sendH2(t, r, h2Message{fields: [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", evil.authority()}, {":path", "/thing"}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			attack(t)
			for _, x := range []*origin{evil, plain, lookalike} {
				for _, got := range x.all() {
					reached++
					for f, v := range got.Header {
						if strings.Contains(strings.Join(v, " "), bearer) || f == "Authorization" {
							t.Errorf("%s got %s: %q", x.name(), f, v)
						}
					}
				}
			}
		})
	}
	if reached == 0 {
		t.Error("no other host was reached: nothing was tried")
	}
	// The host itself has got it, and nothing but it.
	get(t, r.client(true), o.name()+"/thing")
	for _, got := range o.all() {
		if got.Header.Get("Authorization") != "Bearer "+bearer || got.Host != o.authority() {
			t.Errorf("%s got %q for %s", o.name(), got.Header["Authorization"], got.Host)
		}
	}
}

func rawAt(t testing.TB, r *rig, in string) {
	t.Helper()
	raw(t, r.dial(t), in)
}

// An origin that answers another name's address, or holds the connection of
// another: the name is what is checked, by the roots of its own connector.
//
// Threats: K20 (door)
func TestTokenNeedsTheHostsCertificate(t *testing.T) {
	o := newOrigin(t, true, nil)
	var reached int
	impostor := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
	impostor.StartTLS()
	defer impostor.Close()
	r, _ := takeRig(t, o, bearer, connector.Take{As: connector.AsBearer}, func(c *Config) {
		c.Dialer = toward{addr: impostor.Listener.Addr().String()}
	})
	if resp, _ := get(t, r.client(false), o.name()+"/thing"); resp.StatusCode != http.StatusBadGateway || reached > 0 || len(o.all()) > 0 {
		t.Errorf("got %d, reached %d times", resp.StatusCode, reached)
	}
}

// toward dials one address, whatever is asked for.
type toward struct {
	loopback
	addr string
}

func (d toward) Dial(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
	var n net.Dialer
	return n.DialContext(ctx, "tcp", d.addr)
}
