package server

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/kubernetes"
	"github.com/sallyport-dev/sallyport/internal/lease/postgres"
	"github.com/sallyport-dev/sallyport/internal/lease/rest"
	"github.com/sallyport-dev/sallyport/internal/lease/sts"
	"github.com/sallyport-dev/sallyport/internal/lease/vault"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// upstreamSource makes the source of a vault, a cloud or a cluster as it is declared
// now, for the stage whose credentials go to the audience. It holds nothing.
func (t *tenant) upstreamSource(w *world, name, audience string) (lease.Source, error) {
	src := w.sources[name]
	for _, stage := range src.UpstreamStages() {
		if at, err := w.audience(name, src, stage); err != nil || at != audience {
			continue
		}
		switch {
		case src.Vault != nil:
			return t.vault(src.Vault, stage)
		case src.AWSSTS != nil:
			return t.sts(src.AWSSTS, stage)
		default:
			return t.kubernetes(src.Kubernetes, stage)
		}
	}
	return nil, fmt.Errorf("credential source %s has nothing for %s any more", name, audience)
}

// upstreamClient reaches one upstream of the boundary.
func upstreamClient(address, ca string) (*http.Client, error) {
	var pool *x509.CertPool
	if ca != "" {
		if pool = x509.NewCertPool(); !pool.AppendCertsFromPEM([]byte(ca)) {
			return nil, fmt.Errorf("ca of %s is not PEM", address)
		}
	}
	return boundaryClient(pool), nil
}

// taskToken is a JWT-SVID of an order's task. Once the task ends there is none.
func (t *tenant) taskToken(ctx context.Context, o lease.Order, audience string) (string, error) {
	j, err := t.issuer.IssueNamedJWT(ctx, identity.Workload{Tenant: t.name, Agent: o.Agent, Task: o.Task}, o.Label, audience)
	if err != nil {
		return "", err
	}
	return j.Reveal(), nil
}

// boundaryToken is one of the boundary itself.
func (t *tenant) boundaryToken(ctx context.Context, audience string) (string, error) {
	j, err := t.issuer.IssueBoundaryJWT(ctx, audience)
	if err != nil {
		return "", err
	}
	return j.Reveal(), nil
}

func (t *tenant) vault(spec *resource.Vault, stage action.Stage) (lease.Source, error) {
	st := spec.Stages[stage]
	client, err := upstreamClient(st.Address, st.CA)
	if err != nil {
		return nil, err
	}
	c := vault.Config{Client: rest.Client{Origin: st.Address, HTTP: client}, Namespace: spec.Namespace, Mount: spec.Mount, Role: spec.Role, SweepRole: spec.SweepRole,
		TTL:      time.Duration(spec.TTLSeconds) * time.Second,
		Task:     func(ctx context.Context, o lease.Order) (string, error) { return t.taskToken(ctx, o, spec.Audience) },
		Boundary: func(ctx context.Context) (string, error) { return t.boundaryToken(ctx, spec.Audience) }}
	if c.Mount == "" {
		c.Mount = "jwt"
	}
	switch {
	case spec.Database != nil:
		db, err := vaultDatabase(st)
		if err != nil {
			return nil, err
		}
		c.Kind, c.Path = vault.Database, spec.Database.Path
		c.SignsIn = func(ctx context.Context, username, password string) (bool, error) {
			secret, err := postgres.Password(username, password)
			if err != nil {
				return false, err
			}
			defer clear(secret)
			return db.SignsIn(ctx, secret)
		}
	case spec.KV != nil:
		c.Kind, c.Path, c.Field = vault.KV, spec.KV.Path, spec.KV.Field
	default:
		c.Kind, c.Path, c.CommonName = vault.PKI, spec.PKI.Path, spec.PKI.CommonName
	}
	return vault.New(c), nil
}

// vaultDatabase reaches the database of a stage, for its accounts alone.
func vaultDatabase(st resource.VaultStage) (*postgres.Source, error) {
	c, err := databaseConfig(*st.PostgreSQL)
	if err != nil {
		return nil, err
	}
	return postgres.New(c), nil
}

func (t *tenant) sts(spec *resource.AWSSTS, stage action.Stage) (lease.Source, error) {
	st := spec.Stages[stage]
	client, err := upstreamClient(st.Address, st.CA)
	if err != nil {
		return nil, err
	}
	limit, audience := time.Hour, "sts.amazonaws.com"
	if spec.MaxSeconds > 0 {
		limit = time.Duration(spec.MaxSeconds) * time.Second
	}
	if spec.Audience != "" {
		audience = spec.Audience
	}
	return sts.New(sts.Config{Endpoint: st.Address, HTTP: client, RoleARN: spec.RoleARN, Policy: spec.Policy, Max: limit,
		Token: func(ctx context.Context, o lease.Order) (string, error) { return t.taskToken(ctx, o, audience) },
		Sign: func(ctx context.Context, r *http.Request, body, session []byte, now time.Time) error {
			s, err := connector.ParseSession(string(session))
			if err != nil {
				return err
			}
			return s.Sign(ctx, r, body, "sts", spec.Region, now)
		}}), nil
}

