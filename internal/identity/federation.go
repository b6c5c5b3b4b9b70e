package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Profile says how a bundle endpoint proves itself (SPIFFE Federation section
// 5.2).
type Profile string

// The profiles.
const (
	ProfileWeb    Profile = "https_web"
	ProfileSPIFFE Profile = "https_spiffe"
)

// Federation is a trust domain whose SVIDs are verified here, and where its
// bundle is.
type Federation struct {
	TrustDomain string  `json:"trustDomain"`
	Endpoint    string  `json:"endpoint"` // https://...
	Profile     Profile `json:"profile"`
	// EndpointID is the SPIFFE ID of an https_spiffe endpoint.
	EndpointID string `json:"endpointID,omitempty"`
	// Roots are PEM certificates for an https_web endpoint; empty means the machine's.
	Roots string `json:"roots,omitempty"`
	// Bundle is the first bundle, brought by hand. An https_spiffe endpoint of the
	// trust domain itself cannot be verified without one.
	Bundle string `json:"bundle,omitempty"`
}

// Limits of what others serve, and how long it may be used.
const (
	maxBundle      = 1 << 20 // bytes
	maxAuthorities = 32      // of each kind
	// maxStale is how long a bundle is used that could not be confirmed. After it
	// the trust domain is unknown: a key that was taken back must end here too.
	maxStale   = 24 * time.Hour
	leastFetch = 30 * time.Second
	mostFetch  = time.Hour
	retryFirst = 5 * time.Second
	retryLast  = 5 * time.Minute
)

const kindFederated = "identity-federated"

// federatedV is a bundle of another trust domain as it is kept: kind
// "identity-federated", id the trust domain.
type federatedV struct {
	V        int           `json:"v"`
	Declared action.Digest `json:"declared"` // of the Federation under which it was fetched
	Document []byte        `json:"document"`
	Fetched  time.Time     `json:"fetched"`
}

// federatedBody is the body of identity.federated.
type federatedBody struct {
	V           int           `json:"v"`
	TrustDomain string        `json:"trustDomain"`
	Change      string        `json:"change"` // bundle, failing, recovered
	Endpoint    string        `json:"endpoint"`
	Profile     Profile       `json:"profile"`
	Bundle      action.Digest `json:"bundle,omitempty"` // of the document in use
	Sequence    uint64        `json:"sequence,omitempty"`
	X509        int           `json:"x509"` // authorities of each kind
	JWT         int           `json:"jwt"`
	Why         string        `json:"why,omitempty"`
}

// federated are the trust domains that the tenant federates with.
type federated struct {
	mu   sync.Mutex
	by   map[string]*foreign
	wake news // of a new declaration
}

// foreign is one of them. The fields after bundle are guarded by federated.mu.
type foreign struct {
	Federation
	td       spiffeid.TrustDomain
	id       spiffeid.ID // of the endpoint, or zero
	roots    *x509.CertPool
	declared action.Digest

	bundle    *spiffebundle.Bundle // nil: none yet
	digest    action.Digest        // of its document
	confirmed time.Time
	failures  int
	next      time.Time
	busy      bool
}

// Check says what is wrong with a declaration, beside its field. own is the
// declaring tenant's trust domain.
func (f Federation) Check(own string) (field, problem string) {
	if name, err := TrustDomain(f.TrustDomain); err != nil || name != f.TrustDomain {
		return "trustDomain", "want lower-case letters, digits, dots and hyphens"
	}
	if f.TrustDomain == own {
		return "trustDomain", "is the tenant's own"
	}
	u, err := url.Parse(f.Endpoint)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || u.String() != f.Endpoint {
		return "endpoint", "want https://host[:port]/path, without user and fragment (SPIFFE Federation 5.1)"
	}
	switch f.Profile {
	case ProfileWeb:
		if f.EndpointID != "" {
			return "endpointID", "is for https_spiffe"
		}
	case ProfileSPIFFE:
		if id, err := spiffeid.FromString(f.EndpointID); err != nil || id.TrustDomain().Name() == own {
			return "endpointID", "want the SPIFFE ID of the endpoint, of another trust domain than the tenant's"
		} else if id.TrustDomain().Name() == f.TrustDomain && f.Bundle == "" {
			return "bundle", "want the first bundle: an endpoint of the trust domain itself cannot be verified without one"
		}
		if f.Roots != "" {
			return "ca", "is for https_web"
		}
	default:
		return "profile", "want https_web or https_spiffe"
	}
	if f.Roots != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(f.Roots)) {
		return "ca", "want PEM certificates"
	}
	if f.Bundle != "" {
		td, _ := spiffeid.TrustDomainFromString(f.TrustDomain)
		if _, err := parseBundle(td, []byte(f.Bundle)); err != nil {
			return "bundle", err.Error()
		}
	}
	return "", ""
}

