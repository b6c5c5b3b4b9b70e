package identity

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Names of RFC 8693 section 3, of the drafts, and of RFC 7523.
const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeAccess      = "urn:ietf:params:oauth:token-type:access_token"
	typeTxn         = "urn:ietf:params:oauth:token-type:txn_token"
	assertionSPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe" // draft-ietf-oauth-spiffe-client-auth
	assertionBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 section 2.2
)

// Request is a token exchange (RFC 8693 section 2.1) with what its transport
// proved. Lists are empty where nothing was asked for.
type Request struct {
	SubjectToken, SubjectType string
	ActorToken, ActorType     string
	WantType                  string
	Audience                  []string // resource (RFC 8707) and audience
	Scope                     []string
	// Task is the running task that a workload from elsewhere acts for.
	Task string

	inside string            // the task whose door it came through, if any
	proof  *shown            // DPoP
	cert   *x509.Certificate // of mutual TLS; its key is proved, its name is not
}

// Issued is what an exchange gave.
type Issued struct {
	Token  Token
	Type   string // issued_token_type
	Scheme string // token_type
	Scope  []string
	Life   int64 // seconds
}

// Exchange gives a token for a token:
//   - for a JWT-SVID of a running task, addressed to this issuer: a token that
//     says at most what the task's grant does;
//   - for a token of such an exchange: one that says at most what that one does,
//     for its holder, for one that it was made for, or, if it is bound to a key
//     that is shown, for an actor whom its holder names;
//   - for the identity of a workload elsewhere: one for a running task whose agent
//     declares that workload, or a JWT-SVID if it is declared with a name for that.
//
// Scope, audience, life, binding and task can only shrink, and whoever acts is
// added to the chain.
func (i *Issuer) Exchange(ctx context.Context, r Request) (Issued, error) {
	kind, err := r.kind()
	if err != nil {
		return Issued{}, err
	}
	o, err := i.subject(ctx, r)
	if err != nil {
		return Issued{}, err
	}
	if err := i.proofs.spend(r.proof, i.cfg.Now()); err != nil {
		return Issued{}, err
	}
	if kind == kindSVID {
		return i.exchangeSVID(ctx, r, o)
	}
	if o.kind = kind; kind == kindAssertion {
		if i.external.Load() {
			return Issued{}, refuse("bad_request", "SPIRE's own JWT-SVID is the assertion")
		}
		if o.act != nil || len(o.parents) > 0 {
			return Issued{}, refuse("bad_request", "a client assertion is given for the task's own JWT-SVID")
		}
		if o.subject, err = i.AgentID(o.w.Agent); err != nil {
			return Issued{}, err
		}
	}
	if err := o.narrow(r, i.td.Name()); err != nil {
		return Issued{}, err
	}
	if r.proof != nil {
		o.confirm.JKT = r.proof.jkt
	}
	if r.cert != nil {
		o.confirm.X5T = thumbprint(r.cert)
	}
	t, c, err := i.issueToken(ctx, o)
	if err != nil {
		return Issued{}, err
	}
	out := Issued{Token: t, Type: r.WantType, Scheme: "Bearer", Scope: o.scope, Life: c.Expires - c.IssuedAt}
	switch {
	case kind != kindAccess: // RFC 8693 section 2.2.1
		out.Scheme = "N_A"
	case c.Confirm != nil && c.Confirm.JKT != "":
		out.Scheme = "DPoP"
	}
	return out, nil
}

func (r *Request) kind() (string, error) {
	switch r.WantType {
	case "", typeAccess:
		r.WantType = typeAccess
		return kindAccess, nil
	case typeTxn:
		return kindTxn, nil
	case typeJWT:
		return kindSVID, nil
	case assertionBearer:
		return kindAssertion, nil
	}
	return "", refuse("bad_request", "requested_token_type: want access_token, txn_token, jwt for a JWT-SVID, or a jwt-bearer client assertion")
}

// subject verifies the subject token and whoever acts, and returns an order with
// the most that may be asked for.
func (i *Issuer) subject(ctx context.Context, r Request) (order, error) {
	if r.SubjectType == typeAccess {
		return i.again(ctx, r)
	}
	if r.SubjectType != typeJWT {
		return order{}, refuse("bad_request", "subject_token_type: want jwt or access_token")
	}
	if r.ActorToken != "" {
		return order{}, refuse("bad_request", "an actor is named in the exchange of an access token")
	}
	if r.Task != "" {
		return i.elsewhere(ctx, r)
	}
	if i.external.Load() {
		return i.spireSubject(ctx, r)
	}
	s, err := i.VerifyJWT(ctx, r.SubjectToken, i.cfg.IssuerURL)
	if err != nil {
		return order{}, err
	}
	o, err := i.root(ctx, Workload{Tenant: i.log.Tenant(), Agent: s.Agent, Task: s.Task})
	o.subject, o.client, o.notAfter = s.ID, s.ID, s.Expires
	o.selectors = []string{"exchange:jwt-svid", "launch:task:" + s.Task}
	return o, err
}

// spireSubject exchanges SPIRE's JWT-SVID of a task's agent. SPIRE knows agents and
// no tasks: the task is the one whose door the request came through.
func (i *Issuer) spireSubject(ctx context.Context, r Request) (order, error) {
	if r.inside == "" {
		return order{}, refuse("bad_request", "task: name the running task; without one a JWT-SVID of SPIRE is exchanged inside of its session alone")
	}
	f, err := i.VerifyForeignJWT(ctx, r.SubjectToken, i.cfg.IssuerURL)
	if err != nil {
		return order{}, err
	}
	o, err := i.root(ctx, Workload{Tenant: i.log.Tenant(), Task: r.inside})
	if err != nil {
		return order{}, err
	}
	if f.ID != o.grant.SPIFFEID {
		return order{}, refuse("wrong_subject", "the JWT-SVID is not of the task's agent")
	}
	o.w.Agent = o.grant.Agent
	o.subject, o.client, o.notAfter = f.ID, f.ID, f.Expires
	o.selectors = []string{"exchange:jwt-svid", "launch:task:" + r.inside}
	return o, nil
}

