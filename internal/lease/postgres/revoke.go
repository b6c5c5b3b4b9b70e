package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/pgpool"
)

// Revoke drops the role of one credential.
func (s *Source) Revoke(ctx context.Context, c lease.Credential) error {
	return s.RevokeAll(ctx, []lease.Credential{c})[0]
}

// Confirm reads back that the role of one credential is gone.
func (s *Source) Confirm(ctx context.Context, c lease.Credential) error {
	return s.ConfirmAll(ctx, []lease.Credential{c})[0]
}

// RevokeAll ends many roles in four steps, each a transaction: whoever still makes
// one is ended; none of them may log in any more; their sessions are ended, and seen to have ended; what they
// own is given away or dropped, and so are they. A crash between the steps leaves
// a role that cannot be used, to be dropped at the next attempt.
//
// What keeps one of them from being dropped does not keep the others: when they
// cannot be dropped together, each is dropped by itself.
func (s *Source) RevokeAll(ctx context.Context, cs []lease.Credential) []error {
	errs := s.revokeAll(ctx, cs)
	for range raceTries {
		if !slices.ContainsFunc(errs, raced) {
			break
		}
		errs = s.revokeAll(ctx, cs)
	}
	return errs
}

// raceTries is how often a revocation is begun again that met another one.
const raceTries = 3

// raced reports whether another session changed or dropped the same role at the
// same moment, as one may that a dead process of ours began. PostgreSQL has no
// code of its own for it.
func raced(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "XX000" && strings.HasPrefix(e.Message, "tuple concurrently ")
}

func (s *Source) revokeAll(ctx context.Context, cs []lease.Credential) []error {
	errs := make([]error, len(cs))
	conn, there, err := s.find(ctx, cs, terminate)
	if err != nil {
		return all(errs, err)
	}
	defer s.pool.Put(conn)
	var names []string
	for i, c := range cs {
		name, err := labelled(c.Label)
		if err != nil {
			errs[i] = err
		} else if there[c.Label] != 0 {
			names = append(names, name)
		}
	}
	oids := oidsOf(cs, there)
	if len(names) == 0 && len(oids) == 0 {
		return errs
	}
	if err := s.cut(ctx, conn, names, oids, cs); err != nil {
		return all(errs, err)
	}
	if len(names) == 0 || s.drop(ctx, conn, names...) == nil {
		return errs
	}
	for i, c := range cs {
		if errs[i] != nil || there[c.Label] == 0 {
			continue
		}
		name, _ := labelled(c.Label)
		if errs[i] = s.drop(ctx, conn, name); errs[i] != nil {
			errs[i] = s.dropEverywhere(ctx, conn, name, there[c.Label])
		}
	}
	return errs
}

func all(errs []error, err error) []error {
	for i := range errs {
		errs[i] = cmp.Or(errs[i], err)
	}
	return errs
}

// terminate is how long sessions are given to end.
const terminate = 10 * time.Second

// find gives the object ids of those roles that exist, and the connection that
// was asked. Sessions that still make one of them are ended first, if patience is
// given, or an error.
func (s *Source) find(ctx context.Context, cs []lease.Credential, patience time.Duration) (*pgx.Conn, map[string]uint32, error) {
	var there map[string]uint32
	conn, err := s.pool.Begin(ctx, func(conn *pgx.Conn) error {
		const makers = `application_name = ANY($1) AND usename = session_user AND pid <> pg_backend_pid()`
		if err := gone(ctx, conn, patience, makers, labelsOf(cs)); err != nil {
			return err
		}
		r, err := conn.Query(ctx, `SELECT rolname::text, oid FROM pg_roles WHERE rolname = ANY($1)`, labelsOf(cs))
		if err != nil {
			return err
		}
		there = map[string]uint32{}
		var name string
		var oid uint32
		_, err = pgx.ForEachRow(r, []any{&name, &oid}, func() error { there[name] = oid; return nil })
		return err
	})
	return conn, there, err
}

