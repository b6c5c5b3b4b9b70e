package identity

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/go-jose/go-jose/v4"
)

// The documents are public and hold no secret. They may be cached for
// cacheSeconds, far below publishAhead.
const cacheSeconds = 300

// Discovery serves the OpenID Connect discovery document (OpenID Connect
// Discovery 1.0 section 4), so that clouds and vaults can federate. There is
// no authorization endpoint: tokens are not obtained by a browser.
func (i *Issuer) Discovery() http.Handler {
	return i.document("application/json", func(*http.Request) ([]byte, error) {
		return json.Marshal(map[string]any{
			"issuer":                                i.cfg.IssuerURL,
			"jwks_uri":                              i.cfg.IssuerURL + "/keys",
			"response_types_supported":              []string{"id_token"},
			"subject_types_supported":               []string{"public"},
			"id_token_signing_alg_values_supported": []string{string(jose.ES256)},
			"claims_supported":                      []string{"iss", "sub", "aud", "exp", "iat", "jti"},
			// RFC 8414, RFC 8693, RFC 9449, RFC 8705, draft-ietf-oauth-spiffe-client-auth.
			"token_endpoint":                                i.tokenEndpoint(),
			"grant_types_supported":                         []string{grantExchange},
			"introspection_endpoint":                        i.cfg.IssuerURL + "/introspect",
			"revocation_endpoint":                           i.cfg.IssuerURL + "/revoke",
			"token_endpoint_auth_methods_supported":         []string{"none"},
			"introspection_endpoint_auth_methods_supported": []string{"spiffe_jwt"},
			"revocation_endpoint_auth_methods_supported":    []string{"spiffe_jwt"},
			"dpop_signing_alg_values_supported":             []string{string(jose.ES256)},
			"tls_client_certificate_bound_access_tokens":    true,
		})
	})
}

// Keys serves the JWKS that the discovery document names: the JWT keys alone,
// use "sig" (RFC 7517).
func (i *Issuer) Keys() http.Handler {
	return i.document("application/jwk-set+json", func(r *http.Request) ([]byte, error) {
		auths, err := i.authorities(r.Context())
		if err != nil {
			return nil, err
		}
		set := jose.JSONWebKeySet{}
		for _, a := range auths {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: a.jwt.public(), KeyID: a.id, Algorithm: string(jose.ES256), Use: "sig"})
		}
		return json.Marshal(set)
	})
}

// BundleEndpoint serves the trust domain's bundle (SPIFFE Federation section
// 5; SPIFFE Trust Domain and Bundle section 4): uses "x509-svid" and
// "jwt-svid", with sequence number and refresh hint.
func (i *Issuer) BundleEndpoint() http.Handler {
	serve := i.document("application/json", func(r *http.Request) ([]byte, error) {
		b, err := i.bundle(r.Context())
		if err != nil {
			return nil, err
		}
		return b.Marshal()
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i.external.Load() { // SPIRE has an endpoint of its own
			http.NotFound(w, r)
			return
		}
		serve.ServeHTTP(w, r)
	})
}

func (i *Issuer) document(contentType string, make func(*http.Request) ([]byte, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		body, err := make(r)
		if err != nil {
			slog.ErrorContext(r.Context(), "identity document", "tenant", i.log.Tenant(), "path", r.URL.Path, "err", err)
			http.Error(w, "identity is not available", http.StatusServiceUnavailable)
			return
		}
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "public, max-age="+strconv.Itoa(cacheSeconds))
		h.Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method == http.MethodGet {
			w.Write(body)
		}
	})
}
