package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/prefer"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// serveHTTP is called for every request, on the proxy port and in tunnels.
func (p *Proxy) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.begin() {
		panic(http.ErrAbortHandler)
	}
	defer p.running.Done()
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	inside, ok := tunnelOf(conn)
	if r.Method == "CONNECT" {
		if outer, isWire := conn.(*wire); isWire && !ok {
			p.serveConnect(w, r, outer)
			return
		}
		p.malformed(w, r, "connect_in_tunnel", []byte(r.RequestURI))
		return
	}
	select {
	case p.inflight <- struct{}{}:
		defer func() { <-p.inflight }()
	default:
		p.tell(w, r, http.StatusServiceUnavailable, notice{verdict: "deny", code: "too_many_requests", layer: action.LayerForm,
			next: "wait for the open requests to end"})
		return
	}
	in, code := p.read(w, r, conn, inside, ok)
	if code != "" {
		// net/http reads the rest of a body before it goes on, in the client's time.
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTimeout))
	}
	if wc, isWire := conn.(*wire); isWire && code == "body_unreadable" && wc.denial != nil {
		p.deny(w, r, *wc.denial) // recorded when it was found
		return
	}
	if code != "" {
		p.malformedRequest(w, r, code, in)
		return
	}
	p.decide(w, r, in)
}

// incoming is a request that was read whole and has one form.
type incoming struct {
	to        target
	path      string
	query     string
	body      []byte
	websocket bool
	conn      net.Conn
}

// request is the vocabulary's form of it.
func (in incoming) request(r *http.Request) action.Request {
	a := action.Request{Method: r.Method, Origin: in.to.origin(), Path: in.path, Query: in.query,
		BodyType: r.Header.Get("Content-Type"), Destination: r.Header.Get("Sec-Fetch-Dest")}
	// Connectors tell a handshake by this word, so a client cannot just say it.
	if in.websocket {
		a.Destination = "websocket"
	} else if strings.EqualFold(a.Destination, "websocket") {
		a.Destination = ""
	}
	if len(in.body) > 0 {
		a.BodyDigest, a.BodySize = canon.Digest(in.body), int64(len(in.body))
	}
	return a
}

// read brings a request into one form or returns a code.
func (p *Proxy) read(w http.ResponseWriter, r *http.Request, conn net.Conn, inside target, tunnelled bool) (incoming, string) {
	in := incoming{conn: conn}
	code := in.place(r, inside, tunnelled)
	if code == "" {
		code = checkMethod(r.Method)
	}
	if code == "" {
		code = checkHeader(r.Header)
	}
	if code == "" && writes(r.Method) && ambiguous(in.path) {
		code = "path_ambiguous"
	}
	if code == "" {
		in.websocket, code = upgradeOf(r)
	}
	if code != "" {
		return in, code
	}
	if r.ContentLength > p.cfg.MaxBody {
		return in, "body_too_large"
	}
	// An HTTP/2 stream can carry data although its length says 0.
	if r.Body != nil && r.Body != http.NoBody {
		rc := http.NewResponseController(w)
		rc.SetReadDeadline(time.Now().Add(bodyTimeout))
		body, err := io.ReadAll(io.LimitReader(r.Body, p.cfg.MaxBody+1))
		rc.SetReadDeadline(time.Time{})
		if err != nil {
			return in, "body_unreadable"
		}
		if int64(len(body)) > p.cfg.MaxBody {
			return in, "body_too_large"
		}
		in.body = body
	}
	if in.body, code = plainBody(r.Header, in.body, p.cfg.MaxBody); code != "" {
		return in, code
	}
	if len(in.body) > 0 && !writes(r.Method) {
		return in, "body_on_read" // no agreed meaning, RFC 9110 section 9.3.1
	}
	return in, ""
}

// place finds out where the request goes. Tunnel, target and Host (:authority)
// must agree; wire has compared them for HTTP/1.1.
func (in *incoming) place(r *http.Request, inside target, tunnelled bool) (code string) {
	uri := r.RequestURI
	if !tunnelled {
		if in.to, uri, code = splitAbsolute(uri); code != "" {
			return code
		}
	} else {
		in.to = inside
		host, code := parseTarget(inside.scheme, r.Host)
		if code != "" {
			return code
		}
		if host != inside {
			return "host_mismatch"
		}
		// In HTTP/2 a Host field may stand beside :authority.
		for _, h := range r.Header["Host"] {
			if t, code := parseTarget(inside.scheme, h); code != "" || t != inside {
				return "host_mismatch"
			}
		}
	}
	in.path, in.query, code = splitPath(uri)
	return code
}

// writes reports whether a method may change something. Unknown methods do.
func writes(method string) bool {
	return method != "GET" && method != "HEAD" && method != "OPTIONS"
}

