package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/oauth"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// authServers keeps the authorization servers of a tenant for their metadata, by what
// is declared of them.
type authServers struct {
	mu  sync.Mutex
	all map[resource.OAuthStage]*oauth.Server
}

func (a *authServers) get(st resource.OAuthStage) (*oauth.Server, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.all[st]; s != nil {
		return s, nil
	}
	s, err := newAuthServer(st)
	if err != nil {
		return nil, err
	}
	if a.all == nil {
		a.all = map[resource.OAuthStage]*oauth.Server{}
	}
	a.all[st] = s
	return s, nil
}

func newAuthServer(st resource.OAuthStage) (*oauth.Server, error) {
	var pool *x509.CertPool
	if st.CA != "" {
		pool = x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(st.CA)) {
			return nil, fmt.Errorf("ca of %s is not PEM", st.Issuer)
		}
	}
	return oauth.NewServer(st.Issuer, boundaryClient(pool))
}

// checkLimit bounds the questions to one authorization server before it is declared.
const checkLimit = 10 * time.Second

// checkServers refuses sources that are new or changed and whose tokens could not be
// ended with their tasks. Their servers are asked now: later it would be a task that
// finds out.
func checkServers(ctx context.Context, all []resource.Resource, have map[string]stored) error {
	for _, r := range all {
		src, ok := r.Spec.(*resource.CredentialSourceSpec)
		if !ok || src.OAuth == nil || have[r.Kind+"/"+r.Metadata.Name].Digest == r.Digest {
			continue
		}
		for stage, st := range src.OAuth.Stages {
			s, err := newAuthServer(st)
			if err == nil {
				cctx, cancel := context.WithTimeout(ctx, checkLimit)
				err = s.Check(cctx, time.Duration(src.OAuth.Life())*time.Second, src.OAuth.Probe != nil)
				cancel()
			}
			if err != nil {
				return problem(Invalid, "authorization_server", fmt.Sprintf("%s:%d: CredentialSource %s: spec.oauth.stages.%s.issuer: %v", r.File, r.Line, r.Metadata.Name, stage, err),
					"correct it and apply again; nothing was applied")
			}
		}
	}
	return nil
}

// tokenSource makes the source of an authorization server for one lease.
func (t *tenant) tokenSource(ctx context.Context, w *world, src *resource.CredentialSourceSpec, l lease.Lease) (*oauth.Source, error) {
	spec, stage := src.OAuth, action.Stage("")
	for at := range spec.Stages {
		if audience, err := w.audience(l.Source, src, at); err == nil && audience == l.Audience {
			stage = at
		}
	}
	st, ok := spec.Stages[stage]
	if !ok {
		return nil, fmt.Errorf("credential source %s has no authorization server for %s any more", l.Source, l.Audience)
	}
	server, err := t.auths.get(st)
	if err != nil {
		return nil, err
	}
	c := oauth.Config{Server: server, Grant: oauth.Grant(spec.Grant), ClientID: spec.ClientID, Scope: spec.Scope, Resource: spec.Resource,
		Life: time.Duration(spec.Life()) * time.Second,
		Subject: func(ctx context.Context, task, agent string) (string, error) {
			svid, err := t.issuer.IssueJWT(ctx, identity.Workload{Tenant: t.name, Agent: agent, Task: task}, st.Issuer)
			return svid.Reveal(), err
		}}
	if spec.Auth == resource.AuthClientSecretBasic {
		c.Secret = func(ctx context.Context) ([]byte, error) { return t.stageSecret(ctx, spec.Secret, stage) }
	} else {
		client := identity.Client{Agent: l.Agent, ID: spec.ClientID, Task: l.Task, Lease: l.ID}
		if c.ClientID, err = t.issuer.ClientID(client); err != nil {
			return nil, err
		}
		c.Assertion = func(ctx context.Context, _, endpoint string) (string, error) {
			if spec.AssertionAudience != resource.AudienceEndpoint {
				endpoint = st.Issuer
			}
			a, err := t.issuer.AssertClient(ctx, client, endpoint)
			return a.Reveal(), err
		}
	}
	if p := spec.Probe; p != nil {
		pools, err := roots(w.connectors, stage)
		if err != nil {
			return nil, err
		}
		c.Probe = probe(t.applicationClient(ctx, l, pools(l.Audience)), l.Audience+p.Path, p.Status)
	}
	return oauth.New(c), nil
}

