package identity

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// assertionTTL is the life of an assertion that is made for one request.
const assertionTTL = time.Minute

// Client is an agent as client of another authorization server.
type Client struct {
	Agent string
	// ID is the server's name for it; empty is the agent's SPIFFE ID.
	ID string
	// Task and Lease say what for. The task may be over: its credentials are ended
	// after it.
	Task, Lease string
}

// ClientID is what the server knows an agent as.
func (i *Issuer) ClientID(c Client) (string, error) {
	own, err := i.AgentID(c.Agent)
	if err != nil || c.ID == "" {
		return own, err
	}
	// An assertion is signed with the keys of SVIDs: it never speaks for a workload,
	// another agent or the issuer.
	if strings.Contains(c.ID, "://") && c.ID != own || !validAudience(c.ID) {
		return "", refuse("bad_subject", "a client has its agent's SPIFFE ID or a name that is no address, in 1 to 255 bytes of printable text without spaces")
	}
	return c.ID, nil
}

// AssertClient makes a client assertion (RFC 7523) with which the boundary asks
// another server for a credential of a lease, or ends one. No task gets it. Like all
// that is signed here it is on record before it leaves.
func (i *Issuer) AssertClient(ctx context.Context, c Client, server string) (Token, error) {
	id, err := i.ClientID(c)
	if err != nil {
		return Token{}, err
	}
	audience, err := checkAudience([]string{server})
	if err != nil {
		return Token{}, err
	}
	a, err := i.signer(ctx)
	if err != nil {
		return Token{}, err
	}
	var raw [16]byte
	rand.Read(raw[:])
	now := i.cfg.Now().UTC().Truncate(time.Second)
	claims := tokenClaims{Issuer: id, Subject: id, Audience: audience, Expires: earlier(now.Add(assertionTTL), a.expires).Unix(), IssuedAt: now.Unix(),
		ID: base64.RawURLEncoding.EncodeToString(raw[:])}
	t, err := sign(a, headerType(kindAssertion), claims.signed(kindAssertion))
	if err != nil {
		return Token{}, fmt.Errorf("%w: sign token: %w", ErrUnavailable, err)
	}
	err = i.put(ctx, Workload{Agent: c.Agent, Task: c.Task}, issuedBody{V: 1, Kind: kindAssertion, Subject: id, JTIDigest: canon.Digest([]byte(claims.ID)), Audience: audience,
		Authority: a.id, NotBefore: now, Expires: time.Unix(claims.Expires, 0).UTC(), Selectors: []string{"lease:" + c.Lease}, AttestedBy: "boundary"})
	if err != nil {
		return Token{}, err
	}
	return t, nil
}
