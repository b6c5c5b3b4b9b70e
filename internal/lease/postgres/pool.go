package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// maxConns bounds the connections of one source's Admin.
const maxConns = 4

// pool lends connections, each to one at a time. One that is not idle and whole
// when it comes back is closed.
type pool struct {
	open  func(context.Context) (*pgx.Conn, error)
	slots chan struct{} // one for each connection that is out
	idle  chan *pgx.Conn
	stop  context.Context
	end   context.CancelFunc
}

func newPool(open func(context.Context) (*pgx.Conn, error)) *pool {
	p := &pool{open: open, slots: make(chan struct{}, maxConns), idle: make(chan *pgx.Conn, maxConns)}
	p.stop, p.end = context.WithCancel(context.Background())
	return p
}

func (p *pool) get(ctx context.Context) (*pgx.Conn, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c, err := p.take(ctx)
	if err != nil {
		<-p.slots
	}
	return c, err
}

func (p *pool) take(ctx context.Context) (*pgx.Conn, error) {
	for p.stop.Err() == nil {
		select {
		case c := <-p.idle:
			if !c.IsClosed() {
				return c, nil
			}
		default:
			return p.open(ctx)
		}
	}
	return nil, p.stop.Err()
}

// begin lends a connection on which f, the first question, was answered. One that
// was idle may have died with its server meanwhile: it is replaced.
func (p *pool) begin(ctx context.Context, f func(*pgx.Conn) error) (*pgx.Conn, error) {
	for n := 0; ; n++ {
		c, err := p.get(ctx)
		if err != nil {
			return nil, err
		}
		if err = f(c); err == nil {
			return c, nil
		}
		broken := c.IsClosed()
		p.put(c)
		if !broken || ctx.Err() != nil || n == maxConns {
			return nil, err
		}
	}
}

func (p *pool) put(c *pgx.Conn) {
	if c.IsClosed() || c.PgConn().TxStatus() != 'I' || p.stop.Err() != nil {
		hangUp(c)
	} else {
		p.idle <- c
	}
	<-p.slots
}

// close ends the pool. Connections that are out are closed when they return.
func (p *pool) close() {
	p.end()
	for {
		select {
		case c := <-p.idle:
			hangUp(c)
		default:
			return
		}
	}
}

func hangUp(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.Close(ctx)
}

// exec runs statements as one simple query: one round trip, and one transaction
// unless they say otherwise.
func exec(ctx context.Context, c *pgx.Conn, sql string) error {
	return rows(ctx, c, sql, func([][]byte) error { return nil })
}

// rows is exec, with the rows of every statement.
func rows(ctx context.Context, c *pgx.Conn, sql string, f func([][]byte) error) error {
	r := c.PgConn().Exec(ctx, sql)
	var bad error
	for r.NextResult() {
		for rr := r.ResultReader(); rr.NextRow(); {
			if bad == nil {
				bad = f(rr.Values())
			}
		}
	}
	if err := r.Close(); err != nil {
		return err
	}
	return bad
}
