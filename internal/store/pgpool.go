package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// maxConns bounds the connections of one node. The committer and the signer
// need one each; the rest read.
const maxConns = 12

// pgPool lends connections. A connection that a transaction left in any state
// but idle is closed, not lent again.
type pgPool struct {
	cfg   *pgx.ConnConfig
	slots chan struct{}   // one for each connection that is out or idle
	idle  chan *pgx.Conn  // never more than maxConns
	stop  context.Context // ends with the pool
	end   context.CancelFunc
}

func newPool(cfg *pgx.ConnConfig) *pgPool {
	p := &pgPool{cfg: cfg, slots: make(chan struct{}, maxConns), idle: make(chan *pgx.Conn, maxConns)}
	p.stop, p.end = context.WithCancel(context.Background())
	return p
}

func (p *pgPool) get(ctx context.Context) (*pgx.Conn, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := p.stop.Err(); err != nil {
		<-p.slots
		return nil, err
	}
	for {
		select {
		case c := <-p.idle:
			if c.IsClosed() {
				continue
			}
			return c, nil
		default:
		}
		c, err := pgx.ConnectConfig(ctx, p.cfg)
		if err == nil {
			err = checkPrimary(ctx, c)
			if err != nil {
				hangUp(c)
			}
		}
		if err != nil {
			<-p.slots
			return nil, err
		}
		return c, nil
	}
}

func (p *pgPool) put(c *pgx.Conn) {
	if c.IsClosed() || c.PgConn().TxStatus() != 'I' || p.stop.Err() != nil {
		hangUp(c)
	} else {
		p.idle <- c
	}
	<-p.slots
}

// close ends the pool. Connections that are out are closed when they return.
func (p *pgPool) close() {
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

// begin starts a transaction on a connection of the pool. done gives the
// connection back; it undoes a transaction that is not ended.
func (p *pgPool) begin(ctx context.Context, o pgx.TxOptions) (t pgx.Tx, done func(), err error) {
	// A connection that was idle may have died meanwhile, with its server:
	// one that fails at the first word is replaced.
	for range maxConns + 1 {
		var c *pgx.Conn
		if c, err = p.get(ctx); err != nil {
			return nil, nil, err
		}
		if t, err = c.BeginTx(ctx, o); err == nil {
			return t, func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer cancel()
				t.Rollback(ctx) // after the end it does nothing
				p.put(c)
			}, nil
		}
		hangUp(c)
		p.put(c)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, nil, err
}
