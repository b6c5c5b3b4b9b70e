package estate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
)

// maxBody limits every request body.
const maxBody = 64 << 10

// A kind says what a route asks of a request before its handler runs.
type kind int

const (
	open        kind = iota // no session: the sign-in form, the style sheet
	signIn                  // no session, a form body
	read                    // a session
	write                   // a session that may write, own or no Origin, CSRF token
	ownSessions             // a session; CSRF token, or Origin is this origin
)

type route struct {
	pattern string
	kind    kind
	action  string // name in the audit log, for kinds that write
	fn      func(*call)
}

// A call is one request on its way through a route.
type call struct {
	*site
	w       http.ResponseWriter
	r       *http.Request
	route   route
	session session
}

// A site is one application of one copy.
type site struct {
	copy *Copy
	app  App
	mux  *http.ServeMux
}

func newSite(c *Copy, app App) *site {
	s := &site{copy: c, app: app, mux: http.NewServeMux()}
	routes := append(appRoutes[app](), route{"GET /api/events", open, "", apiEvents})
	if app != Runbooks {
		routes = append(routes, pageRoutes()...)
	}
	for _, rt := range routes {
		s.mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, r *http.Request) {
			q := &call{site: s, w: w, r: r, route: rt}
			if q.admit() {
				rt.fn(q)
			}
		})
	}
	return s
}

// pageRoutes are those of every application with pages.
func pageRoutes() []route {
	return []route{
		{"GET /{$}", read, "", func(q *call) { q.to(homes[q.app]) }},
		{"GET /static/app.css", open, "", stylesheet},
		{"GET /login", open, "", loginPage},
		{"POST /login", signIn, "session.sign-in", login},
		{"POST /logout", ownSessions, "session.sign-out", logout},
		{"GET /account", read, "", accountPage},
		{"GET /account/sessions", read, "", listSessions},
		{"POST /account/sessions/{id}/revoke", ownSessions, "session.revoke", revokeSession},
		{"GET /api/audit", read, "", apiAudit},
	}
}

var homes = map[App]string{IAM: "/users", Tickets: "/tickets", Mail: "/inbox", Pay: "/payments"}

var appRoutes = map[App]func() []route{IAM: iamRoutes, Tickets: ticketRoutes, Mail: mailRoutes, Pay: payRoutes, Runbooks: runbookRoutes}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "strict-origin-when-cross-origin")
	if s.app != Tickets { // see the package comment
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if fallback, pattern := s.mux.Handler(r); pattern == "" {
		var p statusProbe
		fallback.ServeHTTP(&p, r)
		if allow := p.Header().Get("Allow"); allow != "" {
			h.Set("Allow", allow)
		}
		q := &call{site: s, w: w, r: r}
		q.session, _ = s.copy.current(s.app, r)
		q.fail(p.status, map[int]string{404: "not-found", 405: "method"}[p.status])
		return
	}
	s.mux.ServeHTTP(w, r)
}

// statusProbe learns from the mux whether a path is unknown or a method wrong.
type statusProbe struct {
	h      http.Header
	status int
}

func (p *statusProbe) Header() http.Header {
	if p.h == nil {
		p.h = http.Header{}
	}
	return p.h
}
func (p *statusProbe) WriteHeader(status int)      { p.status = status }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }

// admit checks what the route's kind asks and has answered when it says no.
func (q *call) admit() bool {
	if q.route.kind == open {
		return true
	}
	if q.r.Method == http.MethodPost && !q.isJSON() {
		if err := q.r.ParseForm(); err != nil {
			q.fail(http.StatusBadRequest, "input")
			return false
		}
	}
	origin := q.r.Header.Get("Origin")
	foreign := origin != "" && origin != q.copy.url(q.app)
	if q.route.kind == signIn {
		if foreign {
			q.refuse("origin", http.StatusForbidden)
		}
		return !foreign
	}
	var ok bool
	if q.session, ok = q.copy.current(q.app, q.r); !ok {
		if q.route.action != "" {
			q.audit(q.route.action, q.target(), "unauthenticated")
		}
		if q.wantsJSON() {
			q.fail(http.StatusUnauthorized, "unauthenticated")
			return false
		}
		to := "/login"
		if q.r.Method == http.MethodGet && q.r.URL.Path != "/" {
			to += "?next=" + strings.ReplaceAll(q.r.URL.EscapedPath(), "&", "%26")
		}
		http.Redirect(q.w, q.r, to, http.StatusFound)
		return false
	}
	if q.route.kind == read {
		return true
	}
	token := q.r.Header.Get("X-CSRF-Token")
	if token == "" {
		token = q.r.PostForm.Get("_csrf")
	}
	switch {
	case foreign:
		q.refuse("origin", http.StatusForbidden)
	case !same(token, q.session.csrf) && (q.route.kind != ownSessions || origin == "" || token != ""):
		q.refuse("csrf", http.StatusForbidden)
	case q.route.kind == write && !q.session.writes:
		q.refuse("role", http.StatusForbidden)
	default:
		return true
	}
	return false
}

