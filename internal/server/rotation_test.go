package server_test

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// TestServiceAccount: the lines of docs/operate.md declare a service account of a
// directory. One task at a time signs in with it; each has another password, which
// is refused when its task ended; a directory that is away keeps the account held; a
// server that starts again goes on with what it sealed.
//
// Threats: K4, K15 (lease)
func TestServiceAccount(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an LDAP server")
	}
	d := leasetest.StartLDAP(t)
	socket := filepath.Join(filepath.Dir(d.Socket), "wire")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	wire := leasetest.NewWire(t, l, "unix", d.Socket)
	doc := strings.NewReplacer("crm-service", "iam-service", "connector: crm", "connector: iam", "cn=sallyport,dc=example", leasetest.Boundary, "production: {", "sandbox: {",
		"uid=svc-crm,ou=services,dc=example", leasetest.Service, "ldaps://dir.example", d.URL(socket), ", caFile: dir-ca.pem", "").Replace(blocks(t)["ldap-rotate"])
	var mu sync.Mutex
	var used []string // passwords that the application was shown
	r := rig.New(t, rig.Options{
		Edit: func(files map[string][]byte) {
			rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [iam-service]")(files)
			files["credentials.yaml"] = append(files["credentials.yaml"], "---\napiVersion: sallyport/v1\n"+doc...)
		},
		Directory: func(_ estate.Stage, _ estate.App, name, password string) bool {
			c, err := d.Bind(leasetest.Service, password)
			if err != nil || name != "svc-crm" {
				return false
			}
			c.Close()
			mu.Lock()
			defer mu.Unlock()
			used = append(used, password)
			return true
		}})
	for name, value := range map[string]string{"directory-admin": leasetest.AdminPassword, "iam-service": "first-password"} {
		if err := r.Server.PutSecret(t.Context(), "", rig.As("sven"), name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	r.Ready(t)
	start := func() (string, func(string) bool, error) {
		id := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711")).ID
		_, replaced, err := r.Server.StartLeases(t.Context(), id)
		return id, replaced, err
	}
	kill := func(id string) error {
		_, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+id, "test")
		return err
	}
	last := func() string {
		mu.Lock()
		defer mu.Unlock()
		if len(used) == 0 {
			t.Fatal("nobody signed in")
		}
		return used[len(used)-1]
	}
	refused := func(password string) {
		t.Helper()
		if c, err := d.Bind(leasetest.Service, password); err == nil {
			c.Close()
			t.Errorf("the directory still takes %q", password)
		}
	}

	first, replaced, err := start()
	if err != nil {
		t.Fatal(err)
	}
	if got := last(); got != "first-password" || !replaced("it is "+got) {
		t.Errorf("signed in with %q, or it may be shown to the agent", got)
	}
	if _, _, err := start(); err == nil || !strings.Contains(err.Error(), "one at a time") {
		t.Errorf("a second task: got %v", err)
	}
	if err := kill(first); err != nil {
		t.Fatal(err)
	}
	refused("first-password")
	r.NoSessions(t, action.Sandbox)

	second, _, err := start()
	if err != nil {
		t.Fatal(err)
	}
	password := last()
	if len(password) < 40 {
		t.Errorf("the new password is %q", password)
	}
	wire.Down()
	if err := kill(second); err == nil {
		t.Error("an end was confirmed while the directory was away")
	}
	if _, err := r.Server.OpenTask(t.Context(), "", rig.As("dana"), rig.Intent(action.Sandbox, "jo", "4711")); err == nil {
		t.Error("the account was given to another task before it had a new password")
	}
	wire.Restore()
	rig.Await(t, "the old password to be refused", func() bool {
		c, err := d.Bind(leasetest.Service, password)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	rig.Await(t, "the lease to be confirmed", func() bool {
		n, err := r.Server.UnconfirmedLeases(t.Context())
		return err == nil && n == 0
	})

	// The server is stopped while a task holds the account, and starts again.
	if _, _, err := start(); err != nil {
		t.Fatal(err)
	}
	password = last()
	if err := r.CloseServer(); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := start(); err != nil {
		t.Fatal(err)
	}
	refused(password)
	rotated := 0
	for _, e := range r.Records(t, 0) {
		if e.Type == "secret.rotated" {
			rotated++
		}
		for _, p := range used {
			if bytes.Contains(e.Body, []byte(p)) {
				t.Errorf("a password is in record %s", e.Type)
			}
		}
	}
	if rotated != 3 {
		t.Errorf("got %d rotations on record, want 3", rotated)
	}
}
