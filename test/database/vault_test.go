package database

import (
	"context"
	"encoding/pem"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/test/rig"
)

const vaultOrders = `
---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: orders-db, tenant: brightwell}
spec:
  type: vault
  vault:
    role: desk
    sweepRole: sallyport
    audience: https://vault.example
    ttlSeconds: 600
    database: {path: database/creds/desk, effect: read}
    stages:
      sandbox: {address: VAULT, caFile: vault-ca.pem, postgresql: {address: FOLDER, database: postgres}}
`

// TestAccountOfAVault: a vault makes the account, in a real database; the agent works
// with no password; at the end the database refuses it. A vault that forgets the
// account and leaves it there is not believed.
//
// Threats: K4 (lease)
func TestAccountOfAVault(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser and a database")
	}
	pg := leasetest.StartOrders(t)
	exec := func(sql string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, err := pgx.Connect(ctx, pg.URL("postgres"))
		if err != nil {
			return err
		}
		defer c.Close(ctx)
		_, err = c.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().String()
	l.Close()
	bao := leasetest.StartVault(t, &leasetest.Trust{Issuer: "http://" + listen + "/t/brightwell"})
	bao.Make = func(name, password string) error {
		return exec(`CREATE ROLE "` + name + `" LOGIN PASSWORD '` + password + `' IN ROLE orders_reader`)
	}
	bao.Drop = func(name string) error { return exec(`DROP ROLE IF EXISTS "` + name + `"`) }
	r := rig.New(t, rig.Options{Issuer: "http://" + listen, Edit: func(files map[string][]byte) {
		rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [orders-db]")(files)
		files["credentials.yaml"] = append(files["credentials.yaml"], strings.NewReplacer("VAULT", bao.URL, "FOLDER", pg.Dir).Replace(vaultOrders)...)
		files["vault-ca.pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bao.Certificate().Raw})
	}})
	faces, err := api.Serve(r.Server, api.Config{Data: r.Dir, Listen: listen, Issuer: "http://" + listen})
	if err != nil {
		t.Fatal(err)
	}
	defer faces.Close()
	r.Ready(t)
	_, out := r.Run(t, intent, "program", "work")
	for _, want := range []string{"sum 42", "write refused: true", "cancelled: true"} {
		if !strings.Contains(out, want) {
			t.Errorf("the agent was not told %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "password in") || len(bao.Labels()) > 0 {
		t.Errorf("the agent has a password, or the vault has %q:\n%s", bao.Labels(), out)
	}
	bao.Forgets = true
	var said rig.Output
	x := r.OpenTask(t, intent)
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &said, "program", "wait"))
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the agent's session", func() bool { return strings.Contains(said.String(), "waiting") })
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "the kill"); err == nil {
		t.Error("the kill of an account that lives was confirmed")
	}
	all, err := r.Server.Leases(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var states []lease.State
	why := ""
	for _, l := range all {
		states, why = append(states, l.State), why+l.Why
	}
	if len(states) != 2 || !strings.Contains(why, "the database still takes the account") {
		t.Errorf("got %v: %s", states, why)
	}
	if err := exec(`DO $$ DECLARE r text; BEGIN FOR r IN SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-jwt-%' LOOP EXECUTE format('DROP ROLE %I', r); END LOOP; END $$`); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the account's end, once somebody dropped it", func() bool {
		all, err := r.Server.Leases(t.Context(), "")
		for _, l := range all {
			err = map[bool]error{true: err, false: context.Canceled}[l.State == lease.Revoked]
			if err != nil {
				return false
			}
		}
		return err == nil
	})
	rig.Wait(t, running)
}
