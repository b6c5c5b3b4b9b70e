package identity

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
)

// always is an authority for which every task runs.
type always struct{}

func (always) Live(context.Context, string, string) ([]string, error) { return nil, nil }

func postForm(t *testing.T, c *http.Client, to string, f url.Values) (int, map[string]any) {
	t.Helper()
	resp, err := c.PostForm(to, f)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var m map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, m
}

// Another's authorization server takes a task's client assertion (RFC 7523), with
// nothing shared but the address of our keys, and takes it once. It refuses the
// assertion for somebody else, and a JWT-SVID in its place.
func TestOIDCProviderTakesOurAssertion(t *testing.T) {
	if testing.Short() {
		t.Skip("starts node")
	}
	mux := http.NewServeMux()
	srv := httptest.NewTLSServer(mux)
	defer srv.Close()
	const client = "spiffe://acme.example/agent/helpdesk"
	as := leasetest.StartNode(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), "peer.mjs", client, srv.URL+"/t/acme/keys")
	seal, err := ledgertest.Root(t).Sealer("acme")
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := identity.Open(t.Context(), ledgertest.New(t), seal, always{}, identity.Config{TrustDomain: "acme.example", IssuerURL: srv.URL + "/t/acme",
		Grants: func(context.Context, string) (identity.Grant, error) {
			return identity.Grant{Agent: "helpdesk", Capability: "c", Audiences: []string{as, "https://other.example"}, Until: time.Now().Add(time.Hour)}, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer issuer.Close()
	mux.Handle("/t/acme/keys", issuer.Keys())
	mux.Handle("/t/acme/token", issuer.TokenHandler())
	w := identity.Workload{Tenant: "acme", Agent: "helpdesk", Task: "t-1"}
	svid := func(audience string) string {
		t.Helper()
		tok, err := issuer.IssueJWT(t.Context(), w, audience)
		if err != nil {
			t.Fatal(err)
		}
		return tok.Reveal()
	}
	const bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	assertion := func(audience string) string {
		t.Helper()
		code, m := postForm(t, srv.Client(), srv.URL+"/t/acme/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"subject_token": {svid(srv.URL + "/t/acme")}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
			"requested_token_type": {bearer}, "audience": {audience}})
		if code != 200 {
			t.Fatalf("our token endpoint: got %d %v", code, m)
		}
		return m["access_token"].(string)
	}
	ask := func(token string) (int, map[string]any) {
		return postForm(t, http.DefaultClient, as+"/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {client},
			"client_assertion_type": {bearer}, "client_assertion": {token}})
	}
	good := assertion(as)
	if code, m := ask(good); code != 200 || m["access_token"] == nil {
		t.Fatalf("got %d %v", code, m)
	}
	for name, token := range map[string]string{"used_before": good, "for_somebody_else": assertion("https://other.example"), "jwt_svid": svid(as)} {
		if code, m := ask(token); code != 400 && code != 401 || m["access_token"] != nil {
			t.Errorf("%s: got %d %v", name, code, m)
		}
	}
}