// probe asks an application with a token, which it must refuse.
func probe(c *http.Client, url string, want int) func(context.Context, string) error {
	return func(ctx context.Context, token string) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := c.Do(r)
		if err != nil {
			return fmt.Errorf("probe: %w", err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			return fmt.Errorf("the application answers the dead token with %d, want %d", resp.StatusCode, want)
		}
		return nil
	}
}

// leaseToken takes out a token and goes on doing so for as long as the session lasts:
// the next one is in use before the one before is ended.
func (s *session) leaseToken(ctx context.Context, name string, src *resource.CredentialSourceSpec, origin string) error {
	l, expires, err := s.token(ctx, name, src, origin)
	if err != nil {
		return err
	}
	rctx, stop := context.WithCancel(context.Background())
	s.onStop(stop)
	go func() {
		// False when the session or its task is over.
		wait := func(d time.Duration) bool {
			select {
			case <-rctx.Done():
				return false
			case <-s.t.srv.gate.Done(s.t.name, s.task.ID):
				return false
			case <-time.After(d):
				return true
			}
		}
		failed := 0 // times, since the last one that did not
		for wait(renewIn(time.Until(expires), failed)) {
			next, end, err := s.token(rctx, name, src, origin)
			if err != nil {
				failed++
				s.t.srv.log.Warn("a token was not renewed", "source", name, "task", s.task.ID, "err", err)
				continue
			}
			failed = 0
			// A request that was sent with the old one may still be on its way.
			if !wait(min(max(time.Until(expires)/2, 0), 5*time.Second)) {
				return // and the task's end ends both
			}
			// Its end is on record and tried again, whatever comes of this try.
			if err := s.t.leases.EndOne(rctx, l.ID); err != nil {
				s.t.srv.log.Warn("a token was renewed, and the old one is not ended yet", "source", name, "task", s.task.ID, "err", err)
			}
			l, expires = next, end
		}
	}()
	return nil
}

// The back-off of renewals: each that fails may leave a token at its server.
const (
	firstRenewal = time.Second
	lastRenewal  = time.Minute
)

// renewIn is when a token with so much life left is replaced: at two thirds of that,
// and later with each time in a row that it was not.
func renewIn(left time.Duration, failed int) time.Duration {
	if failed == 0 {
		return max(left*2/3, firstRenewal)
	}
	return min(firstRenewal<<min(failed-1, 10), lastRenewal)
}

// endLimit bounds the end of a token that is lent to nobody; it is tried again.
const endLimit = 30 * time.Second

// token takes out one token and lends it to door 2 in the place of the one before. One
// that is not lent is ended at once: no later step knows of it before the task's end.
func (s *session) token(ctx context.Context, name string, src *resource.CredentialSourceSpec, origin string) (l lease.Lease, expires time.Time, err error) {
	l, credential, err := s.t.leases.Issue(ctx, lease.Request{Task: s.task.ID, Agent: s.task.Agent, Chain: s.task.Chain, Source: name, Audience: origin, Account: clientOf(src, s.task.Agent),
		Purpose: s.instance.Capability, Until: s.until(), Live: func(tx record.Tx) error { return task.Live(tx, s.task.ID) }})
	if err != nil {
		return l, expires, err
	}
	defer clear(credential)
	token, expires, err := oauth.Token(credential)
	if err == nil {
		err = s.hold(name, src, l, []byte(token))
	}
	if err != nil {
		ectx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
		defer cancel()
		err = errors.Join(err, s.t.leases.EndOne(ectx, l.ID))
	}
	return l, expires, err
}

// clientOf is who a lease of a token acts as, for its record.
func clientOf(src *resource.CredentialSourceSpec, agent string) string {
	if src.OAuth.ClientID != "" {
		return "client " + strconv.Quote(src.OAuth.ClientID)
	}
	return "agent " + agent
}
