package identity

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// SPIRE is the Workload API of another issuer on this machine, from which a
// tenant's SVIDs come instead of from keys of its own. To SPIRE the workload is
// Sallyport, whose registration entries name one SPIFFE ID for each agent; a
// contained agent gets the one that its declaration names, at its own Workload
// API socket, and does not reach SPIRE. So an agent that was taken over cannot
// ask SPIRE for anything else, and what is given is recorded before it is given.
// The price is that the agents' keys of X.509-SVIDs are in this process.
//
// While SPIRE does not answer, what it gave is used until it expires; when it
// says that there is nothing for us, that is over at once. Nothing is revoked by
// the end of a task: an SVID that a harness sent away is good until it expires.
//
// Not trusted: that what it sends is of the tenant's trust domain, verifies
// against its bundle, and is in time.
type SPIRE struct {
	path   string
	client *workloadapi.Client

	mu    sync.Mutex
	svids map[spiffeid.ID]*x509svid.SVID
	x509  *x509bundle.Set
	jwt   *jwtbundle.Set
	err   error     // why it is not connected; nil while it is
	since time.Time // of err, or of its end
	seen  int       // how often it gave something
	news  *news     // of the issuer that uses it
	note  func(ctx context.Context, failing bool, why string)
}

var errNoSPIRE = errors.New("SPIRE has not answered yet")

// spireBackoff is how long to wait after a break: a task that is to start waits for it.
type spireBackoff struct{ d time.Duration }

func (spireBackoff) NewBackoff() workloadapi.Backoff { return &spireBackoff{} }
func (b *spireBackoff) Reset()                       { b.d = 0 }
func (b *spireBackoff) Next() time.Duration {
	b.d = min(max(2*b.d, 500*time.Millisecond), 10*time.Second)
	return b.d
}

// NewSPIRE names the Unix socket of a SPIRE agent. It is dialled by Run.
func NewSPIRE(path string) (*SPIRE, error) {
	c, err := workloadapi.New(context.Background(), workloadapi.WithAddr("unix://"+path), workloadapi.WithBackoffStrategy(spireBackoff{}))
	if err != nil {
		return nil, fmt.Errorf("spire: %w", err)
	}
	return &SPIRE{path: path, client: c, svids: map[spiffeid.ID]*x509svid.SVID{}, err: errNoSPIRE, since: time.Now()}, nil
}

// Run keeps what SPIRE gives fresh until ctx ends.
func (s *SPIRE) Run(ctx context.Context) {
	var wg sync.WaitGroup
	again := func(watch func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := watch(); err != nil && ctx.Err() == nil {
					s.failed(ctx, err)
				}
				select { // a watch ends only by what trying at once would not mend
				case <-ctx.Done():
				case <-time.After(10 * time.Second):
				}
			}
		})
	}
	again(func() error { return s.client.WatchX509Context(ctx, spireX509{s, ctx}) })
	again(func() error { return s.client.WatchJWTBundles(ctx, spireJWT{s, ctx}) })
	wg.Wait()
	s.client.Close()
}

type spireX509 struct {
	s   *SPIRE
	ctx context.Context
}

func (w spireX509) OnX509ContextUpdate(c *workloadapi.X509Context) {
	svids := map[spiffeid.ID]*x509svid.SVID{}
	for _, v := range c.SVIDs {
		if _, _, err := x509svid.Verify(v.Certificates, c.Bundles); err != nil {
			slog.Warn("an SVID of SPIRE does not verify", "id", v.ID.String(), "err", err)
			continue
		}
		svids[v.ID] = v
	}
	w.s.update(w.ctx, func() { w.s.svids, w.s.x509 = svids, c.Bundles })
}

func (w spireX509) OnX509ContextWatchError(err error) { w.s.failed(w.ctx, err) }

type spireJWT struct {
	s   *SPIRE
	ctx context.Context
}

func (w spireJWT) OnJWTBundlesUpdate(b *jwtbundle.Set) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.jwt = b
	w.s.seen++
	w.s.news.tell()
}

func (w spireJWT) OnJWTBundlesWatchError(error) {} // the other watch breaks too, and says so

func (s *SPIRE) update(ctx context.Context, f func()) {
	s.mu.Lock()
	f()
	s.seen++
	was := s.err
	if was != nil {
		s.err, s.since = nil, time.Now()
	}
	s.news.tell()
	s.mu.Unlock()
	if was != nil && !errors.Is(was, errNoSPIRE) {
		s.note(ctx, false, "")
	}
}

