package mcp_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/surface/mcp"
)

const list = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`

// sights keeps what is measured, and finds nothing wrong with it.
type sights struct{ all []mcp.Measurement }

func (s *sights) Observe(_ context.Context, m mcp.Measurement) error {
	s.all = append(s.all, m)
	return nil
}

// TestServerRepeatsTheCredential: a server that was sent a credential puts it where it
// would be read: its own name, its version, names of tools and of arguments,
// descriptions. None of it is in a fact, which people and webhooks are told, or in the
// evidence, and the agent is shown none of it.
//
// Threats: T44, T54, G6 (door)
func TestServerRepeatsTheCredential(t *testing.T) {
	up := serve(t, map[string]http.HandlerFunc{
		"initialize": result(`{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"` + secret + `","version":"1-` + secret + `"}}`),
		"tools/list": result(`{"tools":[{"name":"` + secret + `","inputSchema":{"type":"object"}},{"name":"read","title":"` + secret + `","description":"with ` + secret + `",
			"inputSchema":{"type":"object","properties":{"id":{},"` + secret + `":{"description":"` + secret + `"}}},"annotations":{"x":"` + secret + `"}}]}`),
	})
	seen := &sights{}
	r := start(t, up+"/mcp", nil, func(c *mcp.Config) { c.Observer = seen; c.Servers[0].Name = "" })
	_, body := r.post(list, nil)
	if !strings.Contains(body, `with [redacted]`) || strings.Contains(body, secret) {
		t.Errorf("listed: %s", body)
	}
	if text, failed := r.tool("read", `{"id":1}`); failed {
		t.Errorf("got %s", text)
	}
	for _, m := range seen.all {
		if all := fmt.Sprint(m.Facts, string(m.Definitions)); strings.Contains(all, secret) || !strings.Contains(all, "[redacted]") {
			t.Errorf("measured: %s", all)
		}
	}
}

// TestLargeDefinitions: what a server lists has an end, in one answer and over all pages; a
// declared tool's definition that is larger than evidence has room for is none that can be
// used, which is a fact like any other. So no size keeps a change from being seen.
//
// Threats: G12, M2 (door)
func TestLargeDefinitions(t *testing.T) {
	size := 10
	page := func(w http.ResponseWriter, r *http.Request) {
		result(`{"tools":[{"name":"read","description":"`+strings.Repeat("a", size)+`","inputSchema":{"type":"object"}}]}`)(w, r)
	}
	r := start(t, serve(t, map[string]http.HandlerFunc{"tools/list": page})+"/mcp", nil)
	if text, failed := r.tool("read", `{"id":1}`); failed {
		t.Fatalf("got %s", text)
	}
	size = 1 << 20
	if text, failed := r.tool("read", `{"id":1}`); !failed || !strings.Contains(text, "drift (dispatch)") || !strings.Contains(text, "nothing was sent") {
		t.Errorf("got %s", text)
	}
	if got := r.pins.drifted(); !strings.Contains(got, "mcp.queue.tool.read.takes: ") || !strings.Contains(got, "→ cannot be used: its definition is larger than is read") {
		t.Errorf("drift: %s", got)
	}
	// Many pages, each of a size that is read.
	n := 0
	r = start(t, serve(t, map[string]http.HandlerFunc{"tools/list": func(w http.ResponseWriter, r *http.Request) {
		n++
		result(fmt.Sprintf(`{"nextCursor":"a","tools":[{"name":"t%d","description":"%s","inputSchema":{}}]}`, n, strings.Repeat("a", 3<<20)))(w, r)
	}})+"/mcp", nil)
	if _, body := r.post(list, nil); !strings.Contains(body, "larger than is read") || n != 2 {
		t.Errorf("%d pages were read: %.200s", n, body)
	}
}

// TestServerBehindAnotherSession: a server that is another one behind the session that the
// first one gave is seen, since each look has a session of its own; and each is ended.
//
// Threats: G3, G9 (door)
func TestServerBehindAnotherSession(t *testing.T) {
	name, greeted, ended := "queue", 0, ""
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			ended += r.Header.Get("Mcp-Session-Id") + " " + r.Header.Get("Authorization") + ";"
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		answer(map[string]http.HandlerFunc{"initialize": func(w http.ResponseWriter, r *http.Request) {
			greeted++
			w.Header().Set("Mcp-Session-Id", fmt.Sprint("s", greeted))
			result(strings.Replace(usual["initialize"], `"queue"`, `"`+name+`"`, 1))(w, r)
		}})(w, r)
	}))
	defer up.Close()
	r := start(t, up.URL+"/mcp", nil, func(c *mcp.Config) { c.Servers[0].Name = "" })
	if text, failed := r.tool("read", `{"id":1}`); failed {
		t.Fatalf("got %s", text)
	}
	name = "mirror"
	if text, failed := r.tool("read", `{"id":1}`); !failed || !strings.Contains(text, "drift (dispatch)") || !strings.Contains(r.pins.drifted(), "→ mirror 1, protocol") {
		t.Errorf("got %s; drift %s", text, r.pins.drifted())
	}
	if want := "s1 Bearer " + secret + ";s2 Bearer " + secret + ";"; greeted != 2 || ended != want {
		t.Errorf("%d sessions, ended %q", greeted, ended)
	}
}

// TestNamedServerIsAnother: where the connector says what the server calls itself, another
// one is not only asked nothing: what it says is measured, so it is drift.
//
// Threats: G3 (door, authority)
func TestNamedServerIsAnother(t *testing.T) {
	name, calls := "queue", 0
	r := start(t, serve(t, map[string]http.HandlerFunc{
		"initialize": func(w http.ResponseWriter, r *http.Request) {
			result(strings.Replace(usual["initialize"], `"queue"`, `"`+name+`"`, 1))(w, r)
		},
		"tools/call": func(w http.ResponseWriter, r *http.Request) { calls++; result(usual["tools/call"])(w, r) }})+"/mcp", nil)
	if text, failed := r.tool("read", `{"id":1}`); failed {
		t.Fatalf("got %s", text)
	}
	name = "mirror"
	if text, failed := r.tool("read", `{"id":1}`); !failed || calls != 1 || !strings.Contains(r.pins.drifted(), "mcp.queue.server: queue 1, protocol 2025-11-25 → mirror 1") {
		t.Errorf("got %s, %d calls; drift %s", text, calls, r.pins.drifted())
	}
}

// TestAnswersThatAreNone: an answer that is no result of a call says nothing of what was
// done: no content, a task that goes on, null. One with numbers that no double holds is
// passed on as it is, under the id of its call.
//
// Threats: G8 (door)
func TestAnswersThatAreNone(t *testing.T) {
	for _, body := range []string{`{}`, `null`, `{"content":null}`, `{"task":{"taskId":"7","status":"working"}}`} {
		r := start(t, serve(t, map[string]http.HandlerFunc{"tools/call": result(body)})+"/mcp", nil)
		if text, failed := r.tool("read", `{"id":1}`); !failed || !strings.Contains(text, "answer_refused") || !strings.Contains(text, "look whether it took effect") || r.outcome().State != action.Unknown {
			t.Errorf("%s: got %s, %+v", body, text, r.outcome())
		}
	}
	r := start(t, serve(t, map[string]http.HandlerFunc{"tools/call": result(`{"content":[],"structuredContent":{"snowflake":1234567890123456789}}`)})+"/mcp", nil)
	_, body := r.post(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","arguments":{"id":1}}}`, nil)
	if !strings.Contains(body, `"id":7`) || !strings.Contains(body, `"snowflake":1234567890123456789`) || r.outcome().State != action.Done {
		t.Errorf("got %s, %+v", body, r.outcome())
	}
}

