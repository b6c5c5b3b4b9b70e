package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/lease/postgres"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

const (
	liveLeases  = 10_000
	leaseEnders = 256 // tasks that end at once
	leaseMemory = 100 << 20
)

// leases: what a database role for a task costs, and how fast very many end.
func (b *bench) leases(ctx context.Context) (err error) {
	pg, err := pgtest.StartWith(pgtest.Options{Prepare: func(data string) error {
		return os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte("local all sallyport trust\nlocal all all scram-sha-256\n"), 0o600)
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Stop()) }()
	c, err := pgx.Connect(ctx, pg.URL("postgres"))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, `CREATE TABLE orders (id int); CREATE ROLE reader; GRANT SELECT ON orders TO reader`, pgx.QueryExecModeSimpleProtocol); err != nil {
		return err
	}
	src := postgres.New(postgres.Config{Host: pg.Dir, Port: 5432, Database: "postgres", Admin: "sallyport", Roles: []string{"reader"}})
	defer src.Close()
	if err := b.issueRole(ctx, c, src); err != nil {
		return err
	}
	return b.endMany(ctx, src)
}

// issueRole holds a role that is issued against the bare statement that it is
// made of.
func (b *bench) issueRole(ctx context.Context, c *pgx.Conn, src *postgres.Source) error {
	n := 0
	label := func() string { n++; return fmt.Sprintf("sallyport-bench000-%08d", n) }
	var p pair
	for range b.rounds {
		var made []lease.Credential
		var bare []string
		err := p.each(max(1, 50*b.scale/100), func() (time.Duration, error) {
			l := label()
			made = append(made, lease.Credential{Label: l})
			return timed(func() error {
				_, err := src.Issue(ctx, lease.Order{Label: l, Task: "t", Agent: agentName, Purpose: capabilityName, Expires: time.Now().Add(time.Hour)})
				return err
			})
		}, func() (time.Duration, error) {
			l := label()
			bare = append(bare, l)
			return timed(func() error {
				_, err := c.Exec(ctx, fmt.Sprintf(`CREATE ROLE %q LOGIN PASSWORD '%s' VALID UNTIL '2100-01-01' IN ROLE reader`, l, l), pgx.QueryExecModeSimpleProtocol)
				return err
			})
		})
		if err != nil {
			return err
		}
		for _, l := range bare {
			made = append(made, lease.Credential{Label: l})
		}
		if err := errors.Join(src.RevokeAll(ctx, made)...); err != nil {
			return err
		}
	}
	own, base := p.p50()
	b.add(row{"database role for a task, issued, p50", short(own), short(base) + " CREATE ROLE", times(p.ratio()), "under 1.25x", p.ratio() < 1.25})
	b.note("**Role issued.** `postgres.Source.Issue` on a warm connection: the session marked, the verifier computed (the declared roles are looked at once a minute), and role, membership and comment made in one " +
		"transaction. Bare: `CREATE ROLE` with password, expiry and membership, where the server computes the verifier. The two records of the lease come on top of it, " +
		"as of any decision.")
	return nil
}

// endMany kills ten thousand tasks, each with a role of its own.
func (b *bench) endMany(ctx context.Context, src *postgres.Source) (err error) {
	s, err := plainSample()
	if err != nil {
		return err
	}
	d, err := newDisk(ctx, filepath.Join(b.dir, "leases"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	guardrails, err := s.guardrails(policies, scoped)
	if err != nil {
		return err
	}
	var ids atomic.Int64
	k := lease.New(lease.Config{Log: d.log, Seal: leasetest.Plain{}, Prefix: "sallyport-bench111-", IDs: func() string { return fmt.Sprintf("l-%08d", ids.Add(1)) },
		Find: func(context.Context, lease.Lease) (lease.Source, error) { return src, nil }})
	n := max(1, liveLeases*b.scale/100)
	g := newGate()
	for i := range n {
		if err := s.admit(g, d, guardrails, callerTask(i)); err != nil {
			return err
		}
	}
	before := heap()
	secrets := make([][]byte, n)
	if err := inParallel(8, n, func(i int) (err error) {
		_, secrets[i], err = k.Issue(ctx, lease.Request{Task: callerTask(i), Agent: agentName, Source: "orders", Audience: "a", Purpose: capabilityName, Until: time.Now().Add(10 * time.Hour)})
		return err
	}); err != nil {
		return err
	}
	grown := int64(heap()) - int64(before)
	runtime.KeepAlive(secrets)
	b.add(row{fmt.Sprintf("%d live leases, heap", n), mib(grown), "", "", "under 100 MiB", grown < leaseMemory})
	denied, err := timed(func() error {
		return g.End(ctx, func(gate.Admission) bool { return true }, "killed", "the kill")
	})
	if err != nil {
		return err
	}
	b.add(row{fmt.Sprintf("%d tasks with a lease, all denied at the gate", n), short(denied), "", "", "under 100 ms", denied < 100*time.Millisecond})
	took, err := timed(func() error {
		return inParallel(leaseEnders, n, func(i int) error { return k.End(ctx, callerTask(i)) })
	})
	if err != nil {
		return err
	}
	rate := float64(n) / took.Seconds()
	b.add(row{fmt.Sprintf("their roles, confirmed gone (%d tasks at once)", leaseEnders), perSecond(rate), "", "", "at least 200/s", rate >= 200})
	b.note("**Live leases** are roles of one PostgreSQL server, leased over the real ledger, with the credential of each held as a session holds it. The kill shuts the gate for all of their tasks; "+
		"then each is ended as a task ends: recorded, signed out, its sessions looked for, dropped, read back, recorded. What waits at one server is ended in batches of up to %d.", 128)
	return nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// inParallel runs f for 0 to n-1 in so many goroutines.
func inParallel(workers, n int, f func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				errs[w] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
