package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// bindingType keeps a binding token from being taken for a JWT-SVID, and the
// reverse (RFC 8725 section 3.11).
const bindingType = "authzen-binding+jwt"

// BindingTTL is how long a binding token is good for, at most.
const BindingTTL = 5 * time.Minute

// Binding ties a denial that can be requested to the evaluation that it came of
// (binding_token of the AuthZEN Access Request and Approval Profile). It bears
// nothing: it proves that a denial that is echoed is ours, whole and fresh.
type Binding struct {
	Audience   string        `json:"aud"` // where it may be submitted
	Agent      string        `json:"sub"`
	Task       string        `json:"task"`
	Operation  string        `json:"operation"`
	Request    action.Digest `json:"request"`
	Evaluation string        `json:"jti"`
	Expires    time.Time     `json:"-"`
}

type bindingClaims struct {
	Issuer string `json:"iss"`
	Binding
	IssuedAt int64 `json:"iat"`
	Expires  int64 `json:"exp"`
}

// SignBinding signs a binding with the tenant's key for tokens, for BindingTTL or
// until b.Expires, whichever is first.
func (i *Issuer) SignBinding(ctx context.Context, b Binding) (string, error) {
	a, err := i.signer(ctx)
	if err != nil {
		return "", err
	}
	now := i.cfg.Now().UTC().Truncate(time.Second)
	expires := earlier(earlier(now.Add(BindingTTL), b.Expires), a.expires)
	t, err := sign(a, bindingType, bindingClaims{Issuer: i.cfg.IssuerURL, Binding: b, IssuedAt: now.Unix(), Expires: expires.Unix()})
	if err != nil {
		return "", fmt.Errorf("%w: sign binding: %w", ErrUnavailable, err)
	}
	return t.Reveal(), nil
}

// VerifyBinding returns nil if the token binds exactly b and is in time.
func (i *Issuer) VerifyBinding(ctx context.Context, token string, b Binding) error {
	payload, err := i.open(ctx, token, bindingType)
	if err != nil {
		return err
	}
	var c bindingClaims
	if err := canon.Unmarshal(payload, maxToken, &c); err != nil {
		return refuse("bad_claims", "the claims are not those of a binding")
	}
	now := i.cfg.Now().Unix()
	b.Expires = c.Binding.Expires // not part of the token's binding: exp is
	switch {
	case c.Issuer != i.cfg.IssuerURL:
		return refuse("wrong_issuer", "the token is by another issuer")
	case c.Binding != b:
		return refuse("wrong_binding", "the token binds another request")
	case now >= c.Expires || c.Expires-c.IssuedAt > int64(BindingTTL/time.Second):
		return refuse("expired", "the token has expired")
	}
	return nil
}