// TestLargeArguments: what has no room in a record is refused in a record.
//
// Threats: T2, M1 (form)
func TestLargeArguments(t *testing.T) {
	r := start(t, serve(t, nil)+"/mcp", nil)
	if text, failed := r.tool("comment", `{"id":1,"text":"`+strings.Repeat("a", 100<<10)+`"}`); !failed || !strings.Contains(text, "arguments_too_large (form)") {
		t.Errorf("got %.200s", text)
	}
	if got := r.records(); !slices.Equal(got, []string{"deny mcp.malformed arguments_too_large"}) {
		t.Errorf("recorded %q", got)
	}
}

// TestSlowServerAmongOthers: a server that never answers keeps back the lists of no other.
//
// Threats: G8, G12 (door)
func TestSlowServerAmongOthers(t *testing.T) {
	var asked sync.WaitGroup
	asked.Add(2)
	all := make(chan struct{})
	go func() { asked.Wait(); close(all) }()
	both := func(w http.ResponseWriter, r *http.Request) { // answers once both servers are asked
		asked.Done()
		select {
		case <-all:
			result(usual["tools/list"])(w, r)
		case <-r.Context().Done():
		}
	}
	one, two := serve(t, map[string]http.HandlerFunc{"tools/list": both}), serve(t, map[string]http.HandlerFunc{"tools/list": both})
	r := start(t, one+"/mcp", nil, func(c *mcp.Config) {
		c.Servers = append(c.Servers, mcp.Server{App: "other", URL: two + "/mcp", Tools: []string{"else"}})
	})
	if _, body := r.post(list, nil); !strings.Contains(body, `"name":"read"`) {
		t.Errorf("got %s", body)
	}
}

