package identity

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Grant is what a token of a task can say at most.
type Grant struct {
	Agent            string
	SPIFFEID         string // how SPIRE knows the agent, where it issues the SVIDs
	Capability       string
	CapabilityDigest action.Digest
	GrantDigest      action.Digest
	Purpose          string
	Scopes           []string // operations of the capability
	Audiences        []string // whom its tokens may be for
	Until            time.Time
	Elsewhere        []Elsewhere // workloads that may act for the task
}

// Kinds of tokens that an exchange gives.
const (
	kindAccess    = "access"    // RFC 9068
	kindTxn       = "txn"       // OAuth Transaction Tokens (draft)
	kindAssertion = "assertion" // RFC 7523, for another authorization server
)

// maxActors bounds the chain of those who act for each other (RFC 8693 section
// 4.1), the present one included.
const maxActors = 4

// actor is the `act` claim (RFC 8693 section 4.1): who acts, and before whom.
type actor struct {
	Subject string `json:"sub"`
	Before  *actor `json:"act,omitempty"`
}

func (a *actor) chain() (out []string) {
	for ; a != nil; a = a.Before {
		out = append(out, a.Subject)
	}
	return out
}

// confirmation is the `cnf` claim (RFC 7800): whose key must be shown with it.
type confirmation struct {
	JKT string `json:"jkt,omitempty"`      // RFC 9449 section 6
	X5T string `json:"x5t#S256,omitempty"` // RFC 8705 section 3.1
}

// context of a token's task, which no exchange changes.
type taskContext struct {
	Task             string        `json:"task"`
	Agent            string        `json:"agent"`
	Capability       string        `json:"capability"`
	CapabilityDigest action.Digest `json:"capability_digest"`
	GrantDigest      action.Digest `json:"grant_digest"`
	Purpose          string        `json:"purpose,omitempty"`
}

// tokenClaims are the claims of what an exchange gives. No others are made and
// no others are accepted.
type tokenClaims struct {
	Issuer   string        `json:"iss"`
	Subject  string        `json:"sub"`
	Audience stringList    `json:"aud"`
	Expires  int64         `json:"exp"`
	IssuedAt int64         `json:"iat"`
	ID       string        `json:"jti"`
	Client   string        `json:"client_id,omitempty"` // who holds it
	Scope    string        `json:"scope,omitempty"`
	Txn      string        `json:"txn,omitempty"`    // the task
	Context  *taskContext  `json:"tctx,omitempty"`   // transaction tokens: immutable
	Request  string        `json:"req_wl,omitempty"` // transaction tokens: the requesting workload
	Act      *actor        `json:"act,omitempty"`
	Confirm  *confirmation `json:"cnf,omitempty"`
	// Parents are the ids of the tokens that it was exchanged from: with one of
	// them it ends.
	Parents []string `json:"parents,omitempty"`
}

// assertionClaims are those of a client assertion: some authorization servers read
// an audience that is a string and no array, and there is one server to name.
type assertionClaims struct {
	tokenClaims
	Audience string `json:"aud"`
}

// signed is what is signed of the claims.
func (c tokenClaims) signed(kind string) any {
	if kind == kindAssertion && len(c.Audience) == 1 {
		return assertionClaims{c, c.Audience[0]}
	}
	return c
}

func (c tokenClaims) scopes() []string { return strings.Fields(c.Scope) }

func headerType(kind string) string {
	return map[string]string{kindAccess: "at+jwt", kindTxn: "txntoken+jwt", kindAssertion: "JWT"}[kind]
}

// order is one token that is asked for, after everything about the caller was
// verified.
type order struct {
	kind      string
	w         Workload
	grant     Grant
	subject   string
	audience  []string
	scope     []string
	act       *actor
	client    string
	confirm   confirmation
	parents   []string
	svid      string    // name of a workload elsewhere that may have SVIDs
	notAfter  time.Time // of what it is exchanged from
	by        string    // how the caller was attested
	selectors []string
}