// Federate sets the trust domains that the tenant federates with. One that is
// left out is unknown from then on; one that is declared as before keeps its
// bundle. RunFederation fetches.
func (i *Issuer) Federate(ctx context.Context, all []Federation) error {
	i.others.mu.Lock()
	defer i.others.mu.Unlock()
	before := i.others.by
	// What was taken back is gone whatever becomes of the rest.
	i.others.by = map[string]*foreign{}
	defer i.others.wake.tell()
	defer i.news.tell()
	var errs []error
	for _, f := range all {
		if field, problem := f.Check(i.td.Name()); field != "" {
			errs = append(errs, fmt.Errorf("federation with %q: %s: %s", f.TrustDomain, field, problem))
			continue
		}
		d, err := canon.DigestOf(f)
		x := before[f.TrustDomain]
		if err == nil && (x == nil || x.declared != d) {
			x, err = i.foreign(ctx, f, d)
		}
		if err == nil {
			i.others.by[f.TrustDomain] = x
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// foreign opens what is kept of a declaration, or starts with the bundle in it.
func (i *Issuer) foreign(ctx context.Context, f Federation, d action.Digest) (*foreign, error) {
	x := &foreign{Federation: f, declared: d}
	x.td, _ = spiffeid.TrustDomainFromString(f.TrustDomain)
	if f.EndpointID != "" {
		x.id, _ = spiffeid.FromString(f.EndpointID)
	}
	if f.Roots != "" {
		x.roots = x509.NewCertPool()
		x.roots.AppendCertsFromPEM([]byte(f.Roots))
	}
	var v federatedV
	err := i.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindFederated, f.TrustDomain, &v) })
	switch {
	case err == nil && v.Declared == d:
		x.confirmed = v.Fetched
	case err == nil || errors.Is(err, record.ErrNotFound):
		if f.Bundle == "" {
			return x, nil
		}
		v.Document, x.confirmed = []byte(f.Bundle), i.cfg.Now()
	default:
		return nil, fmt.Errorf("%w: read federated bundle: %w", ErrUnavailable, err)
	}
	if x.bundle, err = parseBundle(x.td, v.Document); err != nil {
		return nil, fmt.Errorf("bundle of %s: %w", f.TrustDomain, err)
	}
	x.digest = canon.Digest(v.Document)
	return x, nil
}

// parseBundle reads a bundle of another trust domain (SPIFFE Trust Domain and
// Bundle section 4): strict JSON, public keys alone, of kinds that are verified here.
func parseBundle(td spiffeid.TrustDomain, doc []byte) (*spiffebundle.Bundle, error) {
	var strict map[string]canon.Value
	if err := canon.Unmarshal(doc, maxBundle, &strict); err != nil {
		return nil, errors.New("the bundle is not strict JSON")
	}
	b, err := spiffebundle.Parse(td, doc)
	if err != nil {
		return nil, errors.New("the bundle is not in SPIFFE's form")
	}
	certs, keys := b.X509Authorities(), b.JWTAuthorities()
	if len(certs)+len(keys) == 0 || len(certs) > maxAuthorities || len(keys) > maxAuthorities {
		return nil, errors.New("the bundle has no keys, or too many")
	}
	for _, c := range certs {
		if !c.IsCA || len(c.URIs) > 1 || len(c.URIs) == 1 && c.URIs[0].String() != td.IDString() {
			return nil, errors.New("an X.509 authority of the bundle is no CA of the trust domain")
		}
	}
	for kid, k := range keys {
		switch k := k.(type) {
		case *ecdsa.PublicKey:
		case *rsa.PublicKey:
			if k.N.BitLen() < 2048 {
				return nil, errors.New("an RSA key of the bundle is shorter than 2048 bits")
			}
		default:
			return nil, errors.New("a JWT authority of the bundle is no public EC or RSA key")
		}
		if kid == "" {
			return nil, errors.New("a JWT authority of the bundle has no kid")
		}
	}
	return b, nil
}

