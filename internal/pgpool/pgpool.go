// Package pgpool lends connections of PostgreSQL, each to one at a time.
//
// A connection that is not idle and whole when it comes back is closed, so nobody
// gets one in somebody else's transaction. One that was idle may have died with its
// server meanwhile: it is replaced at the first question. Nothing runs in the
// background, and no connection is opened that nobody waits for.
package pgpool

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pool lends connections that open makes.
type Pool struct {
	open  func(context.Context) (*pgx.Conn, error)
	slots chan struct{} // one for each connection that is out
	idle  chan *pgx.Conn
	stop  context.Context // ends with the pool
	end   context.CancelFunc
}

// New makes a pool of at most size connections. It opens none.
func New(size int, open func(context.Context) (*pgx.Conn, error)) *Pool {
	p := &Pool{open: open, slots: make(chan struct{}, size), idle: make(chan *pgx.Conn, size)}
	p.stop, p.end = context.WithCancel(context.Background())
	return p
}

// Begin lends a connection on which f, the first question, was answered. It goes
// back by Put.
func (p *Pool) Begin(ctx context.Context, f func(*pgx.Conn) error) (*pgx.Conn, error) {
	for n := 0; ; n++ {
		c, err := p.get(ctx)
		if err != nil {
			return nil, err
		}
		if err = f(c); err == nil {
			return c, nil
		}
		broken := c.IsClosed()
		p.Put(c)
		if !broken || ctx.Err() != nil || n == cap(p.slots) {
			return nil, err
		}
	}
}

func (p *Pool) get(ctx context.Context) (*pgx.Conn, error) {
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

func (p *Pool) take(ctx context.Context) (*pgx.Conn, error) {
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

// Put takes a connection back.
func (p *Pool) Put(c *pgx.Conn) {
	if c.IsClosed() || c.PgConn().TxStatus() != 'I' || p.stop.Err() != nil {
		HangUp(c)
	} else {
		p.idle <- c
	}
	<-p.slots
}

// Done is closed when the pool ends.
func (p *Pool) Done() <-chan struct{} { return p.stop.Done() }

// Close ends the pool. Connections that are out are closed when they return.
func (p *Pool) Close() {
	p.end()
	for {
		select {
		case c := <-p.idle:
			HangUp(c)
		default:
			return
		}
	}
}

// HangUp closes a connection, and waits no longer than a second for it.
func HangUp(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.Close(ctx)
}
