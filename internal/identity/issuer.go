package identity

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/record"
)

const (
	objectKind = "identity-authority"
	objectID   = "current"
	// reloadEvery bounds how long this node may not know of an authority that
	// another node made; it is far below publishAhead.
	reloadEvery = time.Minute
	// refreshHint tells others how often to fetch our bundle.
	refreshHint = 5 * time.Minute
)

// Config is what an Issuer needs beside its log.
type Config struct {
	// TrustDomain is the tenant's, e.g. "acme.example". It cannot be changed
	// once the authority exists.
	TrustDomain string
	// IssuerURL is the OIDC issuer, e.g. https://host/t/acme: absolute, without
	// query, fragment or trailing slash. It is the `iss` of every JWT-SVID.
	IssuerURL string
	// X509TTL and JWTTTL are the lives of SVIDs: DefaultTTL when zero, at most
	// MaxTTL.
	X509TTL, JWTTTL time.Duration
	// Grants says what tokens of a running task can say; nil gives none.
	Grants func(ctx context.Context, task string) (Grant, error)
	// Signer holds the private keys; nil keeps them sealed in the store.
	Signer *Signer
	// SPIRE is where SVIDs come from once UseSPIRE said so.
	SPIRE *SPIRE
	// WIT says that WIT-SVIDs are issued too, which is experimental.
	WIT bool
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Issuer is the certificate and token authority of one tenant. It may be used
// from several goroutines.
type Issuer struct {
	log    record.Log
	seal   record.Sealer
	live   Authority
	cfg    Config
	td     spiffeid.TrustDomain
	tasks  *tasks
	denied *refusals

	// mu guards what was last read from the store.
	mu     sync.Mutex
	seq    int64
	auths  []*authority // oldest first
	loaded time.Time
	tried  time.Time // last rotation that failed

	others federated
	news   news // of every change of a bundle

	external atomic.Bool // SVIDs are SPIRE's
	issuers  issuers
	proofs   proofs
	revoked  revocations
}

// Open reads the tenant's authority, or makes it if there is none yet.
func Open(ctx context.Context, log record.Log, seal record.Sealer, live Authority, cfg Config) (*Issuer, error) {
	name, err := TrustDomain(cfg.TrustDomain)
	if err != nil {
		return nil, err
	}
	td, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return nil, err
	}
	if err := checkIssuerURL(cfg.IssuerURL); err != nil {
		return nil, err
	}
	for _, ttl := range []*time.Duration{&cfg.X509TTL, &cfg.JWTTTL} {
		if *ttl == 0 {
			*ttl = DefaultTTL
		}
		if *ttl < time.Second || *ttl > MaxTTL {
			return nil, fmt.Errorf("svid ttl %v: want 1s to %v", *ttl, MaxTTL)
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if log == nil || seal == nil || live == nil {
		return nil, errors.New("identity needs a log, a sealer and an authority")
	}
	i := &Issuer{log: log, seal: seal, live: live, cfg: cfg, td: td, tasks: newTasks(cfg.Now)}
	i.denied = newRefusals(log)
	if s := cfg.SPIRE; s != nil {
		s.news, s.note = &i.news, i.noteSource
	}
	if err := i.revoked.load(ctx, log); err != nil {
		return nil, fmt.Errorf("%w: read revoked tokens: %w", ErrUnavailable, err)
	}
	if _, err := i.authorities(ctx); err != nil {
		return nil, err
	}
	return i, nil
}

// Close writes what was counted of refusals and ends all streams.
func (i *Issuer) Close() {
	i.tasks.closeAll()
	i.denied.close()
}

// TrustDomain is the name of the trust domain.
func (i *Issuer) TrustDomain() string { return i.td.Name() }

func checkIssuerURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil ||
		u.RawQuery != "" || u.Fragment != "" || u.ForceQuery || s != u.String() || s[len(s)-1] == '/' {
		return fmt.Errorf("issuer url %q: want an absolute URL without query, fragment and trailing slash", s)
	}
	return nil
}

// authorityBody is the body of identity.authority.
type authorityBody struct {
	V           int       `json:"v"`
	Why         string    `json:"why"` // created, rotated, or retired
	ID          string    `json:"id"`
	TrustDomain string    `json:"trustDomain"`
	Cert        []byte    `json:"cert,omitempty"`      // DER
	JWTPublic   []byte    `json:"jwtPublic,omitempty"` // DER, SubjectPublicKeyInfo
	External    bool      `json:"external,omitempty"`  // the private keys are in a signer
	Expires     time.Time `json:"expires"`
}

// authorities returns the published authorities, oldest first. It makes one
// when there is none, or when the newest is past half of its life.
func (i *Issuer) authorities(ctx context.Context) ([]*authority, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.cfg.Now()
	if age := now.Sub(i.loaded); len(i.auths) == 0 || age < 0 || age >= reloadEvery {
		if err := i.load(ctx); err != nil {
			return nil, err
		}
	}
	if err := i.rotateIfDue(ctx, now); err != nil {
		return nil, err
	}
	i.retireIfDue(ctx, now)
	valid := make([]*authority, 0, len(i.auths))
	for _, a := range i.auths {
		if now.Before(a.until) {
			valid = append(valid, a)
		}
	}
	if len(valid) == 0 {
		return nil, fmt.Errorf("%w: no signing key is valid now", ErrUnavailable)
	}
	return valid, nil
}

// rotateIfDue makes an authority when there is none, or none in the first half
// of its life. If that fails while one is valid still, that one goes on.
func (i *Issuer) rotateIfDue(ctx context.Context, now time.Time) error {
	n := len(i.auths)
	if n > 0 && now.Before(i.auths[n-1].created.Add(caLife/2)) {
		return nil
	}
	usable := n > 0 && now.Before(i.auths[n-1].expires)
	if since := now.Sub(i.tried); usable && since >= 0 && since < reloadEvery {
		return nil
	}
	err := i.rotate(ctx, now)
	if err != nil && usable {
		i.tried = now
		slog.ErrorContext(ctx, "identity authority could not be renewed", "tenant", i.log.Tenant(), "expires", i.auths[n-1].expires, "err", err)
		return nil
	}
	return err
}

// retireIfDue takes what is over out of the store, so that the sequence number
// of the bundle rises with the change. If that fails it is tried again at the
// next reload; nothing that is over is published meanwhile.
func (i *Issuer) retireIfDue(ctx context.Context, now time.Time) {
	over := func(a *authority) bool { return !now.Before(a.until) }
	if since := now.Sub(i.tried); !slices.ContainsFunc(i.auths, over) || since >= 0 && since < reloadEvery {
		return
	}
	i.tried = now
	first := i.auths[slices.IndexFunc(i.auths, over)]
	err := i.change(ctx, authorityBody{V: 1, Why: "retired", ID: first.id, TrustDomain: i.td.Name(), Expires: first.until}, func(o *object) {
		o.Authorities = slices.DeleteFunc(o.Authorities, func(v authorityV) bool { return !now.Before(v.until()) })
	})
	if err != nil {
		slog.ErrorContext(ctx, "identity authority could not be retired", "tenant", i.log.Tenant(), "authority", first.id, "err", err)
	}
}

// Rotate makes and publishes new keys now instead of at half life. They sign
// after publishAhead; the old ones stay until the last SVID by them has expired.
func (i *Issuer) Rotate(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.load(ctx); err != nil {
		return err
	}
	now := i.cfg.Now()
	if n := len(i.auths); n > 1 && now.Before(i.auths[n-1].created.Add(publishAhead)) {
		return refuse("rotation_pending", "new keys are published and do not sign yet; they do at "+
			i.auths[n-1].created.Add(publishAhead).UTC().Format(time.RFC3339))
	}
	return i.rotate(ctx, now)
}

// Key is a published pair of signing keys.
type Key struct {
	ID       string    `json:"id"`
	State    string    `json:"state"` // signing, next, retiring
	External bool      `json:"external,omitempty"`
	Created  time.Time `json:"created"`
	Until    time.Time `json:"until"` // when it leaves the bundle
}

// State says where the signing keys stand, oldest first.
func (i *Issuer) State(ctx context.Context) ([]Key, error) {
	auths, err := i.authorities(ctx)
	if err != nil {
		return nil, err
	}
	now, err := i.signer(ctx)
	if err != nil {
		return nil, err
	}
	out := []Key{}
	state := "retiring"
	for _, a := range auths {
		_, sealed := a.jwt.k.(*ecdsa.PrivateKey)
		k := Key{ID: a.id, State: state, External: !sealed, Created: a.created, Until: a.until}
		if a.id == now.id {
			k.State, state = "signing", "next"
		}
		out = append(out, k)
	}
	return out, nil
}

// signer is the authority that signs now: the newest that has been published
// long enough, or the oldest valid one while none has.
func (i *Issuer) signer(ctx context.Context) (*authority, error) {
	auths, err := i.authorities(ctx)
	if err != nil {
		return nil, err
	}
	now := i.cfg.Now()
	for _, a := range slices.Backward(auths) {
		if !now.Before(a.created.Add(publishAhead)) {
			return a, nil
		}
	}
	return auths[0], nil
}

// load reads the object. i.mu is held.
func (i *Issuer) load(ctx context.Context) error {
	var o object
	err := i.log.View(ctx, func(tx record.Tx) error { return tx.Get(objectKind, objectID, &o) })
	if errors.Is(err, record.ErrNotFound) {
		// A state that was there and is gone is torn, not new.
		if len(i.auths) > 0 {
			return fmt.Errorf("%w: the authority is gone from the store", ErrUnavailable)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: read authority: %w", ErrUnavailable, err)
	}
	return i.adopt(o)
}

func (i *Issuer) adopt(o object) error {
	if o.V != 1 || o.TrustDomain != i.td.Name() {
		return fmt.Errorf("the store holds an authority of trust domain %q (version %d), not of %q", o.TrustDomain, o.V, i.td.Name())
	}
	if o.Sequence < i.seq {
		return fmt.Errorf("%w: the store holds an older authority than before", ErrUnavailable)
	}
	if o.Sequence == i.seq && len(i.auths) > 0 {
		i.loaded = i.cfg.Now()
		return nil
	}
	auths := make([]*authority, 0, len(o.Authorities))
	for _, v := range o.Authorities {
		a, err := i.openAuthority(v)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		auths = append(auths, a)
	}
	i.auths, i.seq, i.loaded = auths, o.Sequence, i.cfg.Now()
	i.news.tell()
	return nil
}

// errMoved says that another node changed the authority first.
var errMoved = errors.New("authority was changed meanwhile")

// rotate makes and publishes a new authority, in the transaction of its
// record. i.mu is held. A crash before the commit leaves nothing; the keys
// that were made die with the process.
func (i *Issuer) rotate(ctx context.Context, now time.Time) error {
	var o object
	err := i.log.View(ctx, func(tx record.Tx) error { return tx.Get(objectKind, objectID, &o) })
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return fmt.Errorf("%w: read authority: %w", ErrUnavailable, err)
	}
	v, taken, err := i.newAuthority(ctx, o.Used, now)
	if err != nil {
		return fmt.Errorf("%w: make authority: %w", ErrUnavailable, err)
	}
	why := "rotated"
	if len(i.auths) == 0 {
		why = "created"
	}
	b := authorityBody{V: 1, Why: why, ID: v.ID, TrustDomain: i.td.Name(), Cert: v.Cert, JWTPublic: v.JWTPublic, Expires: v.Expires, External: v.External}
	return i.change(ctx, b, func(o *object) {
		kept := []authorityV{}
		for _, a := range o.Authorities {
			if a.Retire.IsZero() {
				a.Retire = v.Created.Add(retireAfter)
			}
			if now.Before(a.until()) {
				kept = append(kept, a)
			}
		}
		o.Authorities, o.Used = append(kept, v), append(o.Used, taken...)
	})
}

// change records a change of the authorities and makes it, in one transaction.
// If another node was first, its change is taken over instead. i.mu is held.
func (i *Issuer) change(ctx context.Context, b authorityBody, edit func(*object)) error {
	seen := i.seq
	var stored object
	_, err := i.log.Append(ctx, record.Draft{Type: "identity.authority", Actor: "sallyport", Body: b,
		Change: func(tx record.Tx) error {
			var o object
			switch err := tx.Get(objectKind, objectID, &o); {
			case errors.Is(err, record.ErrNotFound):
				o = object{V: 1, TrustDomain: i.td.Name()}
			case err != nil:
				return err
			}
			if o.Sequence != seen {
				return errMoved
			}
			o.Sequence++
			edit(&o)
			stored = o
			return tx.Put(objectKind, objectID, o)
		},
	})
	if errors.Is(err, errMoved) {
		return i.load(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: record authority: %w", ErrUnavailable, err)
	}
	return i.adopt(stored)
}

// bundle is the SPIFFE bundle as published now.
func (i *Issuer) bundle(ctx context.Context) (*spiffebundle.Bundle, error) {
	auths, err := i.authorities(ctx)
	if err != nil {
		return nil, err
	}
	b := spiffebundle.New(i.td)
	for _, a := range auths {
		b.AddX509Authority(a.cert)
		if err := b.AddJWTAuthority(a.id, a.jwt.public()); err != nil {
			return nil, err
		}
		if i.cfg.WIT {
			if err := b.AddWITAuthority(a.id, a.jwt.public()); err != nil {
				return nil, err
			}
		}
	}
	i.mu.Lock()
	b.SetSequenceNumber(uint64(i.seq))
	i.mu.Unlock()
	b.SetRefreshHint(refreshHint)
	return b, nil
}