// issueToken signs a token, records it and hands it out, in the order of every
// issue here.
func (i *Issuer) issueToken(ctx context.Context, o order) (Token, tokenClaims, error) {
	a, err := i.admit(ctx, &o.w)
	if err != nil {
		return Token{}, tokenClaims{}, err
	}
	var raw [16]byte
	rand.Read(raw[:])
	now := i.cfg.Now().UTC().Truncate(time.Second)
	expires := earlier(earlier(now.Add(i.cfg.JWTTTL), a.expires), earlier(o.notAfter, o.grant.Until)).Truncate(time.Second)
	if !now.Before(expires) {
		return Token{}, tokenClaims{}, refuse("expired", "the time of the task or of the token is over")
	}
	c := tokenClaims{Issuer: i.cfg.IssuerURL, Subject: o.subject, Audience: o.audience, Expires: expires.Unix(), IssuedAt: now.Unix(),
		ID: base64.RawURLEncoding.EncodeToString(raw[:])}
	if o.kind == kindAssertion { // RFC 7523 section 3: issuer and subject are the client
		c.Issuer = o.subject
	} else {
		c.Client, c.Scope, c.Txn, c.Act, c.Parents = o.client, strings.Join(o.scope, " "), o.w.Task, o.act, o.parents
		if o.confirm != (confirmation{}) {
			c.Confirm = &o.confirm
		}
		c.Context = &taskContext{o.w.Task, o.w.Agent, o.grant.Capability, o.grant.CapabilityDigest, o.grant.GrantDigest, o.grant.Purpose}
	}
	if o.kind == kindTxn {
		c.Client, c.Request = "", o.client
	}
	t, err := sign(a, headerType(o.kind), c.signed(o.kind))
	if err != nil {
		return Token{}, tokenClaims{}, fmt.Errorf("%w: sign token: %w", ErrUnavailable, err)
	}
	b := issuedBody{V: 1, Kind: o.kind, Subject: o.subject, JTIDigest: canon.Digest([]byte(c.ID)), Audience: o.audience,
		Authority: a.id, NotBefore: now, Expires: expires, Selectors: append(slices.Clone(o.selectors), o.w.Selectors...), AttestedBy: o.by,
		Scope: o.scope, Actors: o.act.chain(), Bound: c.Confirm != nil}
	for _, p := range o.parents {
		b.Parents = append(b.Parents, canon.Digest([]byte(p)))
	}
	if err := i.record(ctx, o.w, b); err != nil {
		return Token{}, tokenClaims{}, err
	}
	if err := i.revoked.check(c); err != nil { // its parent ended while it was recorded
		return Token{}, tokenClaims{}, err
	}
	return t, c, nil
}

// readToken verifies a token of our own that an exchange gave: of one of the
// kinds, whole, in time, of a task that has authority now, and not revoked.
func (i *Issuer) readToken(ctx context.Context, token string, kinds ...string) (tokenClaims, Workload, error) {
	fail := func(code, reason string) (tokenClaims, Workload, error) {
		return tokenClaims{}, Workload{}, refuse(code, reason)
	}
	types := make([]string, len(kinds))
	for n, k := range kinds {
		types[n] = headerType(k)
	}
	payload, err := i.open(ctx, token, types...)
	if err != nil {
		return tokenClaims{}, Workload{}, err
	}
	var c tokenClaims
	if err := canon.Unmarshal(payload, maxToken, &c); err != nil {
		return fail("bad_claims", "the claims are not those of a token of this issuer")
	}
	if c.Issuer != i.cfg.IssuerURL {
		return fail("wrong_issuer", "the token is by another issuer")
	}
	now := i.cfg.Now()
	if err := checkTimes(now, c.Expires, c.IssuedAt, 0); err != nil {
		return tokenClaims{}, Workload{}, err
	}
	if c.ID == "" || len(c.Audience) == 0 || c.Txn == "" || c.Context == nil || c.Context.Task != c.Txn || len(c.Act.chain()) > maxActors {
		return fail("bad_claims", "a claim of the token is missing or malformed")
	}
	s, err := i.subjectOf(ctx, c)
	if err != nil {
		return tokenClaims{}, Workload{}, err
	}
	if s.Task != c.Txn || s.Agent != c.Context.Agent {
		return fail("bad_claims", "subject and task of the token differ")
	}
	if err := i.revoked.check(c); err != nil {
		return tokenClaims{}, Workload{}, err
	}
	w := Workload{Tenant: i.log.Tenant(), Agent: s.Agent, Task: s.Task}
	if err := i.tasks.check(w.Task); err != nil {
		return tokenClaims{}, Workload{}, err
	}
	if w.Chain, err = i.live.Live(ctx, w.Tenant, w.Task); err != nil {
		return fail("no_authority", "the task has no authority to act now")
	}
	return c, w, nil
}

// subjectOf reads the subject of a token: the task's own ID, or how SPIRE knows
// the agent of the task that the token names.
func (i *Issuer) subjectOf(ctx context.Context, c tokenClaims) (Subject, error) {
	if !i.external.Load() {
		return parseID(i.td, c.Subject)
	}
	if i.cfg.Grants == nil {
		return Subject{}, refuse("no_grant", "no tokens are given here")
	}
	g, err := i.cfg.Grants(ctx, c.Txn)
	if err != nil || g.SPIFFEID == "" || g.SPIFFEID != c.Subject {
		return Subject{}, refuse("bad_subject", "the subject is not the agent of the task")
	}
	return Subject{ID: c.Subject, Agent: g.Agent, Task: c.Txn}, nil
}

// AgentID is the SPIFFE ID of an agent over all its tasks: what another
// authorization server knows it by.
func (i *Issuer) AgentID(agent string) (string, error) {
	id, err := spiffeid.FromSegments(i.td, "agent", agent)
	if err != nil {
		return "", refuse("bad_subject", "the agent cannot be part of a SPIFFE ID")
	}
	return id.String(), nil
}
