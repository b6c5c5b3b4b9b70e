package store

import (
	"context"
	"database/sql"
	"errors"
)

// sqliteConn is a conn. With stmts it keeps its statements.
type sqliteConn struct {
	ctx context.Context
	q   interface {
		PrepareContext(context.Context, string) (*sql.Stmt, error)
		ExecContext(context.Context, string, ...any) (sql.Result, error)
		QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	}
	stmts map[string]*sql.Stmt
}

func (c *sqliteConn) stmt(query string) (*sql.Stmt, error) {
	st := c.stmts[query]
	if st == nil {
		var err error
		if st, err = c.q.PrepareContext(c.ctx, query); err != nil {
			return nil, err
		}
		c.stmts[query] = st
	}
	return st, nil
}

func (c *sqliteConn) exec(query string, args ...any) error {
	if c.stmts == nil {
		_, err := c.q.ExecContext(c.ctx, query, args...)
		return err
	}
	st, err := c.stmt(query)
	if err == nil {
		_, err = st.ExecContext(c.ctx, args...)
	}
	return err
}

func (c *sqliteConn) rows(query string, n int, f func([]any) error, args ...any) error {
	rs, err := c.query(query, args...)
	if err != nil {
		return err
	}
	defer rs.Close()
	var all [][]any
	for rs.Next() {
		cols, into := make([]any, n), make([]any, n)
		for i := range cols {
			into[i] = &cols[i]
		}
		if err := rs.Scan(into...); err != nil {
			return err
		}
		all = append(all, cols)
	}
	if err := errors.Join(rs.Err(), rs.Close()); err != nil {
		return err
	}
	for _, cols := range all {
		if err := f(cols); err != nil {
			return err
		}
	}
	return nil
}

func (c *sqliteConn) query(query string, args ...any) (*sql.Rows, error) {
	if c.stmts == nil {
		return c.q.QueryContext(c.ctx, query, args...)
	}
	st, err := c.stmt(query)
	if err != nil {
		return nil, err
	}
	return st.QueryContext(c.ctx, args...)
}

func (c *sqliteConn) close() error {
	var errs []error
	for _, st := range c.stmts {
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, c.q.(*sql.Conn).Close())...)
}