func (s *SPIRE) failed(ctx context.Context, err error) {
	s.mu.Lock()
	was := s.err
	if status.Code(err) == codes.PermissionDenied { // SPIRE says that there is nothing
		s.svids = map[spiffeid.ID]*x509svid.SVID{}
	}
	if s.err = err; was == nil {
		s.since = time.Now()
	}
	s.news.tell()
	s.mu.Unlock()
	if was == nil || errors.Is(was, errNoSPIRE) {
		s.note(ctx, true, err.Error())
	}
}

// svid is the SVID of an ID, if it may be used now.
func (s *SPIRE) svid(id spiffeid.ID, now time.Time) (*x509svid.SVID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.svids[id]
	switch {
	case v == nil && s.err != nil:
		return nil, fmt.Errorf("%w: spire: %w", ErrUnavailable, s.err)
	case v == nil:
		return nil, refuse("not_registered", "SPIRE gives this server no SVID of the agent's SPIFFE ID")
	case !now.Before(v.Certificates[0].NotAfter):
		return nil, refuse("expired", "the SVID that SPIRE gave has expired")
	}
	return v, nil
}

// sourceBody is the body of identity.source.
type sourceBody struct {
	V      int    `json:"v"`
	Source string `json:"source"` // spire
	Change string `json:"change"` // failing, recovered
	Why    string `json:"why,omitempty"`
}

// noteSource records that SPIRE does not answer any more, or does again.
func (i *Issuer) noteSource(ctx context.Context, failing bool, why string) {
	b := sourceBody{V: 1, Source: "spire", Change: "recovered", Why: why}
	if failing {
		b.Change = "failing"
	}
	b.Why = strings.ToValidUTF8(b.Why, "?")
	b.Why = b.Why[:min(len(b.Why), 300)]
	if ctx.Err() != nil {
		return
	}
	if _, err := i.log.Append(ctx, record.Draft{Type: "identity.source", Actor: "sallyport", Body: b}); err != nil {
		slog.ErrorContext(ctx, "the state of SPIRE could not be recorded", "tenant", i.log.Tenant(), "change", b.Change, "err", err)
	}
}

// UseSPIRE says whether the tenant declares that its SVIDs come from SPIRE.
func (i *Issuer) UseSPIRE(yes bool) {
	i.external.Store(yes)
	i.news.tell()
}

// RunSPIRE keeps what SPIRE gives fresh until ctx ends.
func (i *Issuer) RunSPIRE(ctx context.Context) {
	if i.cfg.SPIRE != nil {
		i.cfg.SPIRE.Run(ctx)
	}
}

var errOwnKeysRest = refuse("spire", "SVIDs of this trust domain are SPIRE's")

// fromSPIRE is SPIRE, if the tenant's SVIDs come from it.
func (i *Issuer) fromSPIRE() (s *SPIRE, yes bool, err error) {
	switch {
	case !i.external.Load():
		return nil, false, nil
	case i.cfg.SPIRE == nil:
		return nil, true, refuse("no_source", "the tenant's SVIDs come from SPIRE, and this server was given no socket of it")
	}
	return i.cfg.SPIRE, true, nil
}

// idOf is the SPIFFE ID of a workload: by its task, or as SPIRE knows its agent.
func (i *Issuer) idOf(w Workload) (spiffeid.ID, error) {
	if !i.external.Load() {
		return workloadID(i.td, w)
	}
	return i.declaredID(w.SPIFFEID)
}

func (i *Issuer) declaredID(s string) (spiffeid.ID, error) {
	id, err := spiffeid.FromString(s)
	if err != nil || !id.MemberOf(i.td) {
		return spiffeid.ID{}, refuse("no_subject", "the agent declares no SPIFFE ID of the trust domain")
	}
	return id, nil
}