// root is an order with all that the grant of a task gives.
func (i *Issuer) root(ctx context.Context, w Workload) (order, error) {
	if i.cfg.Grants == nil {
		return order{}, refuse("no_grant", "no tokens are given here")
	}
	g, err := i.cfg.Grants(ctx, w.Task)
	if err != nil {
		return order{}, refuse("no_authority", "the task has no authority to act now")
	}
	w.SPIFFEID = g.SPIFFEID
	return order{w: w, grant: g, audience: g.Audiences, scope: g.Scopes, by: "exchange"}, nil
}

// again exchanges a token of an earlier exchange.
func (i *Issuer) again(ctx context.Context, r Request) (order, error) {
	c, w, err := i.readToken(ctx, r.SubjectToken, kindAccess)
	if err != nil {
		return order{}, err
	}
	held, err := r.holds(c.Confirm)
	if err != nil {
		return order{}, err
	}
	if r.ActorType != typeJWT || r.ActorToken == "" {
		return order{}, refuse("bad_client", "actor_token: want the JWT-SVID of whoever asks, of type jwt")
	}
	who, err := i.client(ctx, r.ActorToken)
	if err != nil {
		return order{}, err
	}
	if who != c.Client && !slices.Contains(c.Audience, who) && !held {
		return order{}, refuse("not_the_holder", "the token is neither held by the actor nor made for it, and no key that it is bound to was shown")
	}
	o, err := i.root(ctx, w)
	if err != nil {
		return order{}, err
	}
	o.subject, o.client, o.act = c.Subject, who, c.Act
	if who != c.Client {
		o.act = &actor{who, c.Act}
	}
	if len(o.act.chain()) > maxActors {
		return order{}, refuse("chain_too_long", "the token went through too many hands")
	}
	// The grant may have shrunk since, the token cannot grow.
	o.scope, o.audience = both(c.scopes(), o.grant.Scopes), both(c.Audience, o.grant.Audiences)
	o.parents = append(slices.Clone(c.Parents), c.ID)
	if len(o.parents) > 2*maxActors {
		return order{}, refuse("chain_too_long", "the token was exchanged too often")
	}
	o.notAfter = time.Unix(c.Expires, 0).UTC()
	o.selectors = []string{"exchange:access-token", "launch:task:" + w.Task}
	return o, nil
}

// holds reports whether the keys that a token is bound to were shown. A token
// that is bound is worth nothing without them.
func (r Request) holds(c *confirmation) (bool, error) {
	if c == nil {
		return false, nil
	}
	if c.JKT != "" && (r.proof == nil || r.proof.jkt != c.JKT) || c.X5T != "" && (r.cert == nil || thumbprint(r.cert) != c.X5T) {
		return false, refuse("not_bound", "the token is bound to a key that was not shown")
	}
	return true, nil
}

// client verifies who asks: a JWT-SVID that is addressed to this issuer, of a
// running task or of a trust domain that this one federates with.
func (i *Issuer) client(ctx context.Context, svid string) (string, error) {
	s, err := i.VerifyJWT(ctx, svid, i.cfg.IssuerURL)
	if err == nil {
		if err := i.tasks.check(s.Task); err != nil {
			return "", err
		}
		if _, err := i.live.Live(ctx, i.log.Tenant(), s.Task); err != nil {
			return "", refuse("no_authority", "the task of whoever asks has no authority to act now")
		}
		return s.ID, nil
	}
	f, ferr := i.VerifyForeignJWT(ctx, svid, i.cfg.IssuerURL)
	if ferr != nil && i.external.Load() {
		return "", ferr
	}
	if ferr != nil {
		return "", err
	}
	return f.ID, nil
}

// narrow takes what is asked for, if it is within what may be.
func (o *order) narrow(r Request, td string) error {
	if r.Scope != nil {
		for _, s := range r.Scope {
			if !slices.Contains(o.scope, s) {
				return refuse("scope_grows", "a scope is asked for that the task or the token does not have")
			}
		}
		o.scope = slices.Clone(r.Scope)
		slices.Sort(o.scope)
		o.scope = slices.Compact(o.scope)
	}
	if o.kind == kindTxn { // one trust domain, its own (Transaction Tokens draft)
		if len(r.Audience) > 1 || len(r.Audience) == 1 && r.Audience[0] != td {
			return refuse("audience_grows", "a transaction token is for the trust domain "+td)
		}
		o.audience = []string{td}
		return nil
	}
	if len(r.Audience) == 0 {
		return refuse("no_audience", "resource or audience is required")
	}
	want, err := checkAudience(r.Audience)
	if err != nil {
		return err
	}
	for _, a := range want {
		if !slices.Contains(o.audience, a) {
			return refuse("audience_grows", "an audience is asked for that the task or the token does not have")
		}
	}
	o.audience = want
	return nil
}

func both(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}

// thumbprint is RFC 8705 section 3.1.
func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// resource checks a resource indicator (RFC 8707 section 2).
func resource(s string) error {
	u, err := url.Parse(s)
	if err != nil || !u.IsAbs() || u.Fragment != "" || strings.Contains(s, "#") {
		return refuse("bad_audience", "a resource must be an absolute URI without fragment")
	}
	return nil
}
