package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// kindSVID is a JWT-SVID of a workload elsewhere.
const kindSVID = "jwt"

// oidSAN is the one extension that a certificate request may ask for.
const oidSAN = "2.5.29.17"

// svidOrder is what both kinds of SVIDs of workloads elsewhere need: who it is, and
// until when. It ends with what was shown and with the task's time, and lives
// minutes; the end of the task ends what comes after, and not what was given.
func (i *Issuer) svidOrder(ctx context.Context, o *order, ttl time.Duration) (a *authority, id spiffeid.ID, until time.Time, err error) {
	fail := func(err error) (*authority, spiffeid.ID, time.Time, error) {
		return nil, spiffeid.ID{}, time.Time{}, err
	}
	if i.external.Load() {
		return fail(errOwnKeysRest)
	}
	if id, err = elsewhereID(i.td, o.w, o.svid); err != nil {
		return fail(err)
	}
	now := i.cfg.Now()
	if until = earlier(earlier(now.Add(ttl), o.notAfter), o.grant.Until); !now.Before(until.Truncate(time.Second)) {
		return fail(refuse("expired", "the time of the task or of the token is over"))
	}
	if a, err = i.admit(ctx, &o.w); err != nil {
		return fail(err)
	}
	return a, id, until, nil
}

// recordSVID is the second and third step of an issue.
func (i *Issuer) recordSVID(ctx context.Context, o order, b issuedBody) error {
	b.AttestedBy, b.Selectors, b.Actors = o.by, o.selectors, o.act.chain()
	return i.record(ctx, o.w, b)
}

// exchangeSVID gives a workload elsewhere a JWT-SVID (RFC 8693 with a
// requested_token_type of jwt; JWT-SVID). It says who it is, and nothing of what it may.
func (i *Issuer) exchangeSVID(ctx context.Context, r Request, o order) (Issued, error) {
	switch {
	case o.by != "elsewhere":
		return Issued{}, refuse("bad_request", "a JWT-SVID is given for the identity of a workload elsewhere; one that was launched has the Workload API")
	case r.Scope != nil:
		return Issued{}, refuse("bad_request", "a JWT-SVID has no scope")
	case r.proof != nil:
		return Issued{}, refuse("bad_request", "a JWT-SVID is bound to no key")
	}
	r.Scope = nil
	if err := o.narrow(r, i.td.Name()); err != nil {
		return Issued{}, err
	}
	a, id, until, err := i.svidOrder(ctx, &o, i.cfg.JWTTTL)
	if err != nil {
		return Issued{}, err
	}
	t, b, err := i.jwtSVID(a, id, o.audience, until, "")
	if err != nil {
		return Issued{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := i.recordSVID(ctx, o, b); err != nil {
		return Issued{}, err
	}
	return Issued{Token: t, Type: r.WantType, Scheme: "N_A", Life: int64(b.Expires.Sub(b.NotBefore).Seconds())}, nil
}

// certifyElsewhere gives a workload elsewhere an X.509-SVID for a key that it
// keeps.
func (i *Issuer) certifyElsewhere(ctx context.Context, r Request, csr []byte) (spiffeid.ID, []byte, issuedBody, error) {
	fail := func(err error) (spiffeid.ID, []byte, issuedBody, error) { return spiffeid.ID{}, nil, issuedBody{}, err }
	if r.SubjectType != typeJWT || r.Task == "" {
		return fail(refuse("bad_request", "want the subject_token of a workload elsewhere, of type jwt, and the task"))
	}
	o, err := i.elsewhere(ctx, r)
	if err != nil {
		return fail(err)
	}
	a, id, until, err := i.svidOrder(ctx, &o, i.cfg.X509TTL)
	if err != nil {
		return fail(err)
	}
	key, err := readRequest(csr, id)
	if err != nil {
		return fail(err)
	}
	der, b, err := i.certificate(a, id, key, until)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
	}
	return id, der, b, i.recordSVID(ctx, o, b)
}

// readRequest is the key of a certificate request (RFC 2986), which its own
// signature proves. Names in it are not taken: one that asks for another than it
// gets is refused, so that nobody believes to have got it.
func readRequest(csr []byte, id spiffeid.ID) (*ecdsa.PublicKey, error) {
	bad := func(why string) (*ecdsa.PublicKey, error) { return nil, refuse("bad_csr", why) }
	block, rest := pem.Decode(csr)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(block.Headers) > 0 || strings.TrimSpace(string(rest)) != "" {
		return bad("csr: want one PEM block CERTIFICATE REQUEST")
	}
	q, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || q.CheckSignature() != nil {
		return bad("csr: the request is malformed, or not signed by its key")
	}
	key, ok := q.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return bad("csr: want a key of P-256")
	}
	if len(q.DNSNames)+len(q.IPAddresses)+len(q.EmailAddresses) > 0 || len(q.URIs) > 1 || len(q.URIs) == 1 && q.URIs[0].String() != id.String() {
		return bad("csr: it asks for another name than " + id.String())
	}
	for _, e := range q.Extensions {
		if e.Id.String() != oidSAN {
			return bad("csr: it asks for extensions")
		}
	}
	return key, nil
}

// X509SVIDHandler gives a workload elsewhere an X.509-SVID by certificate request:
// POST of a form with subject_token, subject_token_type, task and csr.
func (i *Issuer) X509SVIDHandler() http.Handler {
	return i.endpoint(func(r *http.Request, f url.Values) (any, error) {
		id, der, b, err := i.certifyElsewhere(r.Context(), Request{SubjectToken: f.Get("subject_token"), SubjectType: f.Get("subject_token_type"), Task: f.Get("task")}, []byte(f.Get("csr")))
		if err != nil {
			return nil, err
		}
		bundle, err := i.bundle(r.Context())
		if err != nil {
			return nil, err
		}
		roots := ""
		for _, c := range bundle.X509Authorities() {
			roots += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
		}
		return map[string]any{"spiffe_id": id.String(), "x509_svid": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "bundle": roots,
			"expires_in": int64(b.Expires.Sub(i.cfg.Now()).Seconds())}, nil
	}, "subject_token", "subject_token_type", "task", "csr")
}