// vouched is a certificate of 127.0.0.1 under a root of its own.
func vouched(t *testing.T) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = k
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root.Subject.CommonName = rand.Text()
	above, err := x509.CreateCertificate(rand.Reader, root, root, &keys[0].PublicKey, keys[0])
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: root.NotAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	below, err := x509.CreateCertificate(rand.Reader, leaf, root, &keys[1].PublicKey, keys[0])
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(above)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{below}, PrivateKey: keys[1]}, ca
}

// TestAnotherPeer: who vouches for the server is a fact, held in the handshake: a peer that
// the connector's roots would let pass too, and that is another than before, is sent neither
// request nor credential. That holds between the measurement and the call as well.
//
// Threats: G3, K20 (door)
func TestAnotherPeer(t *testing.T) {
	for _, between := range []bool{false, true} {
		var by, asked atomic.Int64
		var certs [2]tls.Certificate
		roots := x509.NewCertPool()
		for i := range certs {
			c, ca := vouched(t)
			certs[i] = c
			roots.AddCert(ca)
		}
		up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if by.Load() == 1 {
				asked.Add(1)
			}
			answer(map[string]http.HandlerFunc{"tools/list": func(w http.ResponseWriter, r *http.Request) {
				if between && r.Header.Get("X-Second") != "" {
					by.Store(1)
				}
				result(usual["tools/list"])(w, r)
			}})(w, r)
		}))
		up.Config.SetKeepAlivesEnabled(false) // each request is a connection
		up.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{certs[by.Load()]}}, nil
		}}
		up.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		up.StartTLS()
		second := atomic.Bool{}
		r := start(t, "http://127.0.0.1/mcp", nil, func(c *mcp.Config) {
			c.Servers[0].URL, c.Servers[0].Roots = up.URL+"/mcp", roots
			c.Credentials = func(context.Context, string, string) (func(*http.Request) error, error) {
				return func(r *http.Request) error {
					r.Header.Set("Authorization", "Bearer "+secret)
					if second.Load() {
						r.Header.Set("X-Second", "1")
					}
					return nil
				}, nil
			}
		})
		if text, failed := r.tool("read", `{"id":1}`); failed {
			t.Fatalf("got %s", text)
		}
		if got := r.pins.facts["mcp.queue.peer"]; !strings.HasPrefix(got, "sha256:") {
			t.Errorf("the peer is %q", got)
		}
		second.Store(true)
		if !between {
			by.Store(1)
		}
		text, failed := r.tool("read", `{"id":1}`)
		if !failed || !strings.Contains(text, "drift (dispatch)") || asked.Load() > 0 || r.outcome().State != action.Failed {
			t.Errorf("between %t: got %s, %+v; the other peer was sent %d requests", between, text, r.outcome(), asked.Load())
		}
		if got := r.pins.drifted(); !strings.HasPrefix(got, "mcp.queue.peer: sha256:") {
			t.Errorf("drift: %s", got)
		}
		up.Close()
	}
}

// graded lets a drift that was known at the decision pass, as a rule that grades it does.
type graded struct{ known atomic.Pointer[string] }

func (g *graded) Observe(_ context.Context, m mcp.Measurement) error {
	if m.Effect.AtLeast(action.Privileged) && m.Drift != *g.known.Load() {
		return errors.New("more is known now")
	}
	return nil
}