func (t *tenant) kubernetes(spec *resource.Kubernetes, stage action.Stage) (lease.Source, error) {
	st := spec.Stages[stage]
	client, err := upstreamClient(st.Address, st.CA)
	if err != nil {
		return nil, err
	}
	return kubernetes.New(kubernetes.Config{Client: rest.Client{Origin: st.Address, HTTP: client}, Namespace: spec.Namespace, ServiceAccount: spec.ServiceAccount, Audiences: spec.Audiences,
		Token: func(ctx context.Context) (string, error) {
			if spec.Token == nil {
				return t.boundaryToken(ctx, spec.Audience)
			}
			b, err := t.stageSecret(ctx, spec.Token, stage)
			defer clear(b)
			return string(b), err
		}}), nil
}

// leaseUpstream obtains a credential of a vault, a cloud or a cluster, and lends it
// to the door that it is for.
func (s *session) leaseUpstream(ctx context.Context, name string, src *resource.CredentialSourceSpec, audience string) error {
	r := lease.Request{Task: s.task.ID, Agent: s.task.Agent, Chain: s.task.Chain, Source: name, Audience: audience, Purpose: s.instance.Capability, Until: s.until(),
		Live: func(tx record.Tx) error { return task.Live(tx, s.task.ID) }}
	switch {
	case src.Vault != nil && src.Vault.KV != nil: // whoever read it knows it for ever
		r.Account, r.Static = src.Vault.KV.Path, true
	case src.Vault != nil:
		r.Account, r.TTL = "role "+src.Vault.Role, time.Duration(src.Vault.TTLSeconds)*time.Second
	case src.AWSSTS != nil:
		r.Account = src.AWSSTS.RoleARN
	default:
		r.Account = "system:serviceaccount:" + src.Kubernetes.Namespace + ":" + src.Kubernetes.ServiceAccount
	}
	l, secret, err := s.t.leases.Issue(ctx, r)
	if err != nil {
		return err
	}
	defer clear(secret)
	if src.Vault != nil && src.Vault.Database != nil {
		return s.openAccount(name, src.Vault, secret, audience)
	}
	value, hidden, err := valueOf(src, secret)
	if err != nil {
		return err
	}
	// What is a part of the value is a secret by itself.
	for _, h := range hidden {
		s.jar.secret([]byte(h))
	}
	return s.hold(name, src, l, []byte(value))
}

// valueOf is what door 2 puts in of a credential, and what of it is secret alone.
func valueOf(src *resource.CredentialSourceSpec, secret []byte) (value string, hidden []string, err error) {
	switch {
	case src.AWSSTS != nil:
		x, err := connector.ParseSession(string(secret))
		return string(secret), []string{x.SecretKey, x.SessionToken}, err
	case src.Kubernetes != nil:
		value, err = kubernetes.Token(secret)
		return value, nil, err
	}
	c, err := vault.Parse(secret)
	if err != nil {
		return "", nil, err
	}
	if src.Vault.PKI != nil {
		return c.Certificate + "\n" + c.Key, []string{c.Key, c.Token}, nil
	}
	return c.Value, []string{c.Token}, nil
}

// openAccount opens the door to a database with an account that a vault made.
func (s *session) openAccount(name string, spec *resource.Vault, secret []byte, audience string) error {
	c, err := vault.Parse(secret)
	if err != nil {
		return err
	}
	st := spec.Stages[s.stage()]
	source, err := vaultDatabase(st)
	if err != nil {
		return err
	}
	s.onStop(source.Close)
	signIn, err := postgres.Password(c.Username, c.Password)
	if err != nil {
		return err
	}
	s.onStop(func() { clear(signIn) })
	s.jar.secret([]byte(c.Password))
	s.jar.secret([]byte(c.Token))
	s.databases = append(s.databases, &roleLease{name: name, effect: spec.Database.Effect, stage: *st.PostgreSQL, role: c.Username, source: source, secret: signIn, audience: audience})
	return nil
}

// cloudEnvironment is what SDKs of AWS sign with inside: placeholders, in the place
// of which door 2 signs anew.
func (s *session) cloudEnvironment() []string {
	for _, name := range s.instance.Credentials {
		if src := s.world.sources[name]; src != nil && src.AWSSTS != nil {
			place := connector.Placeholder(name)
			return []string{"AWS_ACCESS_KEY_ID=" + place, "AWS_SECRET_ACCESS_KEY=" + place, "AWS_SESSION_TOKEN=" + place, "AWS_REGION=" + src.AWSSTS.Region, "AWS_EC2_METADATA_DISABLED=true"}
		}
	}
	return nil
}
