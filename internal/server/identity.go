package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/signals"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// trust sets what the tenant's issuer believes of others, as declared now.
func (t *tenant) trust(ctx context.Context, w *world) error {
	t.issuer.UseSPIRE(w.spire)
	return errors.Join(t.issuer.Federate(ctx, w.federations), t.issuer.Trust(w.issuers))
}

// identities reads what a tenant declares of others, in the form of the engine,
// and checks it.
func (w *world) identities(spec *resource.TenantSpec) error {
	w.spire = spec.Identity == resource.IdentitySPIRE
	seen := map[string]bool{}
	for i, f := range spec.FederatesWith {
		x := identity.Federation{TrustDomain: f.TrustDomain, Endpoint: f.Endpoint, Profile: identity.Profile(f.Profile), EndpointID: f.EndpointID, Roots: f.CA, Bundle: f.Bundle}
		field, problem := x.Check(spec.TrustDomain)
		if seen[f.TrustDomain] {
			field, problem = "trustDomain", "is declared before"
		}
		if field != "" {
			return fmt.Errorf("tenant: spec.federatesWith[%d].%s: %s", i, field, problem)
		}
		seen[f.TrustDomain] = true
		w.federations = append(w.federations, x)
	}
	for i, o := range spec.Issuers {
		x := identity.OIDC{Issuer: o.Issuer, Keys: o.Keys, KeysURL: o.KeysURL, Roots: o.CA}
		field, problem := x.Check()
		if seen[o.Issuer] {
			field, problem = "issuer", "is declared before"
		}
		if field != "" {
			return fmt.Errorf("tenant: spec.issuers[%d].%s: %s", i, field, problem)
		}
		seen[o.Issuer] = true
		w.issuers = append(w.issuers, x)
	}
	return nil
}

// tokens is what tokens of a running task can say at most: what its capability
// was approved for, by the digests that the task was opened under.
func (t *tenant) tokens(ctx context.Context, id string) (identity.Grant, error) {
	x, err := t.tasks.Get(ctx, id)
	if err != nil {
		return identity.Grant{}, err
	}
	if x.Stage == action.Shadow {
		return identity.Grant{}, errors.New("the task is in shadow: what takes its tokens could act for it")
	}
	w := t.current()
	a, spec := w.agents[x.Agent], w.capabilities[x.Capability]
	if a == nil || spec == nil || w.resources[resource.KindCapability+"/"+x.Capability].Digest != x.CapabilityDigest {
		return identity.Grant{}, errors.New("the capability is not the one under which the task was opened")
	}
	g := identity.Grant{Agent: x.Agent, SPIFFEID: a.spec.SPIFFEID, Capability: x.Capability, CapabilityDigest: x.CapabilityDigest, GrantDigest: x.GrantDigest, Purpose: a.spec.Purpose,
		Audiences: spec.Audiences, Until: x.Started.Add(time.Duration(x.Seconds) * time.Second)}
	for _, op := range spec.Operations {
		g.Scopes = append(g.Scopes, op.Operation)
	}
	slices.Sort(g.Scopes)
	for _, e := range a.spec.Workloads {
		g.Elsewhere = append(g.Elsewhere, identity.Elsewhere{SPIFFEID: e.SPIFFEID, Issuer: e.Issuer, Claims: e.Claims, SVID: e.SVID})
	}
	return g, nil
}

// held refuses to start a task whose agent's SVID SPIRE does not give now.
func (t *tenant) held(a *agent) error {
	if err := t.issuer.Held(a.spec.SPIFFEID, true); err != nil {
		return problem(Refused, "no_identity", err.Error(), "see: sallyport identity show; the task can be started once it is there")
	}
	return nil
}

