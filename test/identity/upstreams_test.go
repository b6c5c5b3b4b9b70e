package identity

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// serve starts the public face of a rig over TLS, with a certificate of ca.
func serve(t *testing.T, r *rig.Rig, ca *ca, listen string) {
	t.Helper()
	dir, cert := t.TempDir(), ca.leaf(spiffeid.ID{})
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	faces, err := api.Serve(r.Server, api.Config{Data: r.Dir, Listen: listen, Issuer: "https://" + listen, TLSCert: filepath.Join(dir, "cert.pem"), TLSKey: filepath.Join(dir, "key.pem")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { faces.Close() })
}

// declare adds a source with a block of the page, and the connector that takes it.
func declare(f map[string][]byte, source, block, app, url string, ca []byte, take string) {
	f["credentials.yaml"] = fmt.Appendf(f["credentials.yaml"], "---\napiVersion: sallyport/v1\nkind: CredentialSource\nmetadata: {name: %s, tenant: brightwell}\nspec:\n%s", source, block)
	f[app+"-ca.pem"] = ca
	f["connectors.yaml"] = fmt.Appendf(f["connectors.yaml"], "---\napiVersion: sallyport/v1\nkind: Connector\nmetadata: {name: %s, tenant: brightwell}\nspec:\n  stages:\n    sandbox:\n      origins:\n"+
		"        - {name: main, url: %q, local: true, caFile: %[1]s-ca.pem}\n  reads: allow\n  takes:\n    - {source: %[3]s, as: %s}\n", app, url, source, take)
}

// TestUpstreamsPage: what docs/operate/identity.md says of a vault, a cloud and a
// cluster, with its lines: each verifies the task's token by discovery at the running
// server, the agent uses what they gave without seeing it, and when the task ends the
// token and the Secret are gone and the session is in sight until its time.
//
// The three are servers of the contract, in internal/lease/leasetest.
//
// Threats: K4, K7 (lease); T44 (door)
func TestUpstreamsPage(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	l.Close()
	web := newCA(t, spiffeid.TrustDomain{})
	trust := &leasetest.Trust{Issuer: "https://" + listen + "/t/brightwell", CA: web.pem()}
	bao, aws, cluster := leasetest.StartVault(t, trust), leasetest.StartSTS(t, trust), leasetest.StartCluster(t, trust)
	type call struct{ path, token string }
	calls := make(chan call, 8)
	target := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		token := strings.TrimPrefix(q.Header.Get("Authorization"), "Bearer ")
		calls <- call{q.URL.Path, token}
		fmt.Fprintf(w, "%s with %s\n", q.URL.Path, token) // which is replaced on its way
	}))
	defer target.Close()
	pods := httptest.NewTLSServer(target.Config.Handler)
	defer pods.Close()
	ca := func(s *httptest.Server) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	}
	blocks := page(t, strings.NewReplacer("https://vault.example:8200", bao.URL, "https://sts.eu-central-1.amazonaws.com", aws.URL, "https://cluster.example:6443", cluster.URL))
	r := rig.New(t, rig.Options{Issuer: "https://" + listen, Edit: func(f map[string][]byte) {
		rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [api-token, cloud, pods]")(f)
		rig.Replace("capability.yaml", "reads: [iam, tickets]", "reads: [iam, tickets, api, aws, cluster]")(f)
		rig.Replace("agent.yaml", "connectors: [iam, tickets]", "connectors: [iam, tickets, api, aws, cluster]")(f)
		f["vault-ca.pem"] = bao.CA()
		f["desk-policy.json"] = []byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"execute-api:Invoke","Resource":"*"}]}`)
		declare(f, "api-token", blocks["source-vault"], "api", target.URL, ca(target), "bearer")
		declare(f, "cloud", blocks["source-sts"], "aws", aws.URL, aws.CA(), "sigv4, service: execute-api, region: eu-central-1")
		declare(f, "pods", blocks["source-kubernetes"], "cluster", pods.URL, ca(pods), "bearer")
		f["cluster-ca.pem"] = append(f["cluster-ca.pem"], cluster.CA()...)
	}})
	serve(t, r, web, listen)
	r.Ready(t)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	out := &rig.Output{}
	script := fmt.Sprintf(`c() { curl -sS --noproxy "" "$@"; } # or curl goes to loopback by itself
c %s/kept; c %s/pods; c '%s/prod/x?b=2&a=1'; env; echo "ready"; sleep 600`, target.URL, pods.URL, aws.URL)
	running, err := r.Server.Run(t.Context(), "", x.ID, server.Harness{Path: "/bin/sh", Args: []string{"-c", script}, Dir: "/", Stdout: out, Stderr: out})
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the agent's calls", func() bool { return strings.Contains(out.String(), "ready") })
	kept, pod := <-calls, <-calls
	if kept != (call{"/kept", "kept-in-the-vault"}) || pod.path != "/pods" || cluster.Works(pod.token) != nil {
		t.Errorf("the applications got %+v, %+v", kept, pod.path)
	}
	labels := cluster.Labels()
	if len(labels) != 1 || len(aws.Labels()) != 1 || len(aws.Calls) != 1 || aws.Calls[0] != aws.Labels()[0]+" GET /prod/x?b=2&a=1 " {
		t.Errorf("the cluster has %q, the cloud had %q", labels, aws.Calls)
	}
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "the test is over"); err != nil {
		t.Fatal(err)
	}
	rig.Wait(t, running)
	said := out.String()
	if strings.Contains(said, kept.token) || strings.Contains(said, pod.token) || !strings.Contains(said, "AWS_ACCESS_KEY_ID=sallyport-secret:cloud") || !strings.Contains(said, `{"caller":"sallyport-`) {
		t.Errorf("the agent has a credential, or was told nothing:\n%s", said)
	}
	if err := cluster.Works(pod.token); err == nil || len(cluster.Labels())+len(bao.Labels()) > 0 {
		t.Errorf("the cluster has %q, the vault %q: %v", cluster.Labels(), bao.Labels(), err)
	}
	all, err := r.Server.Leases(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]lease.State{}
	for _, l := range all {
		states[l.Source] = l.State
		if l.Source == "cloud" && (l.Lasts.IsZero() || l.Why == "" || l.Attempts > 0) {
			t.Errorf("the session: got %+v", l)
		}
	}
	if states["api-token"] != lease.Revoked || states["pods"] != lease.Revoked || states["cloud"] != lease.Revoking {
		t.Errorf("got %v", states)
	}
	if x, err = r.Server.Task(t.Context(), "", x.ID); err != nil || x.State != task.Revoked {
		t.Errorf("the task is %s, %v", x.State, err)
	}
	r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711")) // nothing is an alarm
	var issued []string
	for _, e := range r.Records(t, 0) {
		if e.Type == "identity.issued" {
			var b struct{ Subject, AttestedBy string }
			if err := json.Unmarshal(e.Body, &b); err != nil {
				t.Fatal(err)
			}
			issued = append(issued, b.Subject)
		}
		if strings.Contains(string(e.Body), pod.token) || strings.Contains(string(e.Body), kept.token) {
			t.Errorf("a credential is in record %s", e.Type)
		}
	}
	if !slices.Contains(issued, "spiffe://brightwell.example/boundary") || !slices.Contains(issued, "spiffe://brightwell.example/agent/helpdesk/task/"+x.ID) {
		t.Errorf("identities on record: %q", issued)
	}
}
