package identity

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// maxForm bounds what a caller of an OAuth endpoint sends, in bytes.
const maxForm = 64 << 10

// TokenEndpoint is the address of the token endpoint.
func (i *Issuer) tokenEndpoint() string { return i.cfg.IssuerURL + "/token" }

// TokenHandler serves token exchange (RFC 8693). Nothing but the tokens in the
// request, a DPoP proof and the key of mutual TLS says who asks; a header that a
// proxy could add does not.
func (i *Issuer) TokenHandler() http.Handler { return i.tokenHandler("") }

// TaskTokenHandler is TokenHandler at a door that only one task reaches.
func (i *Issuer) TaskTokenHandler(task string) http.Handler { return i.tokenHandler(task) }

func (i *Issuer) tokenHandler(inside string) http.Handler {
	return i.endpoint(func(r *http.Request, f url.Values) (any, error) {
		if f.Get("grant_type") != grantExchange {
			return nil, &oauthError{400, "unsupported_grant_type", "want " + grantExchange}
		}
		req := Request{SubjectToken: f.Get("subject_token"), SubjectType: f.Get("subject_token_type"),
			ActorToken: f.Get("actor_token"), ActorType: f.Get("actor_token_type"), WantType: f.Get("requested_token_type"), Task: f.Get("task"), inside: inside,
			Audience: slices.Concat(f["resource"], f["audience"])}
		for _, u := range f["resource"] {
			if err := resource(u); err != nil {
				return nil, err
			}
		}
		if f.Has("scope") {
			req.Scope = append([]string{}, strings.Fields(f.Get("scope"))...)
		}
		var err error
		if req.proof, err = i.proofOf(r, i.tokenEndpoint()); err != nil {
			return nil, err
		}
		req.cert = certificateOf(r)
		out, err := i.Exchange(r.Context(), req)
		if err != nil {
			return nil, err
		}
		return map[string]any{"access_token": out.Token.Reveal(), "issued_token_type": out.Type, "token_type": out.Scheme,
			"expires_in": out.Life, "scope": strings.Join(out.Scope, " ")}, nil
	}, "grant_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type", "scope", "task", "resource", "audience")
}

func certificateOf(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}

// IntrospectionHandler serves RFC 7662. A token is active for its holder, for
// those who act in it, and for those that it is made for, and for nobody else:
// they get the same answer as for a token that is none.
func (i *Issuer) IntrospectionHandler() http.Handler {
	return i.endpoint(func(r *http.Request, f url.Values) (any, error) {
		who, err := i.authenticate(r.Context(), f)
		if err != nil {
			return nil, err
		}
		inactive := map[string]any{"active": false}
		c, _, err := i.readToken(r.Context(), f.Get("token"), kindAccess, kindTxn)
		if _, refused := errors.AsType[*Refusal](err); refused {
			return inactive, nil
		}
		if err != nil {
			return nil, err
		}
		if !concerns(c, who) {
			return inactive, nil
		}
		out := map[string]any{"active": true, "iss": c.Issuer, "sub": c.Subject, "aud": c.Audience, "exp": c.Expires, "iat": c.IssuedAt, "jti": c.ID,
			"scope": c.Scope, "txn": c.Txn, "tctx": c.Context}
		if c.Client != "" {
			out["client_id"] = c.Client
		}
		if c.Act != nil {
			out["act"] = c.Act
		}
		out["token_type"] = "Bearer"
		if c.Confirm != nil {
			out["cnf"] = c.Confirm
			if c.Confirm.JKT != "" {
				out["token_type"] = "DPoP"
			}
		}
		return out, nil
	}, "token", "token_type_hint", "client_assertion", "client_assertion_type")
}

func concerns(c tokenClaims, who string) bool {
	return who == c.Client || who == c.Subject || who == c.Request || slices.Contains(c.Audience, who) || slices.Contains(c.Act.chain(), who)
}

