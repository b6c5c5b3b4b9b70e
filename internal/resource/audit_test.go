package resource_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/resource"
)

// audited is a connector whose audit log is read, and a capability that uses it.
const audited = `apiVersion: sallyport/v1
kind: Tenant
metadata: {name: acme}
spec: {trustDomain: acme.example}
---
apiVersion: sallyport/v1
kind: Connector
metadata: {name: api, tenant: acme}
spec:
  stages: {production: {origins: [{name: main, url: "https://api.example"}]}}
  takes: [{source: token, as: bearer}]
  audit:
    path: /log
    after: after
    credential: {source: auditor, as: bearer}
    id: /id
    time: /time
    actor: /who
    event: /what
    accounts: {svc: token}
    operations: [{event: got, operation: api.thing.get}]
  operations: [{name: api.thing.get, method: GET, path: /thing, effect: read}]
---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: token, tenant: acme}
spec: {type: static-request, connector: api, secret: {sealed: token}}
---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: auditor, tenant: acme}
spec: {type: static-request, connector: api, secret: {sealed: auditor}}
---
apiVersion: sallyport/v1
kind: Capability
metadata: {name: look, tenant: acme}
spec:
  description: Look.
  version: "1"
  stages: [production]
  reads: [api]
  budgets: {actions: 10, seconds: 60}
  credentials: [token]
`

func TestAuditorsCredential(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"as_it_is", "", "", ""},
		{"comes later", "metadata: {name: auditor, tenant: acme}", "metadata: {name: other, tenant: acme}", "requests to 0 origins of connector api take other"},
		{"comes later, alone", `---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: auditor, tenant: acme}
spec: {type: static-request, connector: api, secret: {sealed: auditor}}
`, "", ""},
		{"a task's", "credential: {source: auditor", "credential: {source: token", "requests of tasks take token"},
		{"given to a task", "credentials: [token]", "credentials: [token, auditor]", "and no task is given it"},
		{"another type", "metadata: {name: auditor, tenant: acme}\nspec: {type: static-request", "metadata: {name: auditor, tenant: acme}\nspec: {type: static-field", "is of type static-field"},
		{"without a user", "credential: {source: auditor, as: bearer}", "credential: {source: auditor, as: basic}", "spec.audit.credential.as: auditor has no account"},
		{"acts too", "accounts: {svc: token}", "accounts: {svc: auditor}", "auditor is what the log is read with"},
		{"acts as nobody", "accounts: {svc: token}", "accounts: {svc: nobody}", `spec.audit.accounts.svc: there is no CredentialSource "nobody"`},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			text := strings.Replace(audited, tt.old, tt.new, 1)
			if tt.old != "" && text == audited {
				t.Fatal("nothing is replaced")
			}
			all, err := resource.Decode([]resource.Source{{Name: "x.yaml", Data: []byte(text)}})
			if err == nil {
				err = resource.Validate(all)
			}
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
