package resource_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/resource"
)

// TestUpstreamsAreChecked: each mistake is named by its field.
func TestUpstreamsAreChecked(t *testing.T) {
	const (
		vault = "type: vault\nconnector: api\nvault:\n  audience: a\n  role: desk\n  sweepRole: sweep\n  ttlSeconds: 600\n  kv: {path: secret/data/desk, field: token}\n  stages:\n    sandbox: {address: \"https://vault.example:8200\"}\n"
		sts   = "type: aws-sts\nconnector: api\nawsSTS:\n  roleARN: arn:aws:iam::123456789012:role/desk\n  region: eu-central-1\n  policy: '{}'\n  stages:\n    sandbox: {address: \"https://sts.eu-central-1.amazonaws.com\"}\n"
		kube  = "type: kubernetes\nconnector: api\nkubernetes:\n  namespace: desk\n  serviceAccount: reader\n  audience: a\n  stages:\n    sandbox: {address: \"https://cluster.example:6443\"}\n"
	)
	for _, tt := range []struct{ spec, from, to, want string }{
		{vault, "", "", ""}, {sts, "", "", ""}, {kube, "", "", ""},
		{vault, "https://vault", "http://vault", "vault.stages.sandbox.address: want https"},
		{vault, "8200", "8200/v1", "vault.stages.sandbox.address: want https"},
		{vault, "sweepRole: sweep", "sweepRole: desk", "vault.sweepRole: is the role of tasks"},
		{vault, "role: desk", "role: ../desk", "vault.role: want the name"},
		{vault, "secret/data/desk", "secret/data/../sys/raw", "vault.kv.path: want MOUNT/data/NAME"},
		{vault, "secret/data/desk", "secret/desk", "vault.kv.path: want MOUNT/data/NAME"},
		{vault, "secret/data/desk", "secret/data/desk?version=1", "vault.kv.path: want MOUNT/data/NAME"},
		{vault, "  kv: {path: secret/data/desk, field: token}\n", "", "vault: want one of database, kv and pki"},
		{vault, "ttlSeconds: 600", "ttlSeconds: 5", "vault.ttlSeconds: want 60 to 86400"},
		{vault, "connector: api\n", "", "connector: is missing"},
		{vault, "kv: {path: secret/data/desk, field: token}", "database: {path: database/creds/desk, effect: write}", "connector: is of type"},
		{strings.Replace(vault, "connector: api\n", "", 1), "kv: {path: secret/data/desk, field: token}", "database: {path: database/creds/desk, effect: write}", "vault.stages.sandbox.postgresql: is where the account"},
		{vault, "type: vault", "type: aws-sts", "vault: is of type vault"},
		{sts, "role/desk", "user/desk", "awsSTS.roleARN: want arn"},
		{sts, "policy: '{}'", "policy: '{'", "awsSTS.policy: want an IAM policy"},
		{sts, "  policy: '{}'\n", "", "awsSTS.policy: is missing"},
		{sts, "  region:", "  maxSeconds: 60\n  region:", "awsSTS.maxSeconds: want 900 to 43200"},
		{sts, "eu-central-1\n", "EU/1\n", "awsSTS.region: want a region"},
		{kube, "namespace: desk", "namespace: desk/x", "kubernetes.namespace: want a name"},
		{kube, "serviceAccount: reader", "serviceAccount: ../admin", "kubernetes.serviceAccount: want a name"},
		{kube, "  audience: a\n", "", "kubernetes.token: want token or audience"},
		{kube, "  audience: a\n", "  audience: a\n  token: {sealed: x}\n", "kubernetes.token: want token or audience"},
		{kube, "  audience: a\n", "  token: {sealed: \"eyJhbGciOi\"}\n", "kubernetes.token.sealed: want the name"},
	} {
		text := strings.Replace(tt.spec, tt.from, tt.to, 1)
		if tt.from != "" && text == tt.spec {
			t.Errorf("%q is not there to be replaced", tt.from)
		}
		doc := "apiVersion: sallyport/v1\nkind: CredentialSource\nmetadata: {name: s, tenant: acme}\nspec:\n  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
		_, err := resource.Decode([]resource.Source{{Name: "s.yaml", Data: []byte(doc)}})
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s\ngot %v, want %q", doc, err, tt.want)
		}
	}
}
