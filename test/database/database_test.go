// Package database runs the whole product in front of a real PostgreSQL: a
// contained agent works in it with no password, as a role that is its task's own,
// and nothing of that is left when the task is over.
package database

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

func TestMain(m *testing.M) {
	rig.Main(m, map[string]rig.Program{"work": work, "wait": wait, "stray": stray})
}

// work is an honest agent: it takes everything from its environment.
func work(ctx context.Context, _ []string) error {
	for _, v := range os.Environ() {
		if n, _, _ := strings.Cut(v, "="); strings.Contains(n, "PASS") {
			fmt.Println("password in", n)
		}
	}
	c, err := pgx.Connect(ctx, os.Getenv("SALLYPORT_DATABASE_ORDERS_DB_URL"))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	var sum int
	if err := c.QueryRow(ctx, "SELECT sum(amount) FROM orders WHERE customer = $1", "jo").Scan(&sum); err != nil {
		return err
	}
	fmt.Println("sum", sum)
	_, err = c.Exec(ctx, "UPDATE orders SET amount = 0")
	fmt.Println("write refused:", err != nil)
	// By the variables of libpq, and a statement that is cancelled on the way.
	other, err := pgx.Connect(ctx, "")
	if err != nil {
		return err
	}
	if _, err := other.Exec(ctx, "SET statement_timeout = 30000"); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { _, err := other.Exec(ctx, "SELECT pg_sleep(25)"); done <- err }()
	start := time.Now()
	for time.Since(start) < 20*time.Second {
		if err := other.PgConn().CancelRequest(ctx); err != nil {
			return err
		}
		select {
		case err := <-done:
			fmt.Println("cancelled:", err != nil && strings.Contains(err.Error(), "57014"))
			return nil
		case <-time.After(100 * time.Millisecond): // it may not have begun
		}
	}
	return errors.New("the statement was not cancelled")
}

// wait holds a session, a lock and a running statement until it is killed.
func wait(ctx context.Context, _ []string) error {
	c, err := pgx.Connect(ctx, "")
	if err != nil {
		return err
	}
	if _, err := c.Exec(ctx, "BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE"); err != nil {
		return err
	}
	fmt.Println("waiting")
	_, err = c.Exec(ctx, "SELECT pg_sleep(600)")
	fmt.Println("over:", err)
	return err
}

// stray asks for what the address does not lead to.
func stray(ctx context.Context, _ []string) error {
	for name, edit := range map[string]func(*pgx.ConnConfig){
		"role":        func(c *pgx.ConnConfig) { c.User = "boundary" },
		"database":    func(c *pgx.ConnConfig) { c.Database = "template1" },
		"replication": func(c *pgx.ConnConfig) { c.RuntimeParams["replication"] = "database" },
	} {
		cfg, err := pgx.ParseConfig("")
		if err != nil {
			return err
		}
		edit(cfg)
		c, err := pgx.ConnectConfig(ctx, cfg)
		if err == nil {
			c.Close(ctx)
		}
		fmt.Printf("%s refused: %v\n", name, err != nil)
	}
	raw, err := net.Dial("tcp", net.JoinHostPort(os.Getenv("PGHOST"), os.Getenv("PGPORT")))
	if err != nil {
		return err
	}
	defer raw.Close()
	fmt.Fprint(raw, "GET / HTTP/1.1\r\n\r\n")
	raw.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 1)
	_, err = raw.Read(b)
	fmt.Println("nonsense refused:", err != nil || b[0] == 'E')
	return nil
}

// world is a rig whose agent has a database too.
type world struct {
	*rig.Rig
	pg   *leasetest.Orders
	wire *leasetest.Wire
	c    *pgx.Conn
	edit func(files map[string][]byte) // of the sample resources
}

func start(t *testing.T) *world {
	if testing.Short() {
		t.Skip("starts a browser and a database")
	}
	pg := leasetest.StartOrders(t)
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{pg: pg, c: pg.Conn, wire: leasetest.NewWire(t, l, "unix", pg.Socket())}
	w.edit = func(files map[string][]byte) {
		rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [orders-db]")(files)
		files["credentials.yaml"] = append(files["credentials.yaml"], leasetest.OrdersSource(dir)...)
	}
	w.Rig = rig.New(t, rig.Options{Edit: w.edit})
	if err := w.Server.PutSecret(t.Context(), "", rig.As("sven"), "orders-admin", []byte(pg.Password)); err != nil {
		t.Fatal(err)
	}
	w.Ready(t)
	return w
}

