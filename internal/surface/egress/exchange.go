package egress

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/surface/local"
)

// readBackTimeout and readBackSize bound a read-back.
const (
	readBackTimeout = 15 * time.Second
	readBackSize    = 1 << 20 // bytes
)

// exchange is one decided request and its response.
type exchange struct {
	p      *Proxy
	w      http.ResponseWriter
	in     incoming
	rec    Recognized
	up     *upstream // nil if no connector owns the origin
	out    *http.Request
	accept string
	values map[string]string // of secrets and credentials, once their use is on record

	started bool   // the client has been sent a response
	cut     bool   // and it is not whole
	code    string // why there is none
}

func (x *exchange) failure() string {
	if x.code == "" {
		return "not_dispatched"
	}
	return x.code
}

// next is what a client that got no answer may do.
func (x *exchange) next() string {
	if x.code == "response_too_large" {
		return "ask for less, or in another task; a write may have taken effect"
	}
	return "try again later; a write may have taken effect"
}

func (x *exchange) failed(code string) action.Outcome {
	x.code = code
	return action.Outcome{State: action.Failed, Detail: code}
}

// dispatch does the effect. The gate calls it once, after the decision is durable.
func (x *exchange) dispatch(ctx context.Context, permit gate.Permit) action.Outcome {
	if x.up == nil {
		return x.failed("origin_without_connector")
	}
	digest, err := wireDigest(x.out, x.in.body)
	if err != nil || permit.Consume(digest) != nil {
		return x.failed("permit_refused")
	}
	if err := x.inject(ctx); err != nil {
		return x.failed("credentials_refused")
	}
	if err := x.use(ctx, permit.Action().ID); err != nil {
		return x.failed("secret_refused")
	}
	body, err := x.substitute()
	if err != nil {
		return x.failed("secret_refused")
	}
	if err := x.put(x.out, body); err != nil {
		return x.failed("credentials_refused")
	}
	effect := permit.Action().Effect
	tr, err := x.transport(effect)
	if err != nil {
		return x.failed("credentials_refused")
	}
	if rb := x.rec.ReadBack; rb != nil && rb.Before != nil {
		status, body, err := x.ask(ctx, rb)
		if err != nil {
			status, body = 0, nil
		}
		rb.Before(status, body)
	}
	var touched atomic.Bool
	out := x.out.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { touched.Store(true) },
	}))
	resp, err := tr.RoundTrip(out)
	if err != nil {
		x.code = "upstream_failed"
		if errors.Is(err, errAddress) {
			x.code = "address_refused"
		}
		if !touched.Load() || !writes(out.Method) && !effect.Changes() {
			return action.Outcome{State: action.Failed, Detail: x.code}
		}
		return action.Outcome{State: action.Unknown, Detail: x.code + " after the request may have been sent"}
	}
	defer resp.Body.Close()
	// A client that does not read must not outlive its task.
	defer local.OnDone(ctx, func() {
		http.NewResponseController(x.w).SetWriteDeadline(time.Unix(1, 0))
		resp.Body.Close()
	})()
	outcome := x.answer(ctx, resp, permit.Action().ID)
	if rb := x.rec.ReadBack; rb != nil {
		outcome.ReadBack = x.readBack(ctx, rb, resp.StatusCode)
	}
	return outcome
}

// inject adds credentials and checks that nothing else was changed by it.
func (x *exchange) inject(ctx context.Context) error {
	if x.p.cfg.Credentials == nil || x.rec.OwnCredentials {
		return nil
	}
	return inject(ctx, x.p.cfg.Credentials, x.out)
}

var errInjector = errors.New("credentials changed the request")

func inject(ctx context.Context, in Injector, r *http.Request) error {
	method, host, u := r.Method, r.Host, *r.URL
	if err := in.Inject(ctx, r); err != nil {
		return err
	}
	if r.Method != method || r.Host != host || *r.URL != u {
		return errInjector
	}
	return nil
}

