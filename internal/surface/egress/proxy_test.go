package egress

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

func TestHappyPaths(t *testing.T) {
	for _, tc := range []struct {
		name       string
		secure, h2 bool
		proto      string
	}{
		{"plain_h1", false, false, "HTTP/1.1"},
		{"tls_h1", true, false, "HTTP/2.0"},
		{"tls_h2", true, true, "HTTP/2.0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := newOrigin(t, tc.secure, nil)
			r := newRig(t, o, nil)
			c := r.client(tc.h2)
			resp, body := get(t, c, o.name()+"/a/b?x=1")
			if resp.StatusCode != 200 || body != "hello" {
				t.Fatalf("got %d %q", resp.StatusCode, body)
			}
			if resp.ProtoMajor == 2 != tc.h2 {
				t.Errorf("client spoke %s", resp.Proto)
			}
			got := o.one(t)
			if got.URI != "/a/b?x=1" || got.Proto != tc.proto || got.Host != o.authority() {
				t.Errorf("origin got %+v", got)
			}
			resp, err := c.Post(o.name()+"/w", "application/json", strings.NewReader(`{"a":1}`))
			if err != nil {
				t.Fatal(err)
			}
			read(t, resp)
			d := r.last(t)
			if d.Action.Operation != "app.write" || d.Action.Request.BodySize != 7 || len(o.all()) != 2 || string(o.all()[1].Body) != `{"a":1}` {
				t.Errorf("got %+v, origin %+v", d.Action, o.all())
			}
		})
	}
}

func TestUnmatchedIsNeverSent(t *testing.T) {
	// Even a policy that allows everything lets nothing through to an origin
	// without a connector, and its name is not resolved.
	o := newOrigin(t, false, nil)
	r := newRig(t, o, nil)
	resp, _ := get(t, r.client(false), "http://evil.example/x")
	if resp.StatusCode != http.StatusBadGateway {
		t.Errorf("got %d", resp.StatusCode)
	}
	d := r.last(t)
	if d.Action.Operation != "egress.unmatched" || d.Action.Effect != action.Read || d.Action.Params["origin"] != "http://evil.example" {
		t.Errorf("got %+v", d.Action)
	}
	resp, err := r.client(false).Post("http://evil.example/x", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	read(t, resp)
	if d := r.last(t); d.Action.Effect != action.Write {
		t.Errorf("got %+v", d.Action)
	}
	if _, err := r.client(false).Get("http://update.googleapis.com/"); err != nil {
		t.Fatal(err)
	}
	if d := r.last(t); d.Action.Params["class"] != "browser-internal" {
		t.Errorf("got %+v", d.Action)
	}
}

func TestDenialPage(t *testing.T) {
	deny := func(f gate.Facts) action.Decision {
		return action.Denied(action.LayerGrant, "outside_grant", "secret reason", "ask <for> it")
	}
	o := newOrigin(t, true, nil)
	r := newRig(t, o, deny)
	for accept, want := range map[string]string{
		"text/html":        "<dt>Code<dd>outside_grant<dt>Layer<dd>grant<dt>Next step<dd>ask &lt;for&gt; it<dt>Action<dd>a-",
		"application/json": `"code":"outside_grant"`,
		"*/*":              "not sent: outside_grant (layer grant)",
	} {
		req, _ := http.NewRequest("GET", o.name()+"/", nil)
		req.Header.Set("Accept", accept)
		req.Header.Set("Origin", "https://evil.example")
		resp, err := r.client(true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body := read(t, resp)
		wantDenied(t, resp.StatusCode, resp.Header, "outside_grant")
		if !strings.Contains(body, want) || strings.Contains(body, "secret reason") {
			t.Errorf("%s: got %s", accept, body)
		}
	}
	if n := len(o.all()); n != 0 {
		t.Errorf("origin got %d requests", n)
	}
}

func TestParallel(t *testing.T) {
	o := newOrigin(t, true, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	r := newRig(t, o, nil)
	for _, h2 := range []bool{false, true} {
		c := r.client(h2)
		errs := make(chan error, 64)
		for i := range 64 {
			go func() {
				u := fmt.Sprintf("%s/%d", o.name(), i)
				resp, err := c.Get(u)
				if err == nil {
					body := make([]byte, 64)
					n, _ := resp.Body.Read(body)
					resp.Body.Close()
					if got := string(body[:n]); got != fmt.Sprintf("/%d", i) {
						err = fmt.Errorf("%s: got %d %q", u, resp.StatusCode, got)
					}
				}
				errs <- err
			}()
		}
		for range 64 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}
}

// TestUnmatchedEffect: a connector can call a request more than a read, never
// less than its method.
func TestUnmatchedEffect(t *testing.T) {
	o := newOrigin(t, false, nil)
	var rec Recognized
	r := newRig(t, o, nil, func(c *Config) {
		c.Connectors = connectors(func(q action.Request, _ []byte) (Recognized, error) {
			if q.Destination != "" {
				t.Errorf("destination %q", q.Destination)
			}
			return rec, nil
		})
	})
	for _, tc := range []struct {
		method       string
		effect, want action.Effect
	}{{"GET", "", action.Read}, {"GET", action.Observe, action.Read}, {"GET", action.Write, action.Write}, {"POST", action.Read, action.Write},
		{"POST", "", action.Write}, {"POST", action.Privileged, action.Privileged}, {"GET", "new", action.Irreversible}} {
		for _, op := range []string{"", "egress.unmatched"} {
			rec = Recognized{App: "app", Operation: op, Effect: tc.effect, Params: map[string]string{"why": "no_operation"}, Allowed: true, AllowLocal: true}
			req, _ := http.NewRequest(tc.method, o.name()+"/x", nil)
			req.Header.Set("Sec-Fetch-Dest", "WebSocket") // said, but not done
			resp, err := r.client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			read(t, resp)
			a := r.last(t).Action
			if !a.Unmatched() || a.Effect != tc.want || a.Params["why"] != "no_operation" || a.Params["method"] != tc.method || a.App != "app" {
				t.Errorf("%+v: recorded %+v", tc, a)
			}
		}
	}
}