// trusted is the bundle of a federated trust domain, if it may be used now; of the
// own one where SPIRE issues its SVIDs.
func (i *Issuer) trusted(td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	if s, yes, err := i.fromSPIRE(); yes && td == i.td {
		if err != nil {
			return nil, err
		}
		return s.bundleOf(td)
	}
	i.others.mu.Lock()
	defer i.others.mu.Unlock()
	f := i.others.by[td.Name()]
	switch {
	case f == nil:
		return nil, refuse("not_federated", "the trust domain is not one that this one federates with")
	case f.bundle == nil:
		return nil, refuse("no_bundle", "the trust domain's bundle was not fetched yet")
	case i.cfg.Now().Sub(f.confirmed) > maxStale:
		return nil, refuse("stale_bundle", "the trust domain's bundle could not be confirmed for too long")
	}
	return f.bundle, nil
}

// view is every bundle that is published to workloads now.
type view struct {
	own     *spiffebundle.Bundle
	foreign []*spiffebundle.Bundle // by name
	version string                 // changes with any of them
}

func (i *Issuer) view(ctx context.Context) (view, error) {
	if s, yes, err := i.fromSPIRE(); err != nil {
		return view{}, err
	} else if yes {
		return s.view(i.td)
	}
	own, err := i.bundle(ctx)
	if err != nil {
		return view{}, err
	}
	seq, _ := own.SequenceNumber()
	v := view{own: own, version: fmt.Sprint(seq)}
	i.others.mu.Lock()
	defer i.others.mu.Unlock()
	for _, f := range i.others.by {
		if f.bundle != nil && i.cfg.Now().Sub(f.confirmed) <= maxStale {
			v.foreign = append(v.foreign, f.bundle)
		}
	}
	slices.SortFunc(v.foreign, func(a, b *spiffebundle.Bundle) int { return a.TrustDomain().Compare(b.TrustDomain()) })
	for _, b := range v.foreign {
		v.version += " " + b.TrustDomain().Name() + " " + string(i.others.by[b.TrustDomain().Name()].digest)
	}
	return v, nil
}

// endpointSource gives the bundle with which an https_spiffe endpoint is
// verified. A stale one does: its certificates end by themselves, and without it
// there is no way back.
type endpointSource struct{ i *Issuer }

func (s endpointSource) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	s.i.others.mu.Lock()
	defer s.i.others.mu.Unlock()
	if f := s.i.others.by[td.Name()]; f != nil && f.bundle != nil {
		return f.bundle.X509Bundle(), nil
	}
	return nil, fmt.Errorf("no bundle of %s", td.Name())
}

// RunFederation keeps the federated bundles fresh until ctx ends: each as often
// as it asks to be, and after a failure sooner.
func (i *Issuer) RunFederation(ctx context.Context) {
	for {
		wake := i.others.wake.wait()
		var wg sync.WaitGroup
		for _, f := range i.due(false) {
			wg.Go(func() { i.refresh(ctx, f) })
		}
		wg.Wait()
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(i.untilDue()):
		}
	}
}