// Held returns nil if SPIRE's SVID of an ID may be used now. With fresh, SPIRE must
// also be connected.
func (i *Issuer) Held(id string, fresh bool) error {
	s, yes, err := i.fromSPIRE()
	if !yes || err != nil {
		return err
	}
	x, err := i.declaredID(id)
	if err != nil {
		return err
	}
	if _, err := s.svid(x, i.cfg.Now()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if fresh && s.err != nil {
		return fmt.Errorf("%w: spire: %w", ErrUnavailable, s.err)
	}
	return nil
}

// passX509 records SPIRE's SVID of a workload, if it is another one than was
// passed on last, and returns it.
func (i *Issuer) passX509(ctx context.Context, s *SPIRE, w Workload, last action.Digest) (*x509svid.SVID, action.Digest, error) {
	id, err := i.idOf(w)
	if err != nil {
		return nil, "", err
	}
	if err := i.mayIssue(ctx, &w); err != nil {
		return nil, "", err
	}
	v, err := s.svid(id, i.cfg.Now())
	if err != nil {
		return nil, "", err
	}
	leaf := v.Certificates[0]
	digest := canon.Digest(leaf.Raw)
	if digest == last {
		return v, digest, nil
	}
	if err := i.tasks.admit(w.Task); err != nil {
		return nil, "", err
	}
	return v, digest, i.record(ctx, w, issuedBody{V: 1, Kind: "x509", Subject: v.ID.String(), Serial: hex.EncodeToString(leaf.SerialNumber.Bytes()), Cert: digest,
		Authority: "spire", NotBefore: leaf.NotBefore.UTC(), Expires: leaf.NotAfter.UTC(), Selectors: w.Selectors, AttestedBy: "spire"})
}

// passJWT asks SPIRE for a JWT-SVID of a workload, records it and returns it.
func (i *Issuer) passJWT(ctx context.Context, s *SPIRE, w Workload, audience []string) (string, Token, error) {
	id, err := i.idOf(w)
	if err != nil {
		return "", Token{}, err
	}
	if err := i.mayIssue(ctx, &w); err != nil {
		return "", Token{}, err
	}
	if err := i.tasks.admit(w.Task); err != nil {
		return "", Token{}, err
	}
	if _, err := s.svid(id, i.cfg.Now()); err != nil {
		return "", Token{}, err
	}
	fctx, cancel := context.WithTimeout(ctx, signerLimit)
	defer cancel()
	v, err := s.client.FetchJWTSVID(fctx, jwtsvid.Params{Audience: audience[0], ExtraAudiences: audience[1:], Subject: id})
	if err != nil {
		return "", Token{}, fmt.Errorf("%w: spire: %w", ErrUnavailable, err)
	}
	if v.ID != id {
		return "", Token{}, fmt.Errorf("%w: spire: it gave the SVID of %s", ErrUnavailable, v.ID)
	}
	compact := v.Marshal()
	b := issuedBody{V: 1, Kind: "jwt", Subject: id.String(), JTIDigest: canon.Digest([]byte(compact)), Audience: audience, Authority: "spire",
		NotBefore: i.cfg.Now().UTC().Truncate(time.Second), Expires: v.Expiry.UTC(), Selectors: w.Selectors, AttestedBy: "spire"}
	if err := i.record(ctx, w, b); err != nil {
		return "", Token{}, err
	}
	return id.String(), Token{&compact}, nil
}

// bundleOf is SPIRE's bundle of the tenant's own trust domain.
func (s *SPIRE) bundleOf(td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.merged(td)
}

// view is every bundle that SPIRE gives.
func (s *SPIRE) view(own spiffeid.TrustDomain) (v view, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.own, err = s.merged(own); err != nil {
		return v, err
	}
	v.version = fmt.Sprint("spire ", s.seen)
	for _, x := range s.x509.Bundles() {
		if td := x.TrustDomain(); td != own {
			b, err := s.merged(td)
			if err != nil {
				return v, err
			}
			v.foreign = append(v.foreign, b)
		}
	}
	return v, nil
}

// merged is what SPIRE gives of one trust domain. s.mu is held.
func (s *SPIRE) merged(td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	b := spiffebundle.New(td)
	if s.x509 != nil {
		if x, ok := s.x509.Get(td); ok {
			b.SetX509Authorities(x.X509Authorities())
		}
	}
	if s.jwt != nil {
		if j, ok := s.jwt.Get(td); ok {
			b.SetJWTAuthorities(j.JWTAuthorities())
		}
	}
	if b.Empty() {
		return nil, fmt.Errorf("%w: spire gave no bundle of %s", ErrUnavailable, td)
	}
	return b, nil
}

// SPIREState is where SPIRE stands.
type SPIREState struct {
	Socket string    `json:"socket"`
	Broken string    `json:"broken,omitempty"` // why it does not answer
	Since  time.Time `json:"since,omitzero"`
	SVIDs  []Held    `json:"svids"`
}

// Held is an SVID that SPIRE gave this server.
type Held struct {
	ID      string    `json:"id"`
	Expires time.Time `json:"expires"`
}

// SPIREState says where SPIRE stands, or nil if the SVIDs do not come from it.
func (i *Issuer) SPIREState() *SPIREState {
	s, yes, err := i.fromSPIRE()
	if !yes {
		return nil
	}
	if err != nil {
		return &SPIREState{Broken: err.Error(), SVIDs: []Held{}}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &SPIREState{Socket: s.path, Since: s.since.UTC().Truncate(time.Second), SVIDs: []Held{}}
	if s.err != nil {
		out.Broken = s.err.Error()
	}
	for id, v := range s.svids {
		out.SVIDs = append(out.SVIDs, Held{id.String(), v.Certificates[0].NotAfter.UTC()})
	}
	slices.SortFunc(out.SVIDs, func(a, b Held) int { return strings.Compare(a.ID, b.ID) })
	return out
}
