package egress

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/prefer"
)

// notice is all that a client is told: nothing of it comes from an origin, a
// page or an internal error.
type notice struct {
	verdict string
	code    string
	layer   action.Layer
	next    string
	action  string
	// question and applied are for a caller who said how long it can wait.
	question, applied string
}

func noticeOf(res gate.Result) notice {
	d := res.Decision
	return notice{verdict: "deny", code: d.Code, layer: d.Layer, next: d.Next, action: res.Action.ID}
}

// header is the value of Sallyport-Decision.
func (n notice) header() string {
	return fmt.Sprintf("%s; code=%s; layer=%s; action=%s", n.verdict, clip(n.code), clip(string(n.layer)), clip(n.action))
}

// clip keeps a value inside its place in a header.
func clip(s string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f || r == ';' || r == ',' || r == '"' {
			return '_'
		}
		return r
	}, s)
}

// page renders the notice in the form that accept asks for.
func (n notice) page(accept string) (contentType string, body []byte) {
	switch {
	case strings.Contains(accept, "text/html"):
		return "text/html; charset=utf-8", fmt.Appendf(nil,
			"<!doctype html><meta charset=utf-8><title>Not sent</title><h1>Not sent</h1><p>Sallyport did not send this request.</p>"+
				"<dl><dt>Code<dd>%s<dt>Layer<dd>%s<dt>Next step<dd>%s<dt>Action<dd>%s</dl>\n",
			html.EscapeString(n.code), html.EscapeString(string(n.layer)), html.EscapeString(n.next), html.EscapeString(n.action))
	case strings.Contains(accept, "json"):
		m := map[string]string{"code": n.code, "layer": string(n.layer), "next": n.next, "action": n.action}
		if n.question != "" {
			m["question"] = n.question
		}
		b, _ := json.Marshal(m) // strings always marshal
		return "application/json", append(b, '\n')
	}
	return "text/plain; charset=utf-8", fmt.Appendf(nil, "not sent: %s (layer %s)\nnext step: %s\naction: %s\n", n.code, n.layer, n.next, n.action)
}

// tell answers a request that has no response of an origin. There are no
// Access-Control fields: a page of another origin cannot read it.
func (p *Proxy) tell(w http.ResponseWriter, r *http.Request, status int, n notice) {
	h := w.Header()
	clear(h)
	contentType, body := n.page(r.Header.Get("Accept"))
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", itoa(int64(len(body))))
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Sallyport-Decision", n.header())
	if n.question != "" {
		h.Set("Retry-After", prefer.RetryAfter)
		h.Set("Preference-Applied", n.applied)
		h.Set("Sallyport-Question", clip(n.question))
	}
	if r.Header.Get("Upgrade") != "" {
		h.Set("Connection", "close")
	}
	w.WriteHeader(status)
	if r.Method != "HEAD" {
		w.Write(body)
	}
}

func (p *Proxy) deny(w http.ResponseWriter, r *http.Request, res gate.Result) {
	p.tell(w, r, http.StatusForbidden, noticeOf(res))
}

// held tells a harness that people have not answered yet: the same request, sent
// again, passes once when they have.
func (p *Proxy) held(w http.ResponseWriter, r *http.Request, res gate.Result, wait time.Duration) {
	n := noticeOf(res)
	n.verdict, n.question, n.applied = "hold", res.Question, prefer.Applied(wait)
	p.tell(w, r, http.StatusConflict, n)
}

// recordMalformed sends input without a canonical form through the gate, which
// denies and records it. to is what it was meant for, if that is known.
func (p *Proxy) recordMalformed(ctx context.Context, code string, raw []byte, to *target) gate.Result {
	a := p.actor()
	a.Operation, a.Effect, a.Params, a.Digest = "egress.malformed", action.Irreversible, map[string]string{"why": code}, canon.Digest(raw)
	if to != nil && to.host != "" {
		a.Params["origin"] = to.origin()
	}
	return p.cfg.Gate.Act(ctx, a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "malformed input is never sent"}
	})
}

func (p *Proxy) malformed(w http.ResponseWriter, r *http.Request, code string, raw []byte) {
	res := p.recordMalformed(r.Context(), code, raw, nil)
	p.deny(w, r, asDenied(res, code))
}

func (p *Proxy) malformedRequest(w http.ResponseWriter, r *http.Request, code string, in incoming) {
	var raw bytes.Buffer
	fmt.Fprintf(&raw, "%s %s %s\n", r.Method, r.Host, r.RequestURI)
	r.Header.Write(&raw)
	raw.WriteByte('\n')
	raw.Write(in.body)
	res := p.recordMalformed(r.Context(), code, raw.Bytes(), &in.to)
	p.deny(w, r, asDenied(res, code))
}

// asDenied keeps a gate that would allow malformed input from being quoted.
func asDenied(res gate.Result, code string) gate.Result {
	if res.Decision.Verdict == action.Allow || res.Decision.Code == "" {
		res.Decision = action.Denied(action.LayerForm, code, "the request has no canonical form", "send a request that the surface documents")
	}
	if next, ok := advice[code]; ok {
		res.Decision.Next = next
	}
	return res
}

// advice is for a client of an origin that takes credentials of the boundary.
var advice = map[string]string{
	"own_credential":    "leave the field out, or send the placeholder of the credential in it: the boundary puts the credential in",
	"secret_not_leased": "have the capability name the credential source, in a new task",
	"credentials_clash": "have the capability name one credential source for this field, in a new task",
}

// refuseWire records bytes that are not one HTTP/1.1 message and, where the
// connection is free for it, says so. The connection ends.
func (p *Proxy) refuseWire(w *wire, code string, raw []byte, answer bool) {
	if len(raw) > maxHead {
		raw = raw[:maxHead]
	}
	res := asDenied(p.recordMalformed(p.ctx, code, raw, &w.tunnel), code)
	w.denial = &res
	if !answer {
		return
	}
	n := noticeOf(res)
	contentType, body := n.page("")
	w.SetWriteDeadline(time.Now().Add(headTimeout))
	fmt.Fprintf(w.Conn, "HTTP/1.1 403 Forbidden\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"+
		"Sallyport-Decision: %s\r\nConnection: close\r\n\r\n%s", contentType, len(body), n.header(), body)
	// Bytes that were not read would turn the close into a reset, and the
	// answer might be lost.
	w.SetReadDeadline(time.Now().Add(drainTimeout))
	io.CopyN(io.Discard, w.Conn, maxHead)
}

const drainTimeout = 200 * time.Millisecond
