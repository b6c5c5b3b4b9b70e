package resource_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/resource"
)

// taken is a connector that takes three credentials, and a capability that names two.
const taken = `apiVersion: sallyport/v1
kind: Tenant
metadata: {name: acme}
spec: {trustDomain: acme.example}
---
apiVersion: sallyport/v1
kind: Connector
metadata: {name: api, tenant: acme}
spec:
  stages: {sandbox: {origins: [{name: main, url: "https://api.example"}, {name: other, url: "https://other.example"}]}}
  takes:
    - {source: token, origin: main, as: bearer}
    - {source: login, origin: main, as: basic, operations: [api.thing.get]}
    - {source: asked, origin: other, as: bearer}
  operations:
    - {name: api.thing.get, origin: main, method: GET, path: /thing, effect: read}
---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: token, tenant: acme}
spec: {type: static-request, connector: api, secret: {sealed: token}}
---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: login, tenant: acme}
spec: {type: static-request, connector: api, account: svc, secret: {sealed: login}}
---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: asked, tenant: acme}
spec:
  type: oauth
  connector: api
  oauth: {grant: client_credentials, auth: private_key_jwt, stages: {sandbox: {issuer: "https://login.example"}}}
---
apiVersion: sallyport/v1
kind: Capability
metadata: {name: look, tenant: acme}
spec:
  description: Look.
  version: "1"
  stages: [sandbox]
  reads: [api]
  budgets: {actions: 10, seconds: 60}
  credentials: [token, asked]
`

func TestTakes(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"as_it_is", "", "", ""},
		{"two_in_one_place", "credentials: [token, asked]", "credentials: [token, login]", "would take both token and login in the same place"},
		{"another_source", "source: token,", "source: tokens,", "requests to 0 origins of connector api take token, want one"},
		{"source_comes_later", "kind: CredentialSource\nmetadata: {name: login, tenant: acme}\nspec: {type: static-request, connector: api, account: svc, secret: {sealed: login}}\n---\napiVersion: sallyport/v1\n", "", ""},
		{"no_source", "credentials: [token, asked]", "credentials: [tokens, asked]", `there is no CredentialSource "tokens"`},
		{"not_taken", "    - {source: token, origin: main, as: bearer}\n", "", "requests to 0 origins of connector api take token, want one"},
		{"at_two_origins", "    - {source: asked", "    - {source: token, origin: other, as: bearer}\n    - {source: asked", "requests to 2 origins"},
		{"basic_without_account", "as: bearer}\n    - {source: login", "as: basic}\n    - {source: login", "token has no account, which basic needs"},
		{"bearer_with_account", "as: basic, operations", "as: bearer, operations", "login has an account, which bearer has no place for"},
		{"oauth_as_basic", "origin: other, as: bearer", "origin: other, as: basic", "asked gives a bearer token"},
		{"of_another_kind", "type: static-request, connector: api, secret: {sealed: token}", "type: static-field, connector: api, secret: {sealed: token}", "token is of type static-field, whose credential goes into no request"},
		{"into_a_body", "method: GET, path: /thing, effect: read}", `method: POST, path: /thing, effect: write, body: {type: form, fields: {t: {secret: token}}}}`, "token is of type static-request, and a field takes a static-field"},
		{"colon_in_account", "account: svc", `account: "s:vc"`, "want a user name without colon"},
		{"secret_in_place", "{sealed: token}", "{value: ghp_x}", "a secret is never written into a file"},
		{"oauth_secret_of_a_key", "auth: private_key_jwt,", "auth: private_key_jwt, secret: {sealed: s},", "oauth.secret: is of client_secret_basic"},
		{"oauth_no_secret", "auth: private_key_jwt", "auth: client_secret_basic", "oauth.secret: is missing"},
		{"oauth_life", "auth: private_key_jwt,", "auth: private_key_jwt, lifeSeconds: 5,", "oauth.lifeSeconds: want 10 to 86400"},
		{"oauth_scope", "auth: private_key_jwt,", "auth: private_key_jwt, scope: [read write],", "oauth.scope[0]: want one scope"},
		{"oauth_resource", "auth: private_key_jwt,", `auth: private_key_jwt, resource: ["https://a#b"],`, "oauth.resource[0]: want an absolute URI"},
		{"oauth_probe", "auth: private_key_jwt,", "auth: private_key_jwt, probe: {path: //evil.example/, status: 200},", "oauth.probe.path: want a path"},
		{"oauth_grant", "grant: client_credentials", "grant: password", "want one of client_credentials, token_exchange"},
		{"oauth_issuer", "https://login.example", "login.example", "oauth.stages.sandbox.issuer: want https://"},
	} {
		text := strings.Replace(taken, tt.old, tt.new, 1)
		if tt.old != "" && text == taken {
			t.Fatalf("%s replaces nothing", tt.name)
		}
		all, err := decode(text)
		if err == nil {
			err = resource.Validate(all)
		}
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}