// endUnheld ends the running tasks of agents whose SVID has expired, or which SPIRE
// took back.
func (t *tenant) endUnheld(ctx context.Context) error {
	t.mu.RLock()
	all := slices.Collect(maps.Values(t.sessions))
	t.mu.RUnlock()
	var errs []error
	for _, s := range all {
		if err := t.issuer.Held(s.agent.spec.SPIFFEID, false); err != nil {
			_, err = t.tasks.Close(ctx, s.task.ID, task.Failed, "identity_lost", "SPIRE's SVID of the agent is over: "+err.Error(), "sallyport")
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// exchanges reports whether there is a door for tokens inside: only where the
// capability says whom they may be for, and never in shadow.
func (s *session) exchanges() bool {
	return len(s.instance.Audiences) > 0 && s.task.Stage != action.Shadow
}

// serveTokens serves the issuer's endpoints inside a session, and the parts of its
// task. Who asks for tokens must show an identity like anybody outside: being
// inside proves nothing. Who asks for parts is the session that the door is of.
func (s *session) serveTokens(l net.Listener) {
	i, mux := s.t.issuer, http.NewServeMux()
	if s.exchanges() {
		mux.Handle("/token", i.TaskTokenHandler(s.task.ID))
		mux.Handle("/introspect", i.IntrospectionHandler())
		mux.Handle("/revoke", i.RevocationHandler())
		mux.Handle("/keys", i.Keys())
		mux.Handle("/.well-known/openid-configuration", i.Discovery())
	}
	if s.delegates() {
		s.partRoutes(mux)
	}
	door := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	s.onStop(func() { door.Close() })
	s.serve("tokens", func() error {
		if err := door.Serve(bounded(l)); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

// Token is the tenant's token endpoint.
func (s *Server) Token(tenantName string) (http.Handler, error) {
	return s.identityHandler(tenantName, (*identity.Issuer).TokenHandler)
}

// X509SVID gives workloads elsewhere X.509-SVIDs.
func (s *Server) X509SVID(tenantName string) (http.Handler, error) {
	return s.identityHandler(tenantName, (*identity.Issuer).X509SVIDHandler)
}

// Introspection is the tenant's introspection endpoint.
func (s *Server) Introspection(tenantName string) (http.Handler, error) {
	return s.identityHandler(tenantName, (*identity.Issuer).IntrospectionHandler)
}

// Revocation is the tenant's revocation endpoint.
func (s *Server) Revocation(tenantName string) (http.Handler, error) {
	return s.identityHandler(tenantName, (*identity.Issuer).RevocationHandler)
}

func (s *Server) identityHandler(tenantName string, f func(*identity.Issuer) http.Handler) (http.Handler, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return f(t.issuer), nil
}

// BundleTLS is the TLS side of a tenant's https_spiffe bundle endpoint.
func (s *Server) BundleTLS(tenantName string) (*tls.Config, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.issuer.EndpointTLS(), nil
}

// Identity is where a tenant's own identity stands.
type Identity struct {
	TrustDomain string               `json:"trustDomain"`
	Issuer      string               `json:"issuer"`
	EndpointID  string               `json:"endpointID"` // of the https_spiffe bundle endpoint
	Keys        []identity.Key       `json:"keys"`
	Federations []identity.Federated `json:"federations"`
	SPIRE       *identity.SPIREState `json:"spire,omitempty"` // where SVIDs come from it
	// Barred are the people from whom security events took something.
	Barred []signals.Bar `json:"barred"`
}

// Identity says where a tenant's keys and federations stand.
func (s *Server) Identity(ctx context.Context, tenantName string) (Identity, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return Identity{}, err
	}
	keys, err := t.issuer.State(ctx)
	barred := []signals.Bar{}
	t.mu.RLock()
	for _, p := range slices.Sorted(maps.Keys(t.bars)) {
		barred = append(barred, t.bars[p])
	}
	t.mu.RUnlock()
	return Identity{TrustDomain: t.issuer.TrustDomain(), Issuer: s.cfg.Issuer + "/t/" + t.name, EndpointID: t.issuer.EndpointID(),
		Keys: keys, Federations: t.issuer.Federations(), SPIRE: t.issuer.SPIREState(), Barred: barred}, err
}

// RotateKeys makes new signing keys of the tenant now.
func (s *Server) RotateKeys(ctx context.Context, tenantName string, c Caller) (Identity, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return Identity{}, err
	}
	if _, err := t.require(c, "rotate signing keys", resource.RoleIdentity); err != nil {
		return Identity{}, err
	}
	if err := t.issuer.Rotate(ctx); err != nil {
		if r, ok := errors.AsType[*identity.Refusal](err); ok {
			return Identity{}, problem(Refused, r.Code, r.Reason, "wait until then")
		}
		return Identity{}, problem(Refused, "not_rotated", err.Error(), "the keys of before go on; correct what is wrong and rotate again")
	}
	return s.Identity(ctx, tenantName)
}

// RefreshBundles fetches the bundles of all federated trust domains now.
func (s *Server) RefreshBundles(ctx context.Context, tenantName string, c Caller) (Identity, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return Identity{}, err
	}
	if _, err := t.require(c, "fetch bundles", resource.RoleIdentity, resource.RoleOperations); err != nil {
		return Identity{}, err
	}
	if err := t.issuer.Refresh(ctx); err != nil {
		return Identity{}, problem(Refused, "not_fetched", err.Error(), "see: sallyport identity show; the bundles of before go on for a day")
	}
	return s.Identity(ctx, tenantName)
}
