package leasetest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a started oidc-provider knows beside the client that its caller names.
const (
	OIDCClient   = "basic client" // by client_secret_basic
	OIDCSecret   = "a basic secret %&+"
	OIDCResource = "https://api.example" // with the scopes read and write
)

// OIDC is a running oidc-provider of the test's own.
type OIDC struct {
	Issuer string // through Wire
	Wire   *Wire
	t      testing.TB
	direct string
	client *http.Client
}

// StartOIDC runs oidc-provider until the test ends. It knows client by the keys at
// jwks, whose server has a certificate by ca, and exchanges the JWT-SVIDs of issuer.
func StartOIDC(t testing.TB, ca []byte, client, jwks, issuer string, life time.Duration) *OIDC {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &OIDC{t: t, Issuer: "http://" + l.Addr().String(), client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	addr := StartNode(t, ca, "oauth.mjs", o.Issuer, client, jwks, issuer, fmt.Sprint(int(life/time.Second)))
	o.direct, o.Wire = "http://"+addr, NewWire(t, l, "tcp", addr)
	return o
}

func (o *OIDC) get(path string, out any) {
	o.t.Helper()
	resp, err := o.client.Get(o.direct + path)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		o.t.Fatal(err)
	}
}

// Labels are those of the live tokens.
func (o *OIDC) Labels() []string {
	o.t.Helper()
	var agents []string
	o.get("/test/labels", &agents)
	return LabelsOf(agents)
}

// LabelsOf are the labels in the user agents that asked for tokens.
func LabelsOf(agents []string) []string {
	out := []string{}
	for _, a := range agents {
		a, _ = strings.CutPrefix(a, "sallyport (")
		out = append(out, strings.TrimSuffix(a, ")"))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Pass sets its clock ahead, once what it was asked before is done.
func (o *OIDC) Pass(d time.Duration) {
	o.t.Helper()
	o.get(fmt.Sprintf("/test/pass?seconds=%d", int(d/time.Second)), new(struct{}))
}

// Active introspects a token as an application does, which is another client.
func (o *OIDC) Active(token string) bool {
	r, err := http.NewRequest(http.MethodPost, o.direct+"/token/introspection", strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		o.t.Error(err)
		return false
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("rs", "rs-secret")
	resp, err := o.client.Do(r)
	if err != nil {
		o.t.Error(err)
		return false
	}
	defer resp.Body.Close()
	var says struct {
		Active bool `json:"active"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&says); err != nil || resp.StatusCode != http.StatusOK {
		o.t.Error(resp.Status, err)
	}
	return says.Active
}
