package identity_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// The boundary proves itself to another server as an agent's client, also after the
// task: by an assertion for that server alone, on record, that is no identity of a task.
func TestBoundaryAsClient(t *testing.T) {
	f := newFixture(t, identity.Config{})
	f.issuer.Revoke("t-1") // the task is over
	for _, tt := range []struct{ id, want string }{{"", "spiffe://acme.example/agent/helpdesk"}, {"our-client.7", "our-client.7"}, {"spiffe://acme.example/agent/helpdesk", "spiffe://acme.example/agent/helpdesk"}} {
		a, err := f.issuer.AssertClient(t.Context(), identity.Client{Agent: "helpdesk", ID: tt.id, Task: "t-1", Lease: "l-1"}, "https://login.example")
		if err != nil {
			t.Fatal(tt.id, err)
		}
		b, err := base64.RawURLEncoding.DecodeString(strings.Split(a.Reveal(), ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var c struct {
			Iss, Sub string
			Aud      any
			Exp, Iat int64
		}
		if err := json.Unmarshal(b, &c); err != nil || c.Iss != tt.want || c.Sub != tt.want || c.Exp-c.Iat > 60 {
			t.Errorf("%q: got %s %v", tt.id, b, err)
		}
		if _, err := f.issuer.VerifyJWT(t.Context(), a.Reveal(), "https://login.example"); err == nil {
			t.Errorf("%q: the assertion is taken for a JWT-SVID", tt.id)
		}
	}
	seen := f.entries(t, "identity.issued")
	if len(seen) != 3 || seen[0]["kind"] != "assertion" || seen[0]["attestedBy"] != "boundary" || seen[0]["audience"].([]any)[0] != "https://login.example" || seen[0]["selectors"].([]any)[0] != "lease:l-1" {
		t.Errorf("on record: %v", seen)
	}
	for _, id := range []string{"spiffe://acme.example/agent/helpdesk/task/t-1", "spiffe://acme.example/agent/other", issuerURL, "https://login.example", "two words", strings.Repeat("x", 256)} {
		if _, err := f.issuer.AssertClient(t.Context(), identity.Client{Agent: "helpdesk", ID: id}, "https://login.example"); err == nil {
			t.Errorf("it speaks for %q", id)
		} else if r, ok := errors.AsType[*identity.Refusal](err); !ok || r.Code != "bad_subject" {
			t.Errorf("%q: %v", id, err)
		}
	}
}
