package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

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