func (q *call) isJSON() bool {
	mt, _, err := mime.ParseMediaType(q.r.Header.Get("Content-Type"))
	return err == nil && mt == "application/json"
}

// wantsJSON is true for routes that programs call.
func (q *call) wantsJSON() bool {
	p := q.r.URL.Path
	return q.app == Runbooks || strings.HasPrefix(p, "/api/") || strings.HasPrefix(p, "/account/")
}

// target is what the path names, for the audit of a request that was refused.
func (q *call) target() string { return label(q.r.PathValue("id")) }

// refuse writes the audit entry of a write that is not done, and answers.
func (q *call) refuse(reason string, status int) {
	q.audit(q.route.action, q.target(), reason)
	code := reason
	if reason == "role" {
		code = "forbidden"
	}
	q.fail(status, code)
}

func (q *call) audit(action, target, reason string) {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	q.auditLocked(action, target, reason)
}

// auditLocked adds an entry: "ok" without a reason, else "refused". q.copy.mu
// is held.
func (q *call) auditLocked(action, target, reason string) {
	outcome := "ok"
	if reason != "" {
		outcome = "refused"
	}
	log := q.copy.data.audit[q.app]
	e := AuditEntry{
		ID: len(log) + 1, Time: time.Now(), Account: q.session.Account, Session: q.session.ID,
		UserAgent: label(q.r.UserAgent()), RequestID: label(q.r.Header.Get("X-Request-Id")),
		Action: action, Target: target, Outcome: outcome, Reason: reason,
	}
	q.copy.data.audit[q.app] = append(log, e)
	q.copy.trail[q.app] = append(q.copy.trail[q.app], eventOf(e))
}

var (
	errNotFound = errors.New("not-found")
	errInput    = errors.New("input")
)

// change runs fn and writes its audit entry under one lock. It answers and
// returns false if fn did not do it.
func (q *call) change(target string, fn func(*data) error) bool {
	q.copy.mu.Lock()
	err := fn(&q.copy.data)
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	q.auditLocked(q.route.action, label(target), reason)
	q.copy.mu.Unlock()
	switch {
	case errors.Is(err, errNotFound):
		q.fail(http.StatusNotFound, reason)
	case err != nil:
		q.fail(http.StatusUnprocessableEntity, reason)
	}
	return err == nil
}

func (q *call) to(path string) { http.Redirect(q.w, q.r, path, http.StatusSeeOther) }

func (q *call) json(status int, v any) {
	q.shows(status)
	q.w.Header().Set("Content-Type", "application/json")
	q.w.WriteHeader(status)
	_ = json.NewEncoder(q.w).Encode(v)
}

// body reads a strict JSON body into v: right type, known fields, nothing after.
func (q *call) body(v any) error {
	if !q.isJSON() {
		return fmt.Errorf("content type is not application/json")
	}
	dec := json.NewDecoder(q.r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("data after the body")
	}
	return nil
}

func (q *call) fail(status int, code string) {
	if q.wantsJSON() {
		q.json(status, map[string]string{"error": code})
		return
	}
	q.page(status, "error", fmt.Sprintf("error/%d", status), http.StatusText(status), code)
}

// shows remembers which hostile items an answer has: those of its page, as HTML or by
// the API, and a banner that is over every page. A list that has a part of one shows
// it to nobody.
func (q *call) shows(status int) {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	path := strings.TrimPrefix(q.r.URL.Path, "/api")
	for name := range q.copy.hostile {
		h, _ := hostileByName(name) // SetHostile looked
		if status == http.StatusOK && h.App == q.app && (h.Path == path || h.Surface == OnBanner) {
			q.copy.shown[name] = true
		}
	}
}

// page writes a page of the application whose mark is page:APP/mark. It is
// rendered in full before the first byte is sent.
func (q *call) page(status int, name, mark, title string, view any) {
	var buf bytes.Buffer
	if err := templates.ExecuteTemplate(&buf, name, q.frame(mark, title, view)); err != nil {
		http.Error(q.w, "internal error", http.StatusInternalServerError)
		return
	}
	q.shows(status)
	q.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	q.w.WriteHeader(status)
	_, _ = q.w.Write(buf.Bytes())
}

func apiAudit(q *call) { q.json(http.StatusOK, q.auditLog()) }

func (q *call) auditLog() []AuditEntry {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	return append([]AuditEntry{}, q.copy.data.audit[q.app]...)
}
