package identity

import (
	"context"
	"crypto"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// eventType keeps a security event token from being taken for anything else
// (RFC 8417 section 2.3).
const eventType = "secevent+jwt"

// SignEvent signs the claims of a security event token with the tenant's key for
// tokens.
func (i *Issuer) SignEvent(ctx context.Context, claims any) (string, error) {
	a, err := i.signer(ctx)
	if err != nil {
		return "", err
	}
	t, err := sign(a, eventType, claims)
	if err != nil {
		return "", fmt.Errorf("%w: sign event: %w", ErrUnavailable, err)
	}
	return t.Reveal(), nil
}

// URL is the issuer's URL, the `iss` of all that it signs.
func (i *Issuer) URL() string { return i.cfg.IssuerURL }

// RefusedAt counts a refusal at a door of the network, for the record.
func (i *Issuer) RefusedAt(door, code string) { i.denied.noteAt(door, code) }

// EventKeys are the keys of one transmitter of security events.
type EventKeys struct{ o *oidc }

// NewEventKeys finds keys as for an issuer, by the transmitter's own discovery
// document (OpenID Shared Signals Framework 1.0 section 7.2.1).
func NewEventKeys(o OIDC) (*EventKeys, error) {
	if field, problem := o.Check(); field != "" {
		return nil, fmt.Errorf("transmitter %q: %s: %s", o.Issuer, field, problem)
	}
	x := newOIDC(o)
	u, err := url.Parse(o.Issuer)
	if err != nil {
		return nil, err
	}
	x.document = u.Scheme + "://" + u.Host + "/.well-known/ssf-configuration" + strings.TrimSuffix(u.EscapedPath(), "/")
	return &EventKeys{x}, nil
}

// OpenEvent checks form and signature of a security event token by the keys of
// the transmitter that it names, and returns its claims, of which only iss was
// looked at. ErrUnavailable: the keys could not be looked at now, so nothing is
// said of the event, which a transmitter that hears a refusal would drop.
func OpenEvent(ctx context.Context, token string, of func(issuer string) *EventKeys) (map[string]canon.Value, error) {
	c, _, err := openForeign(token, func(c map[string]canon.Value) (string, findKey, error) {
		iss, _ := text(c["iss"])
		k := of(iss)
		if k == nil {
			return "", nil, refuse("unknown_issuer", "the event is of no transmitter that the tenant declares")
		}
		return iss, func(kid string) (crypto.PublicKey, error) { return k.o.find(ctx, kid, time.Now()) }, nil
	}, eventType)
	return c, err
}