// Refresh fetches every federated bundle now.
func (i *Issuer) Refresh(ctx context.Context) error {
	var wg sync.WaitGroup
	due := i.due(true)
	errs := make([]error, len(due))
	for n, f := range due {
		wg.Go(func() { errs[n] = i.refresh(ctx, f) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (i *Issuer) due(all bool) (out []*foreign) {
	i.others.mu.Lock()
	defer i.others.mu.Unlock()
	now := i.cfg.Now()
	for _, f := range i.others.by {
		if !f.busy && (all || !now.Before(f.next)) {
			f.busy = true
			out = append(out, f)
		}
	}
	return out
}

func (i *Issuer) untilDue() time.Duration {
	i.others.mu.Lock()
	defer i.others.mu.Unlock()
	d := mostFetch
	for _, f := range i.others.by {
		d = min(d, f.next.Sub(i.cfg.Now()))
	}
	return max(d, 100*time.Millisecond)
}

// refresh fetches one bundle. What was fetched is used after its record is
// durable; when it fails, the last good one stays until it is stale.
func (i *Issuer) refresh(ctx context.Context, f *foreign) error {
	doc, b, err := i.fetch(ctx, f)
	if err == nil {
		err = i.adoptForeign(ctx, f, doc, b)
	}
	i.others.mu.Lock()
	f.busy = false
	now := i.cfg.Now()
	change := ""
	if err == nil {
		if f.failures > 0 {
			change = "recovered"
		}
		hint, ok := b.RefreshHint()
		if !ok {
			hint = refreshHint
		}
		f.failures, f.confirmed, f.next = 0, now, now.Add(min(max(hint, leastFetch), mostFetch))
	} else {
		if f.failures == 0 {
			change = "failing"
		}
		f.failures++
		f.next = now.Add(min(retryFirst<<min(f.failures-1, 10), retryLast))
	}
	i.others.mu.Unlock()
	if change != "" && ctx.Err() == nil {
		i.noteFederation(ctx, f, change, err)
	}
	return err
}

// noteFederation records that a trust domain's bundle cannot be fetched any
// more, or can again. If it cannot be recorded nothing changes by it.
func (i *Issuer) noteFederation(ctx context.Context, f *foreign, change string, cause error) {
	b := federatedBody{V: 1, TrustDomain: f.TrustDomain, Change: change, Endpoint: f.Endpoint, Profile: f.Profile}
	if cause != nil {
		b.Why = strings.ToValidUTF8(cause.Error(), "?")
		b.Why = b.Why[:min(len(b.Why), 300)]
	}
	if _, err := i.log.Append(ctx, record.Draft{Type: "identity.federated", Actor: "sallyport", Body: b}); err != nil {
		slog.ErrorContext(ctx, "federation could not be recorded", "tenant", i.log.Tenant(), "trustDomain", f.TrustDomain, "change", change, "err", err)
	}
}

// adoptForeign records a bundle that differs from the one in use, and uses it.
func (i *Issuer) adoptForeign(ctx context.Context, f *foreign, doc []byte, b *spiffebundle.Bundle) error {
	digest := canon.Digest(doc)
	i.others.mu.Lock()
	old, same := f.bundle, f.bundle != nil && f.digest == digest
	i.others.mu.Unlock()
	if same {
		return nil
	}
	seq, _ := b.SequenceNumber()
	if old != nil {
		// A bundle that was replaced cannot come back: its keys may have been
		// taken out because they were stolen.
		if before, ok := old.SequenceNumber(); ok && seq < before {
			return fmt.Errorf("the bundle has sequence number %d, and %d was there before", seq, before)
		}
	}
	v := federatedV{V: 1, Declared: f.declared, Document: doc, Fetched: i.cfg.Now().UTC()}
	_, err := i.log.Append(ctx, record.Draft{Type: "identity.federated", Actor: "sallyport",
		Body: federatedBody{V: 1, TrustDomain: f.TrustDomain, Change: "bundle", Endpoint: f.Endpoint, Profile: f.Profile, Bundle: digest,
			Sequence: seq, X509: len(b.X509Authorities()), JWT: len(b.JWTAuthorities())},
		Change: func(tx record.Tx) error { return tx.Put(kindFederated, f.TrustDomain, v) }})
	if err != nil {
		return fmt.Errorf("%w: record bundle: %w", ErrUnavailable, err)
	}
	i.others.mu.Lock()
	f.bundle, f.digest, f.confirmed = b, digest, i.cfg.Now()
	i.others.mu.Unlock()
	i.news.tell()
	return nil
}

// Federated is where the federation with one trust domain stands.
type Federated struct {
	TrustDomain string    `json:"trustDomain"`
	Endpoint    string    `json:"endpoint"`
	Profile     Profile   `json:"profile"`
	Usable      bool      `json:"usable"`
	Confirmed   time.Time `json:"confirmed,omitzero"`
	Failures    int       `json:"failures,omitempty"` // in a row
}

// Federations says where each federation stands.
func (i *Issuer) Federations() []Federated {
	i.others.mu.Lock()
	defer i.others.mu.Unlock()
	out := []Federated{}
	for _, f := range i.others.by {
		out = append(out, Federated{f.TrustDomain, f.Endpoint, f.Profile,
			f.bundle != nil && i.cfg.Now().Sub(f.confirmed) <= maxStale, f.confirmed.UTC().Truncate(time.Second), f.failures})
	}
	slices.SortFunc(out, func(a, b Federated) int { return strings.Compare(a.TrustDomain, b.TrustDomain) })
	return out
}