// decide asks the gate about a well-formed request, and dispatches it.
func (p *Proxy) decide(w http.ResponseWriter, r *http.Request, in incoming) {
	req := in.request(r)
	rec, err := p.cfg.Connectors.Recognize(req, in.body)
	if err != nil {
		p.malformedRequest(w, r, "not_recognisable", in)
		return
	}
	if in.to.ip.IsValid() && !rec.Allowed {
		p.malformedRequest(w, r, "address_literal", in)
		return
	}
	if code := Doubt(req, rec, in.body); code != "" {
		p.malformedRequest(w, r, code, in)
		return
	}
	header := r.Header.Clone()
	var code string
	if rec.Takes, code = p.takes(req, header, rec.Takes); code != "" {
		p.malformedRequest(w, r, code, in)
		return
	}
	if code := p.checkPlaceholders(req, header, in.body, rec.Secrets); code != "" {
		p.malformedRequest(w, r, code, in)
		return
	}
	req.RedirectOf = p.redirects.take(req)
	a := Name(p.actor(), req, rec)
	if p.cfg.Inputs != nil {
		a.Explained, a.Element, a.Evidence = p.cfg.Inputs.Explain(r.Context(), req, a.Effect.Changes(), time.Now())
	}
	header, stripped := clean(header, rec)
	if len(stripped) > 0 {
		a.Params["stripped"] = strings.Join(stripped, ",")
	}
	ctx, cancel := p.actContext(r)
	defer cancel()
	wait, hasty := time.Duration(0), false
	if p.cfg.Source == "harness" { // a page must not learn that people are asked
		if wait, hasty = prefer.Wait(r.Header); hasty {
			ctx = gate.WithPatience(ctx, wait)
		}
		prefer.Without(header)
	}
	if in.websocket {
		webSocketHeader(header)
	}
	if writes(req.Method) {
		noReplay(header)
	}
	x := &exchange{p: p, w: w, in: in, rec: rec, accept: r.Header.Get("Accept"), out: outgoing(req, header, in.body)}
	if a.Digest, err = wireDigest(x.out, in.body); err != nil {
		p.malformedRequest(w, r, "no_canonical_form", in)
		return
	}
	if rec.Allowed {
		if x.up, err = p.ups.get(r.Context(), in.to, rec.AllowLocal); err != nil {
			code := "name_not_resolved"
			if errors.Is(err, errAddress) {
				code = "address_refused"
			}
			p.malformedRequest(w, r, code, in)
			return
		}
	}
	var blobs []record.Blob
	if len(in.body) > 0 {
		blobs = []record.Blob{{Name: "request-body", Type: req.BodyType, Data: in.body}}
	}
	res := p.cfg.Gate.Act(ctx, a, blobs, x.dispatch)
	switch {
	case x.started && x.cut:
		panic(http.ErrAbortHandler) // the client must see that the response is not whole
	case x.started:
	case res.Decision.Verdict == action.Allow && res.Outcome != nil:
		p.tell(w, r, http.StatusBadGateway, notice{verdict: "allow", code: x.failure(), layer: action.LayerDispatch, action: res.Action.ID, next: x.next()})
	case res.Question != "":
		p.held(w, r, res, wait)
	default:
		p.deny(w, r, res)
	}
}

// actContext ends with the client or with the proxy.
func (p *Proxy) actContext(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(p.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// actor is what every action of this door has in common.
func (p *Proxy) actor() action.Action {
	return action.Action{Tenant: p.cfg.Tenant, Task: p.cfg.Task, Agent: p.cfg.Agent, Surface: action.Egress, Source: p.cfg.Source}
}

// Name fills the vocabulary of an action from what was recognised of its request.
// It is all that the door adds to a connector's word, so that a recorded request
// can be named again.
func Name(a action.Action, req action.Request, rec Recognized) action.Action {
	a.Operation, a.Effect, a.App, a.Labels, a.Request, a.Params = rec.Operation, rec.Effect, rec.App, rec.Labels, &req, map[string]string{}
	for k, v := range rec.Params {
		a.Params[k] = v
	}
	const none = "egress.unmatched"
	unmatched := rec.Operation == "" || rec.Operation == none || !rec.Allowed
	if _, err := action.ParseEffect(string(rec.Effect)); err != nil && (!unmatched || rec.Effect != "") {
		a.Effect = action.Irreversible
	}
	switch {
	case req.Destination == "websocket" && (unmatched || !rec.WebSocket):
		// A socket can write, whatever its handshake looks like.
		a.Operation, a.Effect = "egress.websocket", action.Write
	case unmatched:
		// The connector may know better that it is not a mere read.
		a.Operation = none
		if rec.Effect == "" || rec.Effect == action.Observe {
			a.Effect = action.Read
		}
		if writes(req.Method) && !a.Effect.Changes() {
			a.Effect = action.Write
		}
	default:
		return a
	}
	a.Params["method"], a.Params["origin"] = req.Method, req.Origin
	if !rec.Allowed {
		a.App = ""
		if a.Source == "browser" && browserInternal(req.Origin) {
			a.Params["class"] = "browser-internal"
		}
	}
	return a
}

// browserInternal reports whether Chromium asks for an origin by itself, even
// with its background services switched off. Being on this list lets nothing
// through; it keeps the denial from looking like an attempt of the page.
func browserInternal(origin string) bool {
	t, code := parseTarget("https", strings.TrimPrefix(strings.TrimPrefix(origin, "https://"), "http://"))
	if code != "" {
		return false
	}
	switch t.host {
	case "accounts.google.com", "update.googleapis.com", "optimizationguide-pa.googleapis.com", "safebrowsing.googleapis.com",
		"clients1.google.com", "clients2.google.com", "clients3.google.com", "clients4.google.com", "clients6.google.com",
		"clientservices.googleapis.com", "content-autofill.googleapis.com", "passwordsleakcheck-pa.googleapis.com",
		"android.clients.google.com", "mtalk.google.com", "redirector.gvt1.com", "edgedl.me.gvt1.com", "dl.google.com",
		"clients2.googleusercontent.com", "chromewebstore.googleapis.com", "chrome.google.com", "t0.gstatic.com",
		"connectivitycheck.gstatic.com", "history.google.com", "sb-ssl.google.com":
		return true
	}
	return false
}
