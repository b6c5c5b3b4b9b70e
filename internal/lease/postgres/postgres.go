// Package postgres leases PostgreSQL roles: one for each task, made when the task
// starts and dropped when it ends.
//
// Invariants:
//   - The server never sees the password: it is sent a SCRAM-SHA-256 verifier
//     (RFC 5803), from which nobody can sign in.
//   - A role is never wider than the roles that it is declared to be a member of,
//     and none of those may make roles, skip checks or run programs: such a role
//     could leave something behind that outlives the lease.
//   - Ended means: the role is gone and no session of it is left, both read back.
//     A session outlives its role in PostgreSQL, so that dropping is not enough.
//   - Nothing is dropped but what carries a label.
//   - A role that is being made when its revocation comes is not overlooked: the
//     session that makes it has the label as its application_name, before it is
//     told to, and is ended first.
//   - Names and texts enter SQL quoted (quoteName, quoteText) or as parameters.
//
// Not trusted: the names in the declaration, and what a task did with its role.
// What it made is dropped with it, or given to the declared owner.
package postgres

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/pgpool"
)

// Config says where the server is, who makes roles, and what they can do.
type Config struct {
	Host     string // a name, an address, or the folder of a Unix socket
	Port     uint16
	Database string
	// TLS is used for every connection, or none if it is nil. It names the server
	// and its roots, and has the client certificate of Admin, if it uses one.
	TLS *tls.Config
	// Admin makes and drops the roles: a role with CREATEROLE is enough.
	Admin string
	// Password is asked at each connection of Admin; nil is none: the peer of a
	// Unix socket, or a certificate.
	Password func(ctx context.Context) ([]byte, error)
	// Roles are what each task's role is a member of.
	Roles []string
	// Owner is given what a task's role owns at its end; empty drops it.
	Owner string
	// Connections bounds the sessions of one role; 0 is DefaultConnections.
	Connections int
	// Dial reaches the server; nil is the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// DefaultConnections is how many sessions one task's role may have at once.
const DefaultConnections = 8

// Source is a lease.Source. It holds connections: Close ends them.
type Source struct {
	c    Config
	pool *pgpool.Pool
	// checked is when the declared roles were last seen to be what they may be,
	// in Unix nanoseconds.
	checked atomic.Int64
}

// checkEvery is how long that is believed. Who can widen a role of the database can
// do more there than a lease.
const checkEvery = time.Minute

// maxConns bounds the connections of one source's Admin.
const maxConns = 4

// New makes a source. It does not touch the network.
func New(c Config) *Source {
	if c.Connections == 0 {
		c.Connections = DefaultConnections
	}
	s := &Source{c: c}
	s.pool = pgpool.New(maxConns, s.admin)
	return s
}

// Close ends the connections of the source.
func (s *Source) Close() { s.pool.Close() }

// credential is what is sealed.
type credential struct {
	Role     string `json:"role"`
	OID      uint32 `json:"oid"` // by which a session is found when its role is gone
	Password string `json:"password"`
}

// labels are the names that this package makes and drops; see lease.Config.Prefix.
var labels = regexp.MustCompile(`^sallyport-[0-9a-z-]{8,53}$`)

// forbidden are predefined roles that reach outside of the database, or past it.
var forbidden = []string{"pg_execute_server_program", "pg_write_server_files", "pg_read_server_files", "pg_signal_backend", "pg_create_subscription"}

// Issue makes a role whose name is the label. One statement makes it whole, so
// that a crash leaves all of it or nothing.
func (s *Source) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	if !labels.MatchString(o.Label) {
		return nil, fmt.Errorf("%w: the label has another form", lease.ErrNotIssued)
	}
	password := rand.Text() + rand.Text() // 256 bits
	verifier, err := verifier(password)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	create, err := s.create(o, verifier)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	c, err := s.pool.Begin(ctx, func(c *pgx.Conn) error { return s.prepare(ctx, c, o.Label) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	defer s.pool.Put(c)
	out := credential{Role: o.Label, Password: password}
	if err := rows(ctx, c, create, func(vs [][]byte) error { _, err := fmt.Sscan(string(vs[0]), &out.OID); return err }); err != nil {
		// The server's own word that it refused is certain; a broken connection is not.
		if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
			return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
		}
		return nil, err
	}
	return json.Marshal(out)
}

// create is the one implicit transaction that makes a role and names it.
func (s *Source) create(o lease.Order, verifier string) (string, error) {
	name, err := quoteName(o.Label)
	if err != nil {
		return "", err
	}
	comment, err := quoteText(fmt.Sprintf("Sallyport: task %s of agent %s, for %s", o.Task, o.Agent, o.Purpose))
	if err != nil {
		return "", err
	}
	in := ""
	for i, r := range s.c.Roles {
		q, err := quoteName(r)
		if err != nil {
			return "", err
		}
		in += []string{" IN ROLE ", ", "}[min(i, 1)] + q
	}
	text, err := quoteText(verifier)
	if err != nil {
		return "", err
	}
	// ROLE CURRENT_USER: who is not a superuser ends sessions, and drops what is
	// owned, of roles that it is a member of.
	return fmt.Sprintf("CREATE ROLE %s LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT %d PASSWORD %s VALID UNTIL '%s'%s ROLE CURRENT_USER; "+
		"COMMENT ON ROLE %s IS %s; SELECT '%s'::regrole::oid, set_config('application_name', 'sallyport', false)",
		name, s.c.Connections, text, stamp(o.Expires), in, name, comment, name), nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000+00") }

// prepare marks the session with the label, and refuses declared roles that could
// make a credential of their own.
func (s *Source) prepare(ctx context.Context, c *pgx.Conn, label string) error {
	now := time.Now()
	if now.Sub(time.Unix(0, s.checked.Load())) < checkEvery {
		return exec(ctx, c, "SELECT set_config('application_name', '"+label+"', false)") // of the labels' form
	}
	var marked string
	var far *string
	err := c.QueryRow(ctx, `SELECT set_config('application_name', $3, false), (SELECT quote_ident(g.name) || ' is a member of ' || quote_ident(a.rolname)
		FROM unnest($1::text[]) AS g(name), pg_roles a WHERE pg_has_role(g.name, a.oid, 'MEMBER')
		AND (a.rolsuper OR a.rolcreaterole OR a.rolreplication OR a.rolname = ANY($2)) LIMIT 1)`, s.c.Roles, forbidden, label).Scan(&marked, &far)
	if err == nil && far != nil {
		err = fmt.Errorf("the declared role %s, which reaches past the lease: grant tables and functions to a role of its own", *far)
	}
	if err == nil {
		s.checked.Store(now.UnixNano())
	}
	return err
}

// Renew moves the time after which the server refuses the password.
func (s *Source) Renew(ctx context.Context, cred lease.Credential, expires time.Time) error {
	name, err := labelled(cred.Label)
	if err != nil {
		return err
	}
	c, err := s.pool.Begin(ctx, func(c *pgx.Conn) error {
		return exec(ctx, c, fmt.Sprintf("ALTER ROLE %s VALID UNTIL '%s'", name, stamp(expires)))
	})
	if err == nil {
		s.pool.Put(c)
	}
	return err
}

// List says which roles carry the prefix.
func (s *Source) List(ctx context.Context, prefix string) (out []string, err error) {
	var all []string
	c, err := s.pool.Begin(ctx, func(c *pgx.Conn) error {
		r, err := c.Query(ctx, `SELECT rolname::text FROM pg_roles WHERE left(rolname, length($1)) = $1 ORDER BY 1`, prefix)
		if err == nil {
			all, err = pgx.CollectRows(r, pgx.RowTo[string])
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.pool.Put(c)
	for _, name := range all {
		if labels.MatchString(name) {
			out = append(out, name)
		}
	}
	return out, err
}

// Connect signs in with an issued credential, for who may use it: the boundary.
// Parameters are those of the session (protocol 3.0, StartupMessage).
func (s *Source) Connect(ctx context.Context, secret []byte, parameters map[string]string) (*pgconn.HijackedConn, error) {
	var cred credential
	if err := json.Unmarshal(secret, &cred); err != nil || cred.Role == "" {
		return nil, errors.New("not a role's credential")
	}
	cfg, err := s.config(cred.Role, parameters)
	if err != nil {
		return nil, err
	}
	cfg.Password = cred.Password
	if cfg.TLSConfig != nil {
		cfg.TLSConfig = cfg.TLSConfig.Clone()
		cfg.TLSConfig.Certificates, cfg.TLSConfig.GetClientCertificate = nil, nil // those are Admin's
	}
	c, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if err != nil {
		return nil, err
	}
	return c.Hijack()
}

// Password makes a credential of an account that somebody else made.
func Password(role, password string) ([]byte, error) {
	return json.Marshal(credential{Role: role, Password: password})
}

// SignsIn tries a credential. false without an error is the server's own word that
// it does not take the password, or knows no such role.
func (s *Source) SignsIn(ctx context.Context, secret []byte) (bool, error) {
	c, err := s.Connect(ctx, secret, nil)
	if err == nil {
		return true, c.Conn.Close()
	}
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && (pg.Code == "28P01" || pg.Code == "28000") {
		return false, nil
	}
	return false, cause(err)
}

// Account is the name under which an issued credential signs in, and Secret its
// password: for who must recognise it where it should not be.
func Account(secret []byte) (role, password string, err error) {
	var cred credential
	if err := json.Unmarshal(secret, &cred); err != nil || cred.Role == "" {
		return "", "", errors.New("not a role's credential")
	}
	return cred.Role, cred.Password, nil
}

// config takes nothing from the environment of the process (PGHOST, .pgpass).
func (s *Source) config(user string, parameters map[string]string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig("host=/nowhere port=1 user=nobody database=none password=none sslmode=disable")
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port, cfg.Database, cfg.User, cfg.Password = s.c.Host, s.c.Port, s.c.Database, user, ""
	cfg.TLSConfig, cfg.Fallbacks, cfg.RuntimeParams = s.c.TLS, nil, map[string]string{}
	cfg.ConnectTimeout = 10 * time.Second
	cfg.ValidateConnect, cfg.AfterConnect = nil, nil
	for n, v := range parameters {
		cfg.RuntimeParams[n] = v
	}
	if s.c.Dial != nil {
		cfg.DialFunc = s.c.Dial
	}
	return cfg, nil
}

// admin opens one connection of Admin. Nothing of it waits for ever: a lock that
// a task's session holds must not hold up the end of that session.
func (s *Source) admin(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := s.config(s.c.Admin, map[string]string{"application_name": "sallyport", "lock_timeout": "5s", "statement_timeout": "15s",
		"idle_in_transaction_session_timeout": "15s", "standard_conforming_strings": "on", "search_path": "pg_catalog"})
	if err != nil {
		return nil, err
	}
	if s.c.Password != nil {
		b, err := s.c.Password(ctx)
		if err != nil {
			return nil, fmt.Errorf("password of %s: %w", s.c.Admin, err)
		}
		cfg.Password = string(b)
		clear(b)
	}
	c, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, cause(err)
	}
	return c, nil
}

// cause is what a failed connection may say: the server's refusal or the network's
// own words, and neither the configuration nor what was sent.
func cause(err error) error {
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		return fmt.Errorf("the database refused the connection: %s (%s)", pg.Message, pg.Code)
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return fmt.Errorf("the database cannot be reached: %w", op)
	}
	if ctx := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled); ctx {
		return errors.New("the database did not answer in time")
	}
	return errors.New("the database cannot be reached: " + strings.SplitN(err.Error(), "\n", 2)[0])
}