// left are roles and sessions of tasks in the database.
func (w *world) left(t *testing.T) (n int) {
	t.Helper()
	if err := w.c.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'sallyport-%')
		+ (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename IS DISTINCT FROM 'boundary' AND pid <> pg_backend_pid())`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

var intent = rig.Intent(action.Sandbox, "jo", "4711")

// TestDatabase: one world, several tasks.
//
// Threats: K4, K6, K8 (lease, door)
func TestDatabase(t *testing.T) {
	w := start(t)

	t.Run("use_without_sight", func(t *testing.T) {
		x, out := w.Run(t, intent, "program", "work")
		if x.State != task.Closed {
			t.Fatalf("the task is %s: %s\n%s", x.State, x.Why, out)
		}
		if want := "sum 42\nwrite refused: true\ncancelled: true\n"; out != want {
			t.Errorf("got %q, want %q", out, want)
		}
		if n := w.left(t); n != 0 {
			t.Errorf("%d roles and sessions are left", n)
		}
		n := 0
		for _, d := range w.Decisions(t, x.ID) {
			if d.Action.Operation == "database.connect" {
				n++
				if a := d.Action; d.Decision.Verdict != action.Allow || a.App != "orders-db" || a.Effect != action.Read || a.Params["database"] != "postgres" || len(d.Decision.Policies) == 0 {
					t.Errorf("got %+v", d)
				}
			}
		}
		if n != 2 {
			t.Errorf("%d connections are on record, want 2", n)
		}
	})

	t.Run("stray", func(t *testing.T) {
		x, out := w.Run(t, intent, "program", "stray")
		if strings.Contains(out, "false") || strings.Count(out, "true") != 4 {
			t.Errorf("got %q", out)
		}
		var why []string
		for _, d := range w.Decisions(t, x.ID) {
			if d.Action.Surface == action.Database && d.Decision.Layer == action.LayerForm {
				why = append(why, d.Decision.Code)
			}
		}
		if slices.Sort(why); !slices.Equal(why, []string{"other_database", "other_role", "replication", "startup"}) {
			t.Errorf("refusals on record: %q", why)
		}
	})

	t.Run("killed_while_it_works", func(t *testing.T) {
		id, out, running := w.waiting(t)
		if _, err := w.Server.Revoke(t.Context(), "", rig.As("mara"), "task/"+id, "acts strangely"); err != nil {
			t.Fatal(err)
		}
		if n := w.left(t); n != 0 {
			t.Errorf("%d roles and sessions are left after the kill returned\n%s", n, out)
		}
		if _, x, _ := running.Wait(t.Context()); x.State != task.Revoked {
			t.Errorf("the task is %s", x.State)
		}
	})

	t.Run("owner_leaves", func(t *testing.T) {
		id, _, running := w.waiting(t)
		all, err := w.Resources(func(files map[string][]byte) {
			w.edit(files)
			rig.Replace("agent.yaml", "owner: mara\n  deputy: tom", "owner: tom\n  deputy: mara")(files)
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Server.Apply(t.Context(), rig.As("mara"), all); err != nil {
			t.Fatal(err)
		}
		if _, x, _ := running.Wait(t.Context()); x.State != task.Revoked || x.Code != "owner_changed" {
			t.Errorf("task %s is %s %s", id, x.State, x.Code)
		}
		rig.Await(t, "the end of the role", func() bool { return w.left(t) == 0 })
		w.Ready(t)
	})

	t.Run("down_at_issue", func(t *testing.T) {
		w.wire.Down()
		defer w.wire.Restore()
		x := w.OpenTask(t, intent)
		var out rig.Output
		if _, err := w.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "work")); err == nil {
			t.Fatal("the task started without its credential")
		}
		if n := w.left(t); n != 0 {
			t.Errorf("%d roles and sessions are left", n)
		}
	})

	t.Run("down_at_revoke", func(t *testing.T) {
		id, _, _ := w.waiting(t)
		w.wire.Down()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := w.Server.Revoke(ctx, "", rig.As("mara"), "task/"+id, "acts strangely"); err == nil {
			t.Error("a database that is away confirmed a revocation")
		}
		var p *server.Problem
		if _, err := w.Server.OpenTask(t.Context(), "", rig.As("dana"), intent); !errors.As(err, &p) || p.Code != "lease_unconfirmed" {
			t.Errorf("got %v, want no new task", err)
		}
		n := 0
		all, err := w.Server.Leases(t.Context(), "")
		for _, l := range all {
			if l.State == lease.Revoking && l.Why != "" {
				n++
			}
		}
		if err != nil || n != 1 {
			t.Errorf("%d leases are in sight, %v", n, err)
		}
		w.wire.Restore()
		rig.Await(t, "the confirmation", func() bool { return w.left(t) == 0 })
		rig.Await(t, "new tasks", func() bool {
			_, err := w.Server.OpenTask(t.Context(), "", rig.As("dana"), intent)
			return err == nil
		})
	})
}

// waiting runs a harness until it holds a session.
func (w *world) waiting(t *testing.T) (id string, out *rig.Output, r *server.Running) {
	t.Helper()
	x := w.OpenTask(t, intent)
	out = &rig.Output{}
	r, err := w.Server.Run(t.Context(), "", x.ID, rig.Harness(t, out, "program", "wait"))
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the session", func() bool { return strings.Contains(out.String(), "waiting") })
	return x.ID, out, r
}