// RevocationHandler serves RFC 7009: a holder, an actor or the subject ends a
// token, and with it all that was exchanged from it. A token that is none, or is
// not the caller's, is answered as one that was ended.
func (i *Issuer) RevocationHandler() http.Handler {
	return i.endpoint(func(r *http.Request, f url.Values) (any, error) {
		who, err := i.authenticate(r.Context(), f)
		if err != nil {
			return nil, err
		}
		c, w, err := i.readToken(r.Context(), f.Get("token"), kindAccess, kindTxn)
		if _, refused := errors.AsType[*Refusal](err); refused {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if who == c.Client || who == c.Subject || who == c.Request || slices.Contains(c.Act.chain(), who) {
			return nil, i.revokeToken(r.Context(), c, w, who)
		}
		return nil, nil
	}, "token", "token_type_hint", "client_assertion", "client_assertion_type")
}

// authenticate says who asks: by a JWT-SVID that is addressed to this issuer.
func (i *Issuer) authenticate(ctx context.Context, f url.Values) (string, error) {
	if f.Get("client_assertion_type") != assertionSPIFFE {
		return "", refuse("bad_client", "client_assertion_type: want "+assertionSPIFFE)
	}
	who, err := i.client(ctx, f.Get("client_assertion"))
	if r, ok := errors.AsType[*Refusal](err); ok {
		return "", refuse("bad_client", "client_assertion: "+r.Reason)
	}
	return who, err
}

// oauthError is RFC 6749 section 5.2.
type oauthError struct {
	status      int
	code        string
	description string
}

func (e *oauthError) Error() string { return e.code + ": " + e.description }

// asOAuth gives an error the form that OAuth has for it.
func asOAuth(err error) *oauthError {
	if e, ok := errors.AsType[*oauthError](err); ok {
		return e
	}
	r, ok := errors.AsType[*Refusal](err)
	if !ok {
		return &oauthError{503, "temporarily_unavailable", "identity is not available, nothing was issued"}
	}
	e := &oauthError{400, "invalid_grant", r.Code + ": " + r.Reason}
	switch r.Code {
	case "bad_request":
		e.code = "invalid_request"
	case "bad_audience", "no_audience", "audience_grows":
		e.code = "invalid_target" // RFC 8707 section 2
	case "scope_grows":
		e.code = "invalid_scope"
	case "bad_proof", "proof_replayed":
		e.code = "invalid_dpop_proof" // RFC 9449 section 5
	case "bad_client":
		e.status, e.code = 401, "invalid_client"
	case "too_many":
		e.status, e.code = 429, "temporarily_unavailable"
	}
	return e
}

// endpoint reads a form strictly, once each parameter but resource and audience
// (RFC 6749 section 3.2), and answers in JSON.
func (i *Issuer) endpoint(f func(*http.Request, url.Values) (any, error), params ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := func() (any, error) {
			form, err := readForm(w, r, params)
			if err != nil {
				return nil, err
			}
			return f(r, form)
		}()
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		status := http.StatusOK
		if err != nil {
			e := asOAuth(err)
			if e.status == 503 {
				slog.ErrorContext(r.Context(), "token endpoint", "tenant", i.log.Tenant(), "err", err)
			} else if refusal, ok := errors.AsType[*Refusal](err); ok {
				i.denied.noteAt("token", refusal.Code)
			}
			status, v = e.status, map[string]string{"error": e.code, "error_description": e.description}
		}
		w.WriteHeader(status)
		if v != nil {
			json.NewEncoder(w).Encode(v)
		}
	})
}

func readForm(w http.ResponseWriter, r *http.Request, params []string) (url.Values, error) {
	bad := func(why string) (url.Values, error) { return nil, &oauthError{400, "invalid_request", why} }
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		return nil, &oauthError{405, "invalid_request", "want POST"}
	}
	if m, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || m != "application/x-www-form-urlencoded" {
		return bad("want application/x-www-form-urlencoded")
	}
	if r.URL.RawQuery != "" {
		return bad("parameters belong into the body")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		return bad("the body is too long, or did not arrive whole")
	}
	f, err := url.ParseQuery(string(b))
	if err != nil {
		return bad("the body is no form")
	}
	for name, vs := range f {
		if !slices.Contains(params, name) || len(vs) != 1 && name != "resource" && name != "audience" {
			return bad("a parameter is not known here, or is there twice")
		}
	}
	return f, nil
}
