package server

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/postgres"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/surface/database"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// labelPrefix marks what this tenant of this installation leases. It follows from
// the key of its log: it survives a restore, and no other installation has it.
func labelPrefix(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return "sallyport-" + hex.EncodeToString(sum[:4]) + "-"
}

// roleSources keeps the database sources of a tenant, since they hold connections.
type roleSources struct {
	mu  sync.Mutex
	all map[lease.Upstream]roleSource
}

type roleSource struct {
	*postgres.Source
	digest action.Digest // of the declaration that it was made from
}

// get returns the source as it is declared now; one of an older declaration goes.
func (r *roleSources) get(u lease.Upstream, d action.Digest, open func() (*postgres.Source, error)) (*postgres.Source, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.all[u]
	if old.Source != nil && old.digest == d {
		return old.Source, nil
	}
	s, err := open()
	if err != nil {
		return nil, err
	}
	if old.Source != nil {
		old.Close()
	}
	if r.all == nil {
		r.all = map[lease.Upstream]roleSource{}
	}
	r.all[u] = roleSource{s, d}
	return s, nil
}

func (r *roleSources) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.all {
		s.Close()
	}
	clear(r.all)
}

// upstreams are those that can be asked what they hold.
func (t *tenant) upstreams() []lease.Upstream {
	var out []lease.Upstream
	w := t.current()
	for name, src := range w.sources {
		if src.PostgreSQL != nil {
			for _, st := range src.PostgreSQL.Stages {
				out = append(out, lease.Upstream{Source: name, Audience: st.Audience()})
			}
		}
		for _, stage := range src.UpstreamStages() {
			if audience, err := w.audience(name, src, stage); err == nil && src.AWSSTS == nil { // which lists nothing
				out = append(out, lease.Upstream{Source: name, Audience: audience})
			}
		}
		if src.LDAP != nil {
			for stage := range src.LDAP.Stages {
				if audience, err := w.audience(name, src, stage); err == nil {
					out = append(out, lease.Upstream{Source: name, Audience: audience})
				}
			}
		}
	}
	return out
}

func (t *tenant) roleSource(w *world, name, audience string) (*postgres.Source, error) {
	spec := w.sources[name].PostgreSQL
	for stage, st := range spec.Stages {
		if st.Audience() == audience {
			digest := w.resources[resource.KindCredentialSource+"/"+name].Digest
			return t.roles.get(lease.Upstream{Source: name, Audience: audience}, digest, func() (*postgres.Source, error) { return t.newRoleSource(spec, stage) })
		}
	}
	return nil, fmt.Errorf("credential source %s has no database %s any more", name, audience)
}

func (t *tenant) newRoleSource(spec *resource.PostgreSQL, stage action.Stage) (*postgres.Source, error) {
	c, err := databaseConfig(spec.Stages[stage])
	if err != nil {
		return nil, err
	}
	c.Admin, c.Roles, c.Owner, c.Connections = spec.Admin.Role, spec.Roles, spec.Owner, spec.Connections
	if spec.Admin.Secret != nil {
		c.Password = func(ctx context.Context) ([]byte, error) { return t.stageSecret(ctx, spec.Admin.Secret, stage) }
	}
	if spec.Admin.Certificate != nil && c.TLS != nil {
		// At each connection, so that a renewed one is taken up.
		c.TLS.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			b, err := t.stageSecret(r.Context(), spec.Admin.Certificate, stage)
			if err != nil {
				return nil, err
			}
			defer clear(b)
			pair, err := tls.X509KeyPair(b, b)
			return &pair, err
		}
	}
	return postgres.New(c), nil
}

// databaseConfig is where the database of a stage is.
func databaseConfig(st resource.PostgreSQLStage) (postgres.Config, error) {
	host, port, unix, err := st.Endpoint()
	if err != nil {
		return postgres.Config{}, err
	}
	c := postgres.Config{Host: host, Port: port, Database: st.Database}
	if unix {
		return c, nil
	}
	c.Dial, c.TLS = dialLocal, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if st.CA != "" {
		c.TLS.RootCAs = x509.NewCertPool()
		if !c.TLS.RootCAs.AppendCertsFromPEM([]byte(st.CA)) {
			return c, fmt.Errorf("ca of %s is not PEM", st.Address)
		}
	}
	return c, nil
}