// answer passes the response on.
func (x *exchange) answer(ctx context.Context, resp *http.Response, id string) action.Outcome {
	if x.p.cfg.Credentials != nil && !x.rec.OwnCredentials {
		x.p.cfg.Credentials.Observe(resp)
	}
	x.p.redirects.remember(x.out, resp, id)
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return x.relay(ctx, resp)
	}
	outcome := action.Outcome{State: action.Done, Status: resp.StatusCode}
	body, length, err := decode(resp, x.out.Method)
	bodyless := x.out.Method == "HEAD" || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified
	switch {
	case err != nil:
		x.code = "response_encoding"
	case !bodyless && length > x.p.cfg.MaxAnswer, x.p.answers.left.Load() <= 0:
		x.code = "response_too_large"
	}
	if x.code != "" {
		outcome.Detail = x.code
		return outcome
	}
	body = &bounded{src: body, left: x.p.cfg.MaxAnswer, total: &x.p.answers}
	live := resp.ContentLength < 0 // of unknown length: events, slow pages
	// Whoever sent a credential along chose the request: its answer is searched
	// whatever it calls itself.
	if x.p.cfg.Redactor != nil && (len(x.values) > 0 || isText(resp.Header.Get("Content-Type"))) {
		body, length = whole(x.p.scrubber, body, length)
	}
	h := x.w.Header()
	copyResponseHeader(h, resp.Header, !x.rec.OwnCredentials, x.p.scrubber())
	if length >= 0 && !bodyless {
		h.Set("Content-Length", itoa(length))
	}
	if x.in.websocket {
		h.Set("Connection", "close") // the client may already speak another protocol
	}
	x.started = true
	x.w.WriteHeader(resp.StatusCode)
	if bodyless {
		return outcome
	}
	if err := copyBody(x.w, body, live); err != nil {
		x.cut = true
		outcome.Detail = "response_cut"
		if errors.Is(err, errTooLarge) {
			outcome.Detail = "response_too_large"
		}
	}
	return outcome
}

// readBack asks the application whether the write took.
func (x *exchange) readBack(ctx context.Context, rb *ReadBack, status int) string {
	if status >= 400 {
		return "failed"
	}
	got, body, err := x.ask(ctx, rb)
	if err != nil {
		return "unknown"
	}
	switch v := rb.Verify(got, body); v {
	case "verified", "failed":
		return v
	}
	return "unknown"
}

var errReadBack = errors.New("read-back has no usable answer")

// ask makes the GET of a read-back, with credentials, on the same origin.
func (x *exchange) ask(ctx context.Context, rb *ReadBack) (int, []byte, error) {
	path, query, code := splitPath(rb.Path + "?" + rb.Query)
	if code != "" || path != rb.Path || query != rb.Query {
		return 0, nil, errReadBack
	}
	ctx, cancel := context.WithTimeout(ctx, readBackTimeout)
	defer cancel()
	r := outgoing(action.Request{Method: "GET", Origin: x.in.to.origin(), Path: path, Query: query},
		http.Header{"Accept": {"*/*"}, "User-Agent": nil, "Accept-Encoding": {"gzip"}}, nil)
	brokered := x.p.cfg.Credentials != nil && !x.rec.OwnCredentials
	if brokered {
		if err := inject(ctx, x.p.cfg.Credentials, r); err != nil {
			return 0, nil, err
		}
	}
	if err := x.put(r, nil); err != nil {
		return 0, nil, err
	}
	tr, err := x.transport(action.Read)
	if err != nil {
		return 0, nil, err
	}
	resp, err := tr.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	if brokered {
		x.p.cfg.Credentials.Observe(resp)
	}
	body, _, err := decode(resp, "GET")
	if err != nil {
		return 0, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(body, readBackSize+1))
	if err != nil || len(data) > readBackSize {
		return 0, nil, errReadBack
	}
	return resp.StatusCode, data, nil
}

// isText reports whether a body is searched for secrets: everything but media
// and fonts, which pages cannot make an origin reflect into.
func isText(contentType string) bool {
	mt, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	mt = strings.TrimSpace(mt)
	if strings.HasSuffix(mt, "+xml") {
		return true // image/svg+xml
	}
	for _, prefix := range []string{"image/", "video/", "audio/", "font/"} {
		if strings.HasPrefix(mt, prefix) {
			return false
		}
	}
	return true
}