// gone ends the sessions that where selects and waits until there are none.
func gone(ctx context.Context, conn *pgx.Conn, patience time.Duration, where string, args ...any) error {
	what := "count(pg_terminate_backend(pid))"
	if patience == 0 {
		what = "count(*)"
	}
	for deadline := time.Now().Add(patience); ; {
		var left int
		if err := conn.QueryRow(ctx, "SELECT "+what+" FROM pg_stat_activity WHERE "+where, args...).Scan(&left); err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("%d sessions do not end", left)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func labelsOf(cs []lease.Credential) []string {
	names := make([]string, len(cs))
	for i, c := range cs {
		names[i] = c.Label
	}
	return names
}

// theirs selects sessions by the ids of oidsOf. The id of a role that is gone may
// be another role's by now, whose sessions are none of ours.
const theirs = `usesysid = ANY($1) AND (usename IS NULL OR usename = ANY($2))`

// oidsOf are the ids under which sessions of the credentials may run: those of
// their roles, and those of roles that are gone and whose credential is known.
func oidsOf(cs []lease.Credential, there map[string]uint32) []uint32 {
	var out []uint32
	for _, c := range cs {
		if oid := there[c.Label]; oid != 0 {
			out = append(out, oid)
		}
		var cred credential
		if c.Secret != nil && json.Unmarshal(c.Secret, &cred) == nil && cred.OID != 0 {
			out = append(out, cred.OID)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// cut keeps roles from signing in, ends their sessions, and waits until none is
// left. The other way round a new session could start in between.
func (s *Source) cut(ctx context.Context, conn *pgx.Conn, names []string, oids []uint32, cs []lease.Credential) error {
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "ALTER ROLE %s NOLOGIN; ", n)
	}
	if b.Len() > 0 {
		if err := exec(ctx, conn, b.String()); err != nil {
			return err
		}
	}
	return gone(ctx, conn, terminate, theirs, oids, labelsOf(cs))
}

// drop ends roles in the declared database, all or none.
func (s *Source) drop(ctx context.Context, conn *pgx.Conn, names ...string) error {
	owned, err := s.disown(names)
	if err != nil {
		return err
	}
	return exec(ctx, conn, owned+"DROP ROLE "+strings.Join(names, ", "))
}

// disown takes away what roles own and were granted, in one database.
func (s *Source) disown(names []string) (string, error) {
	list := strings.Join(names, ", ")
	give := ""
	if s.c.Owner != "" {
		owner, err := quoteName(s.c.Owner)
		if err != nil {
			return "", err
		}
		give = fmt.Sprintf("REASSIGN OWNED BY %s TO %s; ", list, owner)
	}
	return give + fmt.Sprintf("DROP OWNED BY %s; ", list), nil
}

// dropEverywhere is for a role that owns or was granted something in other
// databases of the server: its holder may connect to them.
func (s *Source) dropEverywhere(ctx context.Context, conn *pgx.Conn, name string, oid uint32) error {
	r, err := conn.Query(ctx, `SELECT DISTINCT d.datname::text FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
		WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 AND d.datname <> current_database()`, oid)
	if err != nil {
		return err
	}
	others, err := pgx.CollectRows(r, pgx.RowTo[string])
	if err != nil {
		return err
	}
	owned, err := s.disown([]string{name})
	if err != nil {
		return err
	}
	for _, db := range others {
		other := &Source{c: s.c}
		other.c.Database = db
		c, err := other.admin(ctx)
		if err != nil {
			return fmt.Errorf("database %q: %w", db, err)
		}
		err = exec(ctx, c, owned)
		pgpool.HangUp(c)
		if err != nil {
			return fmt.Errorf("database %q: %w", db, err)
		}
	}
	return s.drop(ctx, conn, name)
}

// ConfirmAll reads back that the roles are gone and that no session of them runs.
func (s *Source) ConfirmAll(ctx context.Context, cs []lease.Credential) []error {
	errs := make([]error, len(cs))
	conn, there, err := s.find(ctx, cs, 0)
	if err != nil {
		return all(errs, err)
	}
	defer s.pool.Put(conn)
	r, err := conn.Query(ctx, `SELECT DISTINCT usesysid FROM pg_stat_activity WHERE `+theirs, oidsOf(cs, there), labelsOf(cs))
	if err != nil {
		return all(errs, err)
	}
	running, err := pgx.CollectRows(r, pgx.RowTo[uint32])
	if err != nil {
		return all(errs, err)
	}
	for i, c := range cs {
		switch {
		case there[c.Label] != 0:
			errs[i] = errors.New("the role is still there")
		case slices.ContainsFunc(oidsOf(cs[i:i+1], nil), func(oid uint32) bool { return slices.Contains(running, oid) }):
			errs[i] = errors.New("a session of the role still runs")
		}
	}
	return errs
}
