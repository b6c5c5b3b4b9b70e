package postgres_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/lease/postgres"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

// server is a real PostgreSQL that asks every role but its superuser for a
// password, with a log of every statement.
var server *pgtest.Server

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		server, err = pgtest.StartWith(pgtest.Options{Prepare: func(data string) error {
			return os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte("local all sallyport trust\nlocal all all scram-sha-256\n"), 0o600)
		}, Args: []string{"-c", "log_statement=all", "-c", "log_min_messages=log", "-c", "logging_collector=on", "-c", "log_filename=all.log"}})
		if err != nil {
			panic("this test needs a PostgreSQL server, such as Debian's postgresql-15: " + err.Error())
		}
		defer server.Stop()
		return m.Run()
	}())
}

// admin is a connection of the superuser.
func admin(t testing.TB) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

func run(t testing.TB, c *pgx.Conn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one reads one value.
func one[T any](t testing.TB, c *pgx.Conn, sql string, args ...any) (v T) {
	t.Helper()
	if err := c.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// reader is a role with one table to read, and a name that tries to break out.
const reader = `orders "reader"; DROP TABLE orders; -- \' 日本`

// prepare makes a table, the role that may read it, and an administrator who is
// no superuser. It may run many times.
func prepare(t testing.TB) {
	t.Helper()
	c := admin(t)
	if one[bool](t, c, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'boundary')`) {
		return
	}
	run(t, c, `CREATE TABLE orders (id int); INSERT INTO orders VALUES (1); CREATE TABLE salaries (id int);
		CREATE ROLE `+pgx.Identifier{reader}.Sanitize()+`; GRANT SELECT ON orders TO `+pgx.Identifier{reader}.Sanitize()+`;
		CREATE ROLE makers; GRANT CREATE ON SCHEMA public TO makers;
		CREATE ROLE boundary LOGIN CREATEROLE PASSWORD 'admin-password'; CREATE ROLE keeper; GRANT keeper TO boundary; GRANT CREATE ON SCHEMA public TO keeper`)
}

func config() postgres.Config {
	return postgres.Config{Host: server.Dir, Port: 5432, Database: "postgres", Admin: "boundary", Roles: []string{reader},
		Password: func(context.Context) ([]byte, error) { return []byte("admin-password"), nil }}
}

func source(t testing.TB, edit ...func(*postgres.Config)) *postgres.Source {
	t.Helper()
	prepare(t)
	c := config()
	for _, e := range edit {
		e(&c)
	}
	s := postgres.New(c)
	t.Cleanup(s.Close)
	return s
}

// ask runs one statement as the holder of a credential.
func ask(t testing.TB, s *postgres.Source, secret []byte, sql string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	h, err := s.Connect(ctx, secret, nil)
	if err != nil {
		return err
	}
	c, err := pgconn.Construct(h)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, sql).ReadAll()
	return err
}

func roles(t testing.TB) []string {
	t.Helper()
	r, err := admin(t).Query(t.Context(), `SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'sallyport-%' ORDER BY oid`)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(r, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestSource: the suite that every source passes, against a real server and as an
// administrator who is no superuser.
//
// Threats: K4, K7, K9 (lease)
func TestSource(t *testing.T) {
	prepare(t)
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	w := leasetest.NewWire(t, l, "unix", filepath.Join(server.Dir, ".s.PGSQL.5432"))
	s := source(t, func(c *postgres.Config) { c.Host = dir })
	direct := source(t)
	leasetest.Run(t, &leasetest.Peer{Source: s, Wire: w, Labels: func() []string { return roles(t) },
		Works: func(secret []byte) error { return ask(t, direct, secret, "SELECT id FROM orders") }})
}

func issue(t testing.TB, s *postgres.Source, id string) (lease.Credential, []byte) {
	t.Helper()
	label := "sallyport-00112233-" + id
	secret, err := s.Issue(t.Context(), lease.Order{Label: label, Task: "t-1", Agent: "helper", Purpose: "p", Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	c := lease.Credential{Label: label, Secret: secret}
	t.Cleanup(func() {
		if err := s.Revoke(context.Background(), c); err != nil {
			t.Error(err)
		}
	})
	return c, secret
}

// TestRoleIsTight: a role can do what it is declared to, and nothing else.
//
// Threats: K10 (lease)
func TestRoleIsTight(t *testing.T) {
	s := source(t)
	c, secret := issue(t, s, "l-tight")
	if err := ask(t, s, secret, "SELECT id FROM orders"); err != nil {
		t.Error(err)
	}
	for _, sql := range []string{"SELECT id FROM salaries", "INSERT INTO orders VALUES (2)", "CREATE ROLE other LOGIN", "CREATE TABLE mine (id int)",
		"ALTER ROLE CURRENT_USER VALID UNTIL 'infinity'", "SELECT rolpassword FROM pg_authid", "COPY orders TO PROGRAM 'true'",
		`GRANT "sallyport-00112233-l-tight" TO keeper`, "SET ROLE boundary"} {
		if err := ask(t, s, secret, sql); err == nil {
			t.Errorf("it may: %s", sql)
		}
	}
	// What its holder may change is its own password, which ends with it.
	if err := ask(t, s, secret, "ALTER ROLE CURRENT_USER PASSWORD 'known'"); err != nil {
		t.Fatal(err)
	}
	if err := s.Revoke(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	cfg, err := pgx.ParseConfig(strings.Replace(server.URL("postgres"), "user=sallyport", "user="+c.Label+"&password=known", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.ConnectConfig(t.Context(), cfg); err == nil {
		t.Error("a password that the holder chose outlived the lease")
	}
}

// TestOpenSessionEnds: PostgreSQL lets the sessions of a dropped role live on.
// What the holder made, locked or prepared in them does not keep the role alive.
//
// Threats: K6 (lease)
func TestOpenSessionEnds(t *testing.T) {
	s := source(t, func(c *postgres.Config) { c.Roles = []string{reader, "makers"} })
	c, secret := issue(t, s, "l-open")
	var held []*pgconn.PgConn
	for _, sql := range []string{"BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE", "CREATE TABLE left_behind (id int); CREATE TEMP TABLE t (id int)", "SELECT 1"} {
		h, err := s.Connect(t.Context(), secret, nil)
		if err != nil {
			t.Fatal(err)
		}
		pc, err := pgconn.Construct(h)
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close(context.Background())
		if _, err := pc.Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		held = append(held, pc)
	}
	if s.Confirm(t.Context(), c) == nil {
		t.Error("it was confirmed while it lived")
	}
	// As a naive revocation would leave it: no role, and sessions that go on.
	oid := one[uint32](t, admin(t), `SELECT oid FROM pg_roles WHERE rolname = $1`, c.Label)
	run(t, admin(t), `DROP OWNED BY "`+c.Label+`"; DROP ROLE "`+c.Label+`"`)
	if _, err := held[2].Exec(t.Context(), "SELECT 1").ReadAll(); err != nil {
		t.Fatalf("the case tests nothing: %v", err)
	}
	if s.Confirm(t.Context(), c) == nil {
		t.Error("it was confirmed while its sessions lived")
	}
	super := source(t, func(c *postgres.Config) { c.Admin, c.Password = "sallyport", nil })
	if err := super.Revoke(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := s.Confirm(t.Context(), c); err != nil {
		t.Error(err)
	}
	if n := one[int](t, admin(t), `SELECT count(*) FROM pg_stat_activity WHERE usesysid = $1`, oid); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	for i, pc := range held {
		if _, err := pc.Exec(t.Context(), "SELECT 1").ReadAll(); err == nil {
			t.Errorf("session %d answers after the end", i)
		}
	}
}

// TestOwnedObjects: what a role made goes to the declared owner, also when it was
// made in another database of the server, which its holder may connect to.
func TestOwnedObjects(t *testing.T) {
	s := source(t, func(c *postgres.Config) { c.Roles, c.Owner = []string{"makers"}, "keeper" })
	a := admin(t)
	run(t, a, `CREATE DATABASE elsewhere`)
	t.Cleanup(func() { a.Exec(context.Background(), `DROP DATABASE elsewhere WITH (FORCE)`) })
	other, err := pgx.Connect(t.Context(), server.URL("elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	run(t, other, `GRANT CREATE ON SCHEMA public TO makers, keeper`)
	c, secret := issue(t, s, "l-owns")
	if err := ask(t, s, secret, `CREATE TABLE made (id int)`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Exec(context.Background(), `DROP TABLE made`) })
	elsewhere := source(t, func(c *postgres.Config) { c.Database = "elsewhere" })
	if err := ask(t, elsewhere, secret, `CREATE TABLE far (id int)`); err != nil {
		t.Fatal(err)
	}
	neighbour, _ := issue(t, s, "l-neighbour")
	errs := s.RevokeAll(t.Context(), []lease.Credential{neighbour, c, {Label: "postgres"}})
	if errs[0] != nil || errs[1] != nil {
		t.Errorf("got %v", errs)
	}
	if errs[2] == nil || !one[bool](t, a, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sallyport')`) {
		t.Error("a role without a label was taken for a lease")
	}
	if errs := s.ConfirmAll(t.Context(), []lease.Credential{neighbour, c}); slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		t.Errorf("got %v", errs)
	}
	for conn, table := range map[*pgx.Conn]string{a: "made", other: "far"} {
		if got := one[string](t, conn, `SELECT tableowner::text FROM pg_tables WHERE tablename = $1`, table); got != "keeper" {
			t.Errorf("%s is owned by %s", table, got)
		}
	}
}