// roleLease is a role that a task holds, and where it is used.
type roleLease struct {
	name     string
	effect   action.Effect
	stage    resource.PostgreSQLStage
	role     string
	source   *postgres.Source
	secret   []byte
	audience string
}

// leaseRole makes the task's own role in one database.
func (s *session) leaseRole(ctx context.Context, name string, src *resource.CredentialSourceSpec) error {
	st, ok := src.PostgreSQL.Stages[s.stage()]
	if !ok {
		return fmt.Errorf("credential source %s has no database in stage %s", name, s.stage())
	}
	source, err := s.t.roleSource(s.world, name, st.Audience())
	if err != nil {
		return err
	}
	_, secret, err := s.t.leases.Issue(ctx, lease.Request{Task: s.task.ID, Agent: s.task.Agent, Chain: s.task.Chain, Source: name, Audience: st.Audience(),
		Account: "a role of its own, member of " + strings.Join(src.PostgreSQL.Roles, ", "), Purpose: s.instance.Capability, Until: s.until(),
		TTL: time.Duration(src.PostgreSQL.TTLSeconds) * time.Second, Live: func(tx record.Tx) error { return task.Live(tx, s.task.ID) }})
	if err != nil {
		return err
	}
	s.onStop(func() { clear(secret) })
	role, password, err := postgres.Account(secret)
	if err != nil {
		return err
	}
	// No application should know it; if one shows it, it is replaced as any other.
	s.jar.secret([]byte(password))
	s.databases = append(s.databases, &roleLease{name: name, effect: src.PostgreSQL.Effect, stage: st, role: role, source: source, secret: secret, audience: st.Audience()})
	return nil
}

// databaseAddr is the address of the n-th database inside the harness's network
// namespace.
func databaseAddr(n int) string { return "127.0.0.1:" + strconv.Itoa(8610+n) }

// serveDatabase opens the door to one database.
func (s *session) serveDatabase(d *roleLease, l net.Listener) error {
	p, err := database.New(database.Config{Tenant: s.t.name, Task: s.task.ID, Agent: s.task.Agent, Gate: s.t.srv.gate, Source: d.name, Effect: d.effect,
		Audience: d.audience, Database: d.stage.Database, Role: d.role,
		Connect: func(ctx context.Context, parameters map[string]string) (*pgconn.HijackedConn, error) {
			up, err := d.source.Connect(ctx, d.secret, parameters)
			if err != nil {
				s.t.srv.log.Warn("database", "source", d.name, "task", s.task.ID, "err", err)
			}
			return up, err
		}})
	if err != nil {
		return err
	}
	s.onStop(func() {
		if err := p.Close(); err != nil {
			s.t.srv.log.Error("database door did not close", "task", s.task.ID, "err", err)
		}
	})
	s.serve("database "+d.name, func() error { return p.Serve(bounded(l)) })
	return nil
}

// databaseEnvironment is where a harness finds its databases: each by name, and
// the first one as the variables of libpq have it. There is no password to give.
func (s *session) databaseEnvironment() []string {
	var out []string
	for i, d := range s.databases {
		host, port, _ := net.SplitHostPort(databaseAddr(i))
		u := url.URL{Scheme: "postgresql", User: url.User(d.role), Host: databaseAddr(i), Path: "/" + d.stage.Database, RawQuery: "sslmode=disable"}
		out = append(out, "SALLYPORT_DATABASE_"+strings.ToUpper(strings.ReplaceAll(d.name, "-", "_"))+"_URL="+u.String())
		if i == 0 {
			out = append(out, "PGHOST="+host, "PGPORT="+port, "PGUSER="+d.role, "PGDATABASE="+d.stage.Database, "PGSSLMODE=disable")
		}
	}
	return out
}

// endForeign ends the tasks of agents that an apply gave another owner: who
// answered for them does so no more.
func (t *tenant) endForeign(before, now *world) {
	for id, s := range t.sessions {
		old, next := before.agents[s.task.Agent], now.agents[s.task.Agent]
		if old != nil && next != nil && next.owner != old.owner {
			go t.endTask(id, task.Revoked, "owner_changed", "the agent's owner is "+next.owner+" now, and was "+old.owner)
		}
	}
}
