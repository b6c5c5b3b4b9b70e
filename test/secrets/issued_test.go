package secrets

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"
	"github.com/jackc/pgx/v5"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/test/rig"
	"github.com/sallyport-dev/sallyport/test/sshd"
)

// user is an agent that works with everything that its task was issued, keeps
// what it saw, and stays: the database, the host, and the application that signs
// people in by a directory.
func user(ctx context.Context, args []string) error {
	c, err := pgx.Connect(ctx, "")
	if err != nil {
		return err
	}
	var note string
	if err := c.QueryRow(ctx, "SELECT customer FROM orders WHERE customer LIKE 'the agent%'").Scan(&note); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ssh", "-F", os.Getenv("SALLYPORT_SSH_CONFIG"), "build", "echo in as $USER").CombinedOutput()
	if err != nil {
		return fmt.Errorf("ssh: %w: %s", err, out)
	}
	proxy, err := url.Parse(os.Getenv("HTTPS_PROXY"))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	web := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots}}}
	resp, err := web.Get(args[0])
	if err != nil {
		return err
	}
	resp.Body.Close()
	fmt.Printf("%s; page %d; holding %d bytes\n", strings.TrimSpace(string(out)), resp.StatusCode, len(note))
	<-ctx.Done()
	fmt.Println(note)
	return nil
}

// TestIssuedSecretsAreInNoMemory: while an agent works with a role of a database,
// an account of a directory, the session that it signs in to, and a certified key
// at a host, all of them issued for its task, none of these credentials is in the
// memory, arguments or environment of any process inside, its browser's included;
// and when the task is over none is in the ledger, its payloads, the logs or any
// file. The same search finds what the agent may know.
//
// Threats: T44, T54, K12 (door, lease)
func TestIssuedSecretsAreInNoMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers and a browser")
	}
	tmp := temporary(t)
	pg := leasetest.StartOrders(t)
	known := "the agent may know " + rand.Text()
	pg.Exec(t, "INSERT INTO orders (customer) VALUES ('"+known+"')")
	d, host := leasetest.StartLDAP(t), sshd.Start(t)
	// The directory's administrator is left out: its password stands in this program.
	secrets := map[string]string{"password of the database's administrator": pg.Password, "key of the SSH authority": string(host.CA)}
	r := rig.New(t, rig.Options{
		Edit: func(files map[string][]byte) {
			rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [build, iam-account, orders-db]")(files)
			files["credentials.yaml"] = append(files["credentials.yaml"], leasetest.OrdersSource(pg.Dir)+leasetest.AccountSource(d.URL(d.Socket))+host.Source()...)
		},
		Directory: func(_ estate.Stage, _ estate.App, name, password string) bool {
			c, err := d.Bind("uid="+ldap.EscapeDN(name)+","+leasetest.Tasks, password)
			if err == nil {
				c.Close()
			}
			return err == nil
		}})
	for name, v := range map[string]string{"orders-admin": pg.Password, "directory-admin": leasetest.AdminPassword, "ssh-ca": string(host.CA)} {
		if err := r.Server.PutSecret(t.Context(), "", rig.As("sven"), name, []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	r.Ready(t)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "user", r.Estate.URL(estate.Sandbox, estate.IAM)+"/users"))
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the agent to have worked with all of it", func() bool { return strings.Contains(out.String(), "holding") })
	if want := "in as " + host.User + "; page 200; holding"; !strings.Contains(out.String(), want) {
		t.Errorf("the agent could not use what was issued: %s", out.String())
	}
	for label, v := range unsealed(t, r) {
		secrets[label] = v
	}
	if len(secrets) < 2+3 { // role, account, session
		t.Fatalf("only these were issued: %d", len(secrets))
	}
	s := newSearch(secrets)
	processes, size := s.memory(t)
	t.Logf("searched %d processes inside, %d MB, for %d secrets", processes, size>>20, len(secrets))
	control := newSearch(map[string]string{"what the agent may know": known})
	control.memory(t)
	if len(control.found) == 0 || processes < 3 || size < 50<<20 {
		t.Errorf("the search of %d processes, %d MB, does not find what is there: %q", processes, size>>20, control.found)
	}
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "over"); err != nil {
		t.Fatal(err)
	}
	rig.Wait(t, running)
	s.in("what the agent printed", []byte(out.String()))
	s.ledger(t, r)
	s.files(t, r.Dir)
	s.files(t, tmp)
	for _, f := range s.found {
		t.Error("found", f)
	}
}

var isSecret = regexp.MustCompile(`(?i)password|secret|token|value|cookie|private`)

// unsealed are the credentials of the leases that are open now, as the server's
// own key opens them.
func unsealed(t *testing.T, r *rig.Rig) map[string]string {
	t.Helper()
	log, err := r.Server.Log("")
	if err != nil {
		t.Fatal(err)
	}
	root, err := seal.Load(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	open, err := root.Sealer(log.Tenant())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	err = log.View(t.Context(), func(tx record.Tx) error {
		return tx.List("lease", func(id string, raw []byte) error {
			var l lease.Lease
			if err := json.Unmarshal(raw, &l); err != nil {
				return err
			}
			b, err := open.Open("lease/"+id, l.Sealed)
			if err != nil {
				return err
			}
			if l.Source == "build" {
				return nil // it names a key that never leaves the server's memory; the agent knows its public half
			}
			var doc any
			if err := json.Unmarshal(b, &doc); err != nil {
				return fmt.Errorf("the credential of %s is not JSON", l.Source)
			}
			gather(out, l.Source, "", doc)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// gather takes the strings under names of secrets.
func gather(out map[string]string, label, name string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			gather(out, label+"."+k, k, x)
		}
	case []any:
		for i, x := range v {
			gather(out, fmt.Sprintf("%s.%d", label, i), name, x)
		}
	case string:
		if isSecret.MatchString(name) && len(v) >= 8 {
			out[label] = v
		}
	}
}