// TestDriftSeenMeanwhile: a privileged call that was decided before another call saw a
// graded drift is not sent on the strength of that decision. The next one is held for it.
//
// Threats: G1, T50 (authority)
func TestDriftSeenMeanwhile(t *testing.T) {
	g, none, calls := &graded{}, "", 0
	g.known.Store(&none)
	yes := &question{yes: make(chan struct{})}
	close(yes.yes)
	kit := gatetest.New(t, allow, func(a *gate.Admission) { a.Drifted, a.Holds = func() string { return *g.known.Load() }, yes })
	r := start(t, serve(t, map[string]http.HandlerFunc{
		"tools/list": func(w http.ResponseWriter, r *http.Request) {
			now := "mcp.queue.tool.read.says: a → b"
			g.known.Store(&now) // as the other call sees it
			result(`{"tools":[{"name":"purge","inputSchema":{"type":"object"}}]}`)(w, r)
		},
		"tools/call": func(w http.ResponseWriter, r *http.Request) { calls++; result(usual["tools/call"])(w, r) },
	})+"/mcp", nil, func(c *mcp.Config) { c.Gate, c.Observer = kit.Gate, g })
	if text, failed := r.tool("purge", `{}`); !failed || calls != 0 || !strings.Contains(text, "drift (dispatch)") {
		t.Errorf("got %s, %d calls", text, calls)
	}
	if text, failed := r.tool("purge", `{}`); failed || calls != 1 || yes.asked.Operation != "queue.purge" {
		t.Errorf("got %s, %d calls; asked about %+v", text, calls, yes.asked)
	}
}

// digests says yes to one digest, and to nothing else.
type digests struct {
	yes   action.Digest
	asked []action.Digest
}

func (d *digests) Open(_ context.Context, a action.Action, _ action.Decision) (gate.Hold, error) {
	d.asked = append(d.asked, a.Digest)
	q := &question{yes: make(chan struct{})}
	if a.Digest == d.yes {
		close(q.yes)
	}
	return held{q}, nil
}

// TestApprovalIsOfTheArguments: what people said yes to is the server, the tool and every
// byte of the arguments; only the spelling of the JSON may be another.
//
// Threats: T50, I1, I2 (hold)
func TestApprovalIsOfTheArguments(t *testing.T) {
	q := newQueue("queue")
	up := httptest.NewServer(q.handler(false))
	defer up.Close()
	d := &digests{}
	kit := gatetest.New(t, func(f gate.Facts) action.Decision {
		x := allow(f)
		if f.Action.Operation != "mcp.list" {
			x.Verdict, x.Approvers = action.Hold, "approver"
		}
		return x
	}, func(a *gate.Admission) { a.Holds = d })
	r := start(t, up.URL+"/mcp", nil, func(c *mcp.Config) { c.Gate, c.Patience = kit.Gate, time.Millisecond })
	r.tool("comment", `{"id":1,"text":"hi"}`)
	d.yes = d.asked[0]
	for _, other := range [][2]string{{"comment", `{"id":2,"text":"hi"}`}, {"comment", `{"id":1,"text":"hi "}`}, {"comment", `{"id":1,"text":"h\u0131"}`}, {"read", `{"id":1}`}, {"purge", `{}`}} {
		if text, failed := r.tool(other[0], other[1]); !failed || !strings.Contains(text, "held (hold)") || q.called() != "" {
			t.Errorf("%s: got %s; called %s", other, text, q.called())
		}
	}
	if text, failed := r.tool("comment", ` { "text" : "\u0068i" , "id" : 1e0 } `); failed || q.called() != `comment {"id":1,"text":"hi"}` {
		t.Errorf("got %s; called %s", text, q.called())
	}
}

// TestHugeNumbersInASchema: a bound of a schema is a number of the size of a double, or the
// schema is none that can be used.
//
// Threats: G12 (form)
func TestHugeNumbersInASchema(t *testing.T) {
	r := start(t, serve(t, map[string]http.HandlerFunc{"tools/list": result(`{"tools":[{"name":"read","inputSchema":{"type":"object","properties":{"id":{"maximum":1e999999999}}}}]}`)})+"/mcp", nil)
	if text, failed := r.tool("read", `{"id":1}`); !failed || !strings.Contains(text, "no_such_tool") {
		t.Errorf("got %s", text)
	}
	if got := r.pins.facts["mcp.queue.tool.read.takes"]; got != "cannot be used: its definition has no canonical form" {
		t.Errorf("got %s", got)
	}
	if bytes.Contains([]byte(r.pins.definitions), []byte("read")) {
		t.Errorf("definitions: %s", r.pins.definitions)
	}
}
