// Package api is how programs and people on this machine talk to a running
// server: HTTP and JSON on a Unix socket, a second socket that launches
// harnesses, and a few public documents over TCP.
//
// Invariants:
//   - Everything that decides or changes something is on the Unix sockets, which
//     belong to the server's own user. Who calls is what the kernel says
//     (SO_PEERCRED); the header Sallyport-As only chooses among the people that
//     this user may act as, and the server judges that.
//   - Requests are read strictly and up to a limit: an unknown member, query
//     parameter, route or method is refused.
//   - Every refusal is {"code","reason","next"}. A fault of the boundary itself
//     is status 500 with a number that stands in the server's log beside the
//     cause; the cause is not sent.
//   - The TCP address serves no record and decides nothing: what is public, and
//     the token endpoints, which give and end tokens of running tasks to those
//     whom package identity verifies.
//
// Not trusted: callers beyond their uid, and every page that a browser on this
// machine shows (Host is checked; no CORS).
package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// api answers requests over one server.
type api struct {
	s    *server.Server
	data string // folder of the server
	log  *slog.Logger

	// routes are the patterns of everything on the socket, for the tests.
	routes []string

	// doctor is held while the machine is examined: one at a time is enough.
	doctor sync.Mutex
	// replaying is held while decisions are replayed, which may take a minute.
	replaying sync.Mutex
}

// call is one request with who sent it.
type call struct {
	*http.Request
	w      http.ResponseWriter
	caller server.Caller
	tenant string
}

// written is returned by a handler that has written the answer itself.
var written = new(struct{})

// handle adds a route. query lists the parameters it knows beside tenant.
func (a *api) handle(mux *http.ServeMux, pattern string, f func(*call) (any, error), query ...string) {
	a.routes = append(a.routes, pattern)
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		c, err := a.call(w, r, query)
		var v any // of a call that was understood and is of a person whom the tenant knows
		if err == nil {
			v, err = f(c)
		}
		switch {
		case err != nil:
			a.refuse(w, r, err)
		case v != written:
			answer(w, http.StatusOK, v)
		}
	})
}

func (a *api) call(w http.ResponseWriter, r *http.Request, query []string) (*call, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("invalid_query", "the query cannot be read", "write it as name=value&name=value")
	}
	for name, vs := range q {
		if name != "tenant" && !slices.Contains(query, name) || len(vs) != 1 {
			return nil, invalid("invalid_query", "query parameter "+strconv.Quote(name)+" is not known here, or is given twice", "leave it out")
		}
	}
	uid, ok := r.Context().Value(peerKey{}).(int)
	if !ok {
		return nil, errors.New("the peer of the socket is not known")
	}
	c := &call{Request: r, w: w, tenant: q.Get("tenant"), caller: server.Caller{UID: uid, Person: r.Header.Get(AsHeader)}}
	return c, a.s.Member(c.caller, c.tenant)
}

// read reads the body as strict JSON.
func (c *call) read(limit int, v any) error {
	b, err := c.body(limit)
	if err != nil {
		return err
	}
	if err := canon.Unmarshal(b, limit, v); err != nil {
		return invalid("invalid_body", "the body is not the JSON that is wanted here: "+err.Error(), "see: GET /api/v1/ for the routes")
	}
	return nil
}

func (c *call) body(limit int) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(c.w, c.Body, int64(limit)))
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return nil, &status{http.StatusRequestEntityTooLarge, invalid("too_large", "the body is larger than "+strconv.Itoa(limit)+" bytes", "send less")}
	}
	if err != nil {
		return nil, invalid("invalid_body", "the body did not arrive whole", "send it again")
	}
	return b, nil
}

func (c *call) number(name string, def int64) (int64, error) {
	s := c.URL.Query().Get(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, invalid("invalid_query", name+" is not a number from 0 on", "correct it")
	}
	return n, nil
}

func invalid(code, reason, next string) *server.Problem {
	return &server.Problem{Kind: server.Invalid, Code: code, Reason: reason, Next: next}
}

func notFound(code, reason, next string) *server.Problem {
	return &server.Problem{Kind: server.NotFound, Code: code, Reason: reason, Next: next}
}

// status is a problem with a status of its own.
type status struct {
	code int
	*server.Problem
}

func (s *status) Unwrap() error { return s.Problem }

// problem makes of any error what may be sent, and its status.
func (a *api) problem(ctx context.Context, what string, err error) (*server.Problem, int) {
	var p *server.Problem
	if !errors.As(err, &p) {
		number := rand.Text()[:8]
		if ctx.Err() == nil {
			a.log.Error("request failed", "fault", number, "request", what, "err", err)
		}
		return &server.Problem{Code: "boundary_fault", Reason: "the boundary itself failed; nothing more is known to have happened",
			Next: "look for fault " + number + " in the server's log"}, http.StatusInternalServerError
	}
	var own *status
	switch {
	case errors.As(err, &own):
		return p, own.code
	case p.Kind == server.Invalid:
		return p, http.StatusBadRequest
	case p.Kind == server.NotFound:
		return p, http.StatusNotFound
	}
	return p, http.StatusForbidden
}

func (a *api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p, code := a.problem(r.Context(), r.Method+" "+r.URL.Path, err)
	answer(w, code, p)
}

func answer(w http.ResponseWriter, code int, v any) { answerAs(w, "application/json", code, v) }

func answerAs(w http.ResponseWriter, mediaType string, code int, v any) {
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.Encode(v)
}
