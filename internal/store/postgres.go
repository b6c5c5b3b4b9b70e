package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/pgpool"
)

// Bounds of one PostgreSQL transaction.
const (
	txTimeout = 10 * time.Second // then the connection is cut
	txRetries = 10               // of serialization failures and deadlocks
)

// maxConns bounds the connections of one node. The committer and the signer
// need one each; the rest read.
const maxConns = 12

// ErrNotPrimary is wrapped when a connection does not lead to a primary that
// keeps what it commits. Point the URL at the primary.
var ErrNotPrimary = errors.New("not a durable primary")

// Postgres is a ledger.Store in a PostgreSQL database that nodes share. The
// lock on a tenant's head row sequences its log among all nodes.
type Postgres struct {
	cfg      *pgx.ConnConfig
	pool     *pgpool.Pool
	firsts   firsts
	readOnly bool
}

// OpenPostgres connects to the database at url and brings its schema up to
// date.
func OpenPostgres(ctx context.Context, url string) (*Postgres, error) {
	s, err := connect(url)
	if err != nil {
		return nil, err
	}
	err = s.Update(ctx, func(w ledger.WriteTx) error {
		t := w.(*tx)
		// Nodes that start together migrate one after the other.
		if err := t.c.rows(`SELECT pg_advisory_xact_lock(7821934650182)`, 1, func([]any) error { return nil }); err != nil {
			return err
		}
		return migrate(t, "postgres")
	})
	return s.opened(err)
}

// OpenPostgresReadOnly connects to the database at url for whoever reads what a
// server left there. Update is refused.
func OpenPostgresReadOnly(ctx context.Context, url string) (*Postgres, error) {
	s, err := connect(url)
	if err != nil {
		return nil, err
	}
	s.readOnly = true
	known, err := migrations("postgres")
	if err == nil {
		err = s.View(ctx, func(r ledger.ReadTx) error { return checkNewest(r.(*tx), int64(len(known))) })
	}
	return s.opened(err)
}

func (s *Postgres) opened(err error) (*Postgres, error) {
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

func connect(url string) (*Postgres, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		// The cause may repeat the URL, which may hold a password.
		return nil, errors.New("open store: the PostgreSQL URL cannot be parsed")
	}
	// A paused node must not keep the head of a log for ever: the server ends
	// its transaction, and its commit then fails.
	p := cfg.RuntimeParams
	p["lock_timeout"] = "5s"
	p["idle_in_transaction_session_timeout"] = "10s"
	p["application_name"] = "sallyport"
	return &Postgres{cfg: cfg, pool: pgpool.New(maxConns, func(ctx context.Context) (*pgx.Conn, error) {
		c, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			return nil, err
		}
		if err := checkPrimary(ctx, c); err != nil {
			pgpool.HangUp(c)
			return nil, err
		}
		return c, nil
	})}, nil
}

// checkPrimary refuses a standby, whose epochs and approvals may be old, and a
// server that acknowledges before the disk does.
func checkPrimary(ctx context.Context, c *pgx.Conn) error {
	var standby bool
	var fsync, commit, pages string
	err := c.QueryRow(ctx, `SELECT pg_is_in_recovery(), current_setting('fsync'),
		current_setting('synchronous_commit'), current_setting('full_page_writes')`).Scan(&standby, &fsync, &commit, &pages)
	switch {
	case err != nil:
		return err
	case standby:
		return fmt.Errorf("%w: the server is a standby", ErrNotPrimary)
	case fsync != "on" || commit == "off" || pages != "on":
		return fmt.Errorf("%w: fsync is %s, synchronous_commit %s, full_page_writes %s", ErrNotPrimary, fsync, commit, pages)
	}
	return nil
}

// Close implements ledger.Store.
func (s *Postgres) Close() error {
	s.pool.Close()
	return nil
}

// begin starts a transaction. done gives its connection back; it undoes a
// transaction that is not ended.
func (s *Postgres) begin(ctx context.Context, o pgx.TxOptions) (t pgx.Tx, done func(), err error) {
	c, err := s.pool.Begin(ctx, func(c *pgx.Conn) (err error) {
		t, err = c.BeginTx(ctx, o)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return t, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		t.Rollback(ctx) // after the end it does nothing
		s.pool.Put(c)
	}, nil
}

// View implements ledger.Store.
func (s *Postgres) View(ctx context.Context, f func(ledger.ReadTx) error) error {
	t, done, err := s.begin(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer done()
	return f(&tx{c: &pgConn{ctx: ctx, tx: t}})
}

// Update implements ledger.Store.
func (s *Postgres) Update(ctx context.Context, f func(ledger.WriteTx) error) error {
	if s.readOnly {
		return errReadOnly
	}
	var err error
	for try := range txRetries {
		if try > 0 {
			select {
			case <-time.After(time.Duration(try) * 5 * time.Millisecond):
			case <-ctx.Done():
				return errors.Join(ctx.Err(), err)
			}
		}
		if err = s.update(ctx, f); !retryable(err) {
			return err
		}
	}
	return err
}

// update runs one transaction. Read committed is enough: the lock on the head
// is taken first, and every later statement sees what was committed before it.
func (s *Postgres) update(ctx context.Context, f func(ledger.WriteTx) error) error {
	ctx, cancel := context.WithTimeout(ctx, txTimeout)
	defer cancel()
	p, done, err := s.begin(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return err
	}
	defer done() // also when f panics
	t := &tx{c: &pgConn{ctx: ctx, tx: p}, forUpdate: " FOR UPDATE", firsts: &s.firsts}
	if err := f(t); err != nil {
		return err
	}
	err = p.Commit(ctx)
	if err == nil {
		s.firsts.add(t.added)
		return nil
	}
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return err
	}
	// The server said no: it is undone. Anything else, a dying server's last
	// word too, leaves open whether it was done before the answer was lost.
	var said *pgconn.PgError
	if errors.As(err, &said) && said.SeverityUnlocalized == "ERROR" {
		return err
	}
	return fmt.Errorf("%w: %w", ledger.ErrUnknown, err)
}

// Purge implements ledger.Store. It removes dead rows; PostgreSQL overwrites
// their place when it needs it, and keeps its write-ahead log as configured.
func (s *Postgres) Purge(ctx context.Context) error {
	c, err := s.pool.Begin(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "VACUUM objects")
		return err
	})
	if err == nil {
		s.pool.Put(c)
	}
	return err
}

func retryable(err error) bool {
	var e *pgconn.PgError
	if errors.Is(err, ledger.ErrUnknown) || !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock timeout
		return true
	}
	return false
}

type pgConn struct {
	ctx context.Context
	tx  pgx.Tx
}

// numbered caches queries in PostgreSQL's form of parameters.
var numbered sync.Map

func number(query string) string {
	if q, ok := numbered.Load(query); ok {
		return q.(string)
	}
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(query, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	numbered.Store(query, b.String())
	return b.String()
}

func (c *pgConn) exec(query string, args ...any) error {
	_, err := c.tx.Exec(c.ctx, number(query), args...)
	return err
}

func (c *pgConn) rows(query string, _ int, f func([]any) error, args ...any) error {
	rs, err := c.tx.Query(c.ctx, number(query), args...)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rs, func(r pgx.CollectableRow) ([]any, error) { return r.Values() })
	if err != nil {
		return err
	}
	for _, cols := range all {
		if err := f(cols); err != nil {
			return err
		}
	}
	return nil
}
