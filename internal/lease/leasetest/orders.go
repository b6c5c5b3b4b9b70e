package leasetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

// Orders is a PostgreSQL server with a table of orders, a role that reads them, and
// the boundary's own, whose password is random: nothing of it is in a program.
type Orders struct {
	*pgtest.Server
	Conn     *pgx.Conn // as its superuser
	Password string    // of the role "boundary"
}

// StartOrders runs the server until the test ends.
func StartOrders(t testing.TB) *Orders {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a PostgreSQL server")
	}
	pg, err := pgtest.StartWith(pgtest.Options{Prepare: func(data string) error {
		return os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte("local all sallyport trust\nlocal all all scram-sha-256\n"), 0o600)
	}})
	if err != nil {
		t.Fatalf("this test needs a PostgreSQL server, such as Debian's postgresql-15: %v", err)
	}
	t.Cleanup(func() { pg.Stop() })
	o := &Orders{Server: pg, Password: "admin " + rand.Text()}
	if o.Conn, err = pgx.Connect(t.Context(), pg.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Conn.Close(context.Background()) })
	o.Exec(t, `CREATE TABLE orders (customer text, amount int); INSERT INTO orders VALUES ('jo', 40), ('jo', 2), ('sam', 1000); CREATE ROLE orders_reader;
		GRANT SELECT ON orders TO orders_reader; CREATE ROLE boundary LOGIN CREATEROLE PASSWORD '`+o.Password+`'`)
	return o
}

// Exec runs statements as the superuser.
func (o *Orders) Exec(t testing.TB, statements string) {
	t.Helper()
	if _, err := o.Conn.Exec(t.Context(), statements, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
}

// Socket is the path of its Unix socket.
func (o *Orders) Socket() string { return filepath.Join(o.Dir, ".s.PGSQL.5432") }

// OrdersSource is the resource orders-db of the sample tenant: roles of the server
// whose socket is in dir, made with the sealed secret orders-admin.
func OrdersSource(dir string) string {
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: orders-db, tenant: brightwell}
spec:
  type: postgresql
  postgresql:
    effect: read
    roles: [orders_reader]
    admin: {role: boundary, secret: {sealed: orders-admin}}
    stages:
      sandbox: {address: %s, database: postgres}
`, dir)
}

// AccountSource is the resource iam-account of the sample tenant: accounts of the
// directory at url, made with the sealed secret directory-admin (AdminPassword).
func AccountSource(url string) string {
	return fmt.Sprintf(`
---
apiVersion: sallyport/v1
kind: CredentialSource
metadata: {name: iam-account, tenant: brightwell}
spec:
  type: ldap
  connector: iam
  ldap:
    admin: {dn: "%s", secret: {sealed: directory-admin}}
    stages:
      sandbox: {url: "%s", base: "%s", groups: ["%s"]}
`, Boundary, url, Tasks, Operators)
}
