package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// aloneKey is the advisory lock that the one server of a database holds.
const aloneKey = 7821934650183

// aloneEvery is how often the connection that holds the lock is tried.
const aloneEvery = time.Second

// Alone makes sure that no other server uses the database, for as long as this
// process lives: what a server keeps in memory (running tasks, certifications in
// force) is not shared between nodes. It returns ErrInUse if there is another.
// The channel is closed when the lock may be lost; nothing may be decided then.
func (s *Postgres) Alone(ctx context.Context) (lost <-chan struct{}, err error) {
	cfg := s.cfg.Copy()
	delete(cfg.RuntimeParams, "idle_in_transaction_session_timeout")
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("lock the database: %w", err)
	}
	var got bool
	if err := c.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(aloneKey)).Scan(&got); err != nil || !got {
		c.Close(ctx)
		if err == nil {
			err = ErrInUse
		}
		return nil, fmt.Errorf("lock the database: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer c.Close(context.Background())
		for {
			select {
			case <-s.pool.Done():
				return
			case <-time.After(aloneEvery):
			}
			ctx, cancel := context.WithTimeout(context.Background(), aloneEvery)
			err := c.Ping(ctx)
			cancel()
			if err != nil {
				return
			}
		}
	}()
	return ended, nil
}
