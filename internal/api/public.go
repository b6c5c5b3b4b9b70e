package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// publicHandler is everything that the TCP address serves.
//
// The log's checkpoint and tiles of hashes are public, so that anybody can
// follow that it only grows. The tiles of entries hold the records and are not.
func (a *api) publicHandler(issuer string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { answer(w, http.StatusOK, map[string]bool{"alive": true}) })
	ready := &readiness{s: a.s, log: func(err error) { a.log.Error("not ready", "err", err) }}
	mux.Handle("GET /readyz", ready)
	a.document(mux, "/t/{tenant}/.well-known/openid-configuration", a.s.Discovery)
	a.document(mux, "/t/{tenant}/keys", a.s.Keys)
	a.document(mux, "/t/{tenant}/bundle", a.s.Bundle)
	a.oauth(mux, "/t/{tenant}/token", a.s.Token)
	a.oauth(mux, "/t/{tenant}/x509-svid", a.s.X509SVID)
	a.oauth(mux, "/t/{tenant}/introspect", a.s.Introspection)
	a.oauth(mux, "/t/{tenant}/revoke", a.s.Revocation)
	// Shared signals: the paths are those of SSF 1.0 for an issuer with a path.
	a.document(mux, "/.well-known/ssf-configuration/t/{tenant}", a.s.SSF)
	a.oauth(mux, "POST /t/{tenant}/ssf/events", a.s.Events)
	a.oauth(mux, "/t/{tenant}/ssf/{name...}", a.s.Streams)
	a.document(mux, "/log/{tenant}/checkpoint", a.s.Tiles)
	a.document(mux, "/log/{tenant}/tile/", a.s.Tiles)
	mux.HandleFunc("GET /log/{tenant}/tile/entries/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusForbidden, &server.Problem{Code: "records_not_public", Reason: "records are not served on this address",
			Next: "sallyport ledger list, or ask for an export"})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusNotFound, notFound("no_such_route", "nothing is served here", "the API is on the Unix socket of the server"))
	})
	return knownHost(issuer, mux)
}

// document serves what get returns for the tenant in the path; of the log, with
// the tenant taken off the path.
func (a *api) document(mux *http.ServeMux, pattern string, get func(string) (http.Handler, error)) {
	mux.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) {
		tenant := r.PathValue("tenant")
		h, err := get(tenant)
		if err != nil {
			a.refuse(w, r, err)
			return
		}
		if strings.HasPrefix(pattern, "/log/") {
			h = http.StripPrefix("/log/"+tenant, h)
		}
		h.ServeHTTP(w, r)
	})
}

// oauth serves an endpoint that takes and gives tokens: over TLS, or to this
// machine, where a proxy may have ended the TLS.
func (a *api) oauth(mux *http.ServeMux, pattern string, get func(string) (http.Handler, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		if ip := net.ParseIP(host); r.TLS == nil && (ip == nil || !ip.IsLoopback()) {
			answer(w, http.StatusForbidden, &server.Problem{Code: "tls_required", Reason: "tokens are given over TLS", Next: "start the server with --tls-cert and --tls-key"})
			return
		}
		h, err := get(r.PathValue("tenant"))
		if err != nil {
			a.refuse(w, r, err)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// knownHost refuses names that somebody else's DNS may point here: a page that
// rebinds its own name to this address is of another origin, and stays it.
func knownHost(issuer string, next http.Handler) http.Handler {
	own := "localhost"
	if u, err := url.Parse(issuer); err == nil && u.Hostname() != "" {
		own = strings.ToLower(u.Hostname())
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.ToLower(strings.Trim(host, "[]"))
		if net.ParseIP(host) == nil && host != "localhost" && host != own {
			answer(w, http.StatusMisdirectedRequest, &server.Problem{Code: "unknown_host", Reason: "this server is not known by that name", Next: "use its address"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// readiness answers /readyz. The write that it tries is shared by all who ask
// within a second, so that asking costs nothing.
type readiness struct {
	s   *server.Server
	log func(error)

	mu   sync.Mutex
	at   time.Time
	left int // credentials that are not confirmed ended
	err  error
}

func (h *readiness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	if time.Since(h.at) > time.Second {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Second)
		if h.err = h.s.Ready(ctx); h.err == nil {
			h.left, h.err = h.s.UnconfirmedLeases(ctx)
		}
		if h.err != nil {
			h.log(h.err)
		}
		cancel()
		h.at = time.Now()
	}
	err, left := h.err, h.left
	h.mu.Unlock()
	if errors.Is(err, seal.ErrClosed) {
		answer(w, http.StatusServiceUnavailable, map[string]any{"ready": false, "reason": "the key-encryption key does not answer, so no secret opens; the cause is in the server's log"})
		return
	}
	if err != nil {
		answer(w, http.StatusServiceUnavailable, map[string]any{"ready": false, "reason": "the ledger cannot write, so nothing passes; the cause is in the server's log"})
		return
	}
	// An upstream that is away stops its own agents, not the others, and a target
	// that is not told stops nobody.
	answer(w, http.StatusOK, map[string]any{"ready": true, "unconfirmedLeases": left, "lateTargets": h.s.LateTargets()})
}
