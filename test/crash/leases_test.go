package crash

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// TestKillAtEveryMessage kills the server with SIGKILL at each message that it
// sends to a database or a directory while a task is given a role, an account and
// a session of an application, and while they are ended: before the message
// arrives, and after it did. After the restart nothing of the task is upstream,
// and nothing ever was that the ledger did not know: the sweep found no orphan.
//
// SALLYPORT_LONG is every message; else some of them are tried, others each day.
//
// Threats: K1, K5, K8 (lease)
func TestKillAtEveryMessage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and kills servers")
	}
	pg := leasetest.StartOrders(t)
	d := leasetest.StartLDAP(t)
	wire := func(path, target string) *leasetest.Wire {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return leasetest.NewWire(t, l, "unix", target)
	}
	dir := t.TempDir()
	wires := map[string]*leasetest.Wire{"database": wire(filepath.Join(dir, ".s.PGSQL.5432"), pg.Socket()),
		"directory": wire(filepath.Join(dir, "ldapi"), d.Socket)}

	w := newWorldWith(t, rig.Options{
		Edit: func(files map[string][]byte) {
			rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [orders-db, iam-account]")(files)
			files["credentials.yaml"] = append(files["credentials.yaml"], leasetest.OrdersSource(dir)+leasetest.AccountSource(d.URL(filepath.Join(dir, "ldapi")))...)
		},
		Directory: func(_ estate.Stage, _ estate.App, name, password string) bool {
			c, err := d.Bind("uid="+ldap.EscapeDN(name)+","+leasetest.Tasks, password)
			if err == nil {
				c.Close()
			}
			return err == nil
		}})
	ctx := w.watch()
	w.up()
	w.ready()
	w.declare()
	for name, value := range map[string]string{"orders-admin": pg.Password, "directory-admin": leasetest.AdminPassword} {
		if err := w.c.As("sven").PutSecret(ctx, name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	var opened []string
	// round runs a task, and says whether it came to its end.
	round := func() bool {
		id, done, err := w.start(ctx, "jo", "sample-agent", "processes")
		if err != nil {
			return false
		}
		opened = append(opened, id)
		end := <-done
		return end.Exit == 0
	}
	gone := func() {
		t.Helper()
		var roles int
		if err := pg.Conn.QueryRow(ctx, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'sallyport-%'").Scan(&roles); err != nil {
			t.Fatal(err)
		}
		if got := d.Find("(|(uid=sallyport-*)(member=uid=sallyport-*))"); roles != 0 || len(got) != 0 {
			t.Errorf("upstream hold %d roles and %q", roles, got)
		}
		p, err := w.c.As("lin").Records(ctx, api.Filter{Limit: 1000}, "lease.orphan")
		if err != nil || len(p.Records) != 0 {
			t.Errorf("the ledger did not know of %s, %v", p.Records, err)
		}
	}
	for name, wire := range wires {
		wire.CutAt(0, false) // counts from here, also the connections
		if !round() {
			t.Fatalf("a task that nobody disturbs:\n%s", w.out.String())
		}
		rig.Await(t, "the end of its leases", func() bool {
			l, err := w.c.As("sven").Leases(ctx)
			for _, x := range l {
				err = errorIf(err, x.State != "revoked")
			}
			return err == nil
		})
		steps := wire.Steps()
		stride := steps
		if os.Getenv("SALLYPORT_LONG") == "1" {
			stride = 1
		}
		cut := 0
		for n := 1 + int64(time.Now().YearDay())%stride; n <= steps; n += stride {
			for _, after := range []bool{false, true} {
				killed := make(chan struct{})
				process := w.server.Process
				wire.At(n, after, func() { process.Kill(); close(killed) })
				whole := round()
				select {
				case <-killed:
					cut++
					if whole {
						t.Errorf("%s, message %d of %d, after it %t: the task ended well under a killed server", name, n, steps, after)
					}
				default:
				}
				wire.Restore()
				w.kill()
				w.up()
				w.ready()
				w.check(opened)
				gone()
				if t.Failed() {
					t.Fatalf("%s, message %d of %d, after it %t; server:\n%s", name, n, steps, after, w.out.String())
				}
			}
		}
		t.Logf("%s: %d messages, every %d. is tried: %d kills", name, steps, stride, cut)
		if cut < 1 {
			t.Errorf("%s: the server was killed %d times", name, cut)
		}
	}
	w.finish("kate", "sample-agent", "processes")
}

func errorIf(err error, no bool) error {
	if err == nil && no {
		return fmt.Errorf("not yet")
	}
	return err
}