// TestDeclaredRoleReachesTooFar: a declared role that could make another
// credential, or leave the database, is refused before anything is made.
func TestDeclaredRoleReachesTooFar(t *testing.T) {
	prepare(t)
	a := admin(t)
	run(t, a, `DROP ROLE IF EXISTS indirect; CREATE ROLE indirect; GRANT boundary TO indirect`)
	for _, role := range []string{"sallyport", "boundary", "indirect", "pg_execute_server_program", "no such role", "a\x00b", "", strings.Repeat("x", 64)} {
		s := source(t, func(c *postgres.Config) { c.Roles = []string{role}; c.Admin, c.Password = "sallyport", nil })
		if _, err := s.Issue(t.Context(), lease.Order{Label: "sallyport-00112233-l-far", Expires: time.Now().Add(time.Hour)}); err == nil {
			t.Errorf("role %q was granted", role)
		}
	}
	if got := roles(t); len(got) != 0 {
		t.Errorf("left behind: %q", got)
	}
}

// TestQuotedNamesCannotBreakOut: hostile names and texts stay names and texts, on
// the way in and at the revocation.
//
// Threats: K5 (lease)
func TestQuotedNamesCannotBreakOut(t *testing.T) {
	s := source(t)
	evil := `x'; DROP ROLE boundary; -- \'; E'\\''; "" 日本`
	label := "sallyport-00112233-l-evil"
	secret, err := s.Issue(t.Context(), lease.Order{Label: label, Task: evil, Agent: evil, Purpose: evil, Expires: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	a := admin(t)
	if got := one[string](t, a, `SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1`, label); strings.Count(got, evil) != 3 {
		t.Errorf("got the comment %q", got)
	}
	if err := s.Revoke(t.Context(), lease.Credential{Label: label, Secret: secret}); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{`sallyport-x"; DROP ROLE boundary; --`, "sallyport-00112233-\x00", "boundary", "SALLYPORT-00112233-l-1", ""} {
		if _, err := s.Issue(t.Context(), lease.Order{Label: bad, Expires: time.Now().Add(time.Hour)}); err == nil {
			t.Errorf("label %q was accepted", bad)
		}
		if err := s.Revoke(t.Context(), lease.Credential{Label: bad}); err == nil {
			t.Errorf("label %q was revoked", bad)
		}
	}
	if !one[bool](t, a, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'boundary') AND EXISTS (SELECT FROM pg_tables WHERE tablename = 'orders')`) {
		t.Error("something was dropped")
	}
}

// TestPasswordIsInNoServerLog: the server logs every statement, and has never seen
// the password.
func TestPasswordIsInNoServerLog(t *testing.T) {
	s := source(t)
	c, secret := issue(t, s, "l-log")
	if err := ask(t, s, secret, "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	_, password, err := postgres.Account(secret)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(server.Dir, "data", "log", "all.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), c.Label) {
		t.Fatal("the case tests nothing: the log does not name the role")
	}
	if strings.Contains(string(log), password) {
		t.Error("the password is in the server's log")
	}
}

// TestExpiry: the server itself refuses a role whose time is over, and renewing
// moves that time.
//
// Threats: K2 (lease)
func TestExpiry(t *testing.T) {
	s := source(t)
	label := "sallyport-00112233-l-expires"
	secret, err := s.Issue(t.Context(), lease.Order{Label: label, Expires: time.Now().Add(-time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	c := lease.Credential{Label: label, Secret: secret}
	t.Cleanup(func() { s.Revoke(context.Background(), c) })
	if err := ask(t, s, secret, "SELECT 1"); err == nil {
		t.Error("it works after its time")
	}
	if err := s.Renew(t.Context(), c, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := ask(t, s, secret, "SELECT 1"); err != nil {
		t.Error(err)
	}
}

// TestSignsIn: whether an account of somebody else's making is taken, by the server's
// own word: what only cannot be reached was not refused.
func TestSignsIn(t *testing.T) {
	s := source(t)
	for _, tt := range []struct {
		role, password string
		want           bool
	}{{"boundary", "admin-password", true}, {"boundary", "another", false}, {"nobody-there", "another", false}} {
		secret, err := postgres.Password(tt.role, tt.password)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.SignsIn(t.Context(), secret); err != nil || got != tt.want {
			t.Errorf("%s %s: got %v %v", tt.role, tt.password, got, err)
		}
		away := postgres.New(postgres.Config{Host: t.TempDir(), Port: 5432, Database: "postgres"})
		defer away.Close()
		if got, err := away.SignsIn(t.Context(), secret); err == nil || got {
			t.Errorf("a server that is not there: got %v", got)
		}
	}
}
