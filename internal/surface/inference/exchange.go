package inference

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// exchange is one permitted call: what goes to the upstream and comes back.
type exchange struct {
	s       *Server
	w       http.ResponseWriter
	m       measured
	body    []byte
	key     Secret
	started bool // the harness has an answer
	stop    string
	tokens  tokens
}

var (
	errDrift     = errors.New("drift")
	errReflected = errors.New("the answer holds the key")
	errUnread    = errors.New("the answer could not be read")
)

func (x *exchange) refuse(why *refusal) {
	x.started = true
	writeError(x.w, why)
}

// upstreamFailed answers for an upstream that cannot be passed on.
func (x *exchange) upstreamFailed(detail string) {
	x.refuse(&refusal{http.StatusBadGateway, "api_error", "upstream_failed", "sallyport: " + detail})
}

// send puts the key in and sends. After this the provider may have worked, so an
// error is an unknown outcome unless the upstream answered.
func (x *exchange) send(ctx context.Context) action.Outcome {
	key, err := x.s.c.Key.Key(ctx)
	if err != nil || key.s == "" {
		x.upstreamFailed("no provider credential could be had")
		return action.Outcome{State: action.Failed, Detail: "no provider credential"}
	}
	x.key = key
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, x.m.url, bytes.NewReader(x.body))
	if err != nil {
		x.upstreamFailed("the call could not be made")
		return action.Outcome{State: action.Failed, Detail: "the call could not be made"}
	}
	// Nothing of the harness's headers is copied.
	req.Header = http.Header{"Content-Type": {"application/json"}, "Anthropic-Version": {apiVersion}, "X-Api-Key": {key.s},
		"User-Agent": {"sallyport"}, "Accept-Encoding": {"identity"}}
	for _, b := range x.m.Betas {
		req.Header.Add("Anthropic-Beta", b)
	}
	resp, err := x.s.client.Do(req)
	if errors.Is(err, errDrift) { // in the handshake
		x.refuse(drifted)
		return action.Outcome{State: action.Failed, Detail: "not sent: " + drifted.code}
	}
	if err != nil {
		// The error text has the URL, never a header; it is still not shown.
		x.upstreamFailed("the provider could not be reached")
		return action.Outcome{State: action.Unknown, Detail: "no answer of the provider"}
	}
	defer resp.Body.Close()
	out := action.Outcome{State: action.Done, Status: resp.StatusCode}
	err = x.answer(ctx, resp)
	out.Tokens = x.tokens.all()
	switch {
	case err == nil:
		if x.stop != "" {
			out.Detail = "stop_reason " + label(x.stop)
		}
	case errors.Is(err, errDrift):
		out.Detail = "cut: the answer is not of the certified model"
	case errors.Is(err, errReflected):
		out.Detail = "cut: " + errReflected.Error()
	default:
		out.State, out.Detail = action.Unknown, "the answer was cut"
	}
	return out
}

func (x *exchange) answer(ctx context.Context, resp *http.Response) error {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if encoded := resp.Header.Get("Content-Encoding") != ""; encoded || resp.StatusCode != http.StatusOK && resp.StatusCode < 400 {
		const detail = "the provider gave an answer of an unknown form"
		if resp.StatusCode < 300 {
			return x.nameless(ctx, resp, detail)
		}
		x.upstreamFailed(detail)
		return errUnread
	}
	if resp.StatusCode == http.StatusOK && x.m.stream {
		if kind != "text/event-stream" {
			return x.nameless(ctx, resp, "the provider did not stream")
		}
		return x.streamed(ctx, resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		x.upstreamFailed("the provider's answer was cut")
		return errUnread
	}
	if resp.StatusCode != http.StatusOK {
		return x.failed(resp, b)
	}
	return x.whole(ctx, resp, b)
}

// failed passes an error of the provider on, rebuilt from its two texts.
func (x *exchange) failed(resp *http.Response, b []byte) error {
	var e struct {
		Error struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		} `json:"error"`
	}
	why := &refusal{resp.StatusCode, "api_error", "upstream_error", "the provider refused the call"}
	switch {
	case x.reflects(b):
		why.message += "; its text held the provider credential and was dropped"
	case canon.UnmarshalOpen(b, maxAnswer, &e) == nil && e.Error.Type != "":
		// Unescaping may bring the key forth where the raw bytes hide it.
		if !x.reflects([]byte(e.Error.Type + "\n" + e.Error.Message)) {
			why.kind, why.message = e.Error.Type, e.Error.Message
		}
	}
	x.started = true
	h := x.w.Header()
	x.headers(resp)
	h.Set("Content-Type", "application/json")
	x.w.WriteHeader(resp.StatusCode)
	_, err := x.w.Write(errorBody(why))
	return err
}

// headers passes on the few that clients use.
func (x *exchange) headers(resp *http.Response) {
	for _, k := range []string{"Request-Id", "Retry-After"} {
		if v := resp.Header.Get(k); v != "" && len(v) <= 200 && !x.reflects([]byte(v)) {
			x.w.Header().Set(k, v)
		}
	}
	x.w.Header().Set("Cache-Control", "no-store")
}

func (x *exchange) observe(ctx context.Context, p Phase, model, stop string, said Said) error {
	m := x.m.Measurement
	m.Phase, m.Model, m.StopReason, m.Said = p, plain(model), stop, said
	if err := x.s.c.Observer.Observe(ctx, m); err != nil {
		return errDrift
	}
	return nil
}

// nameless answers for a successful answer that names no model, since nothing can
// read it: as far as anybody can tell it is another one's.
func (x *exchange) nameless(ctx context.Context, resp *http.Response, detail string) error {
	if x.observe(ctx, AtResponse, "", "", x.said(resp, "")) != nil {
		return x.cut(drifted, errDrift)
	}
	return x.cut(&refusal{http.StatusBadGateway, "api_error", "upstream_failed", "sallyport: " + detail}, errUnread)
}

// said is what an answer says of itself.
func (x *exchange) said(resp *http.Response, geo string) Said {
	of := func(s string) string {
		switch {
		case s == "":
			return Unsaid
		case x.holdsKey([]byte(s)):
			return string(canon.Digest([]byte(s)))
		}
		return plain(s)
	}
	return Said{Account: of(resp.Header.Get("Anthropic-Organization-Id")), Geo: of(geo)}
}

// plain is a name that the other side made up, or its digest where it is not short and
// plain: it goes into records, and people read it.
func plain(s string) string {
	if len(s) > 200 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return string(canon.Digest([]byte(s)))
	}
	return s
}

// whole answers a call that is not streamed.
func (x *exchange) whole(ctx context.Context, resp *http.Response, b []byte) error {
	var m struct {
		Type       string `json:"type"`
		Model      string `json:"model"`
		StopReason string `json:"stop_reason"`
		Usage      usage  `json:"usage"`
	}
	if canon.UnmarshalOpen(b, maxAnswer, &m) != nil || m.Type != "message" || m.Model == "" {
		return x.nameless(ctx, resp, "the provider's answer is not a message")
	}
	if x.reflects(b) {
		x.upstreamFailed("the provider's answer held the provider credential and was dropped")
		return errReflected
	}
	said := x.said(resp, m.Usage.InferenceGeo)
	if err := x.observe(ctx, AtResponse, m.Model, m.StopReason, said); err != nil {
		x.refuse(drifted)
		return err
	}
	x.stop, x.tokens = m.StopReason, m.Usage.tokens
	if err := x.observe(ctx, AtStop, m.Model, m.StopReason, said); err != nil {
		x.refuse(drifted)
		return err
	}
	x.started = true
	x.headers(resp)
	x.w.Header().Set("Content-Type", "application/json")
	x.w.WriteHeader(http.StatusOK)
	_, err := x.w.Write(b)
	return err
}

// streamed passes events on one by one. The first must be message_start: its
// model is observed before the harness has a byte, the status line included.
func (x *exchange) streamed(ctx context.Context, resp *http.Response) error {
	in, model, last, skipLF := newEvents(http.MaxBytesReader(nil, resp.Body, maxStream)), "", "", false
	rc := http.NewResponseController(x.w)
	for {
		ev, err := in.next(&skipLF)
		if errors.Is(err, io.EOF) && (last == "message_stop" || last == "error") {
			return nil // any other end was cut off
		}
		if err != nil && !errors.Is(err, errTooLarge) {
			return x.cut(&refusal{http.StatusBadGateway, "api_error", "upstream_failed", "sallyport: the provider's stream was cut"}, fmt.Errorf("%w: %w", errUnread, err))
		}
		var f fact
		if err == nil {
			f, err = ev.read()
		}
		if err != nil || model == "" && f.Type != "message_start" && f.Type != "ping" && f.Type != "error" {
			return x.nameless(ctx, resp, "the provider's stream could not be read")
		}
		if x.reflects(ev.data) {
			return x.cut(&refusal{http.StatusBadGateway, "api_error", "upstream_failed", "sallyport: the provider's stream held the provider credential"}, errReflected)
		}
		x.tokens.rise(f.Message.Usage.tokens)
		x.tokens.rise(f.Usage.tokens)
		if f.Type == "message_start" {
			if f.Message.Model == "" {
				return x.nameless(ctx, resp, "the provider's stream names no model")
			}
			// Every one, not only the first: a second start may name another model.
			model = f.Message.Model
			if err := x.observe(ctx, AtResponse, model, "", x.said(resp, f.Message.Usage.InferenceGeo)); err != nil {
				return x.cut(drifted, err)
			}
		}
		if f.Type == "message_delta" && f.Delta.StopReason != "" {
			x.stop = f.Delta.StopReason
			if err := x.observe(ctx, AtStop, model, x.stop, Said{}); err != nil {
				return x.cut(drifted, err)
			}
		}
		if model == "" && f.Type == "ping" {
			continue // nothing goes out before the model is known
		}
		if !x.started {
			x.started = true
			x.headers(resp)
			x.w.Header().Set("Content-Type", "text/event-stream")
			x.w.WriteHeader(http.StatusOK)
		}
		if err := ev.write(x.w, f); err != nil {
			return err
		}
		if err := rc.Flush(); err != nil {
			return err
		}
		last = f.Type
	}
}

// cut ends the answer: with a status if none was sent, and otherwise with the
// stream's own error event.
func (x *exchange) cut(why *refusal, err error) error {
	if !x.started {
		x.refuse(why)
		return err
	}
	_ = event{data: errorBody(why)}.write(x.w, fact{Type: "error"})
	_ = http.NewResponseController(x.w).Flush()
	return err
}

// reflects reports whether b holds the key, plain or in a common coding. JSON
// is looked at with its escapes undone as well.
func (x *exchange) reflects(b []byte) bool {
	if v := jsontext.Value(bytes.Clone(b)); v.Canonicalize() == nil && x.holdsKey(v) {
		return true
	}
	return x.holdsKey(b)
}

func (x *exchange) holdsKey(b []byte) bool {
	k := x.key.s
	for _, form := range []string{k, url.QueryEscape(k), base64.StdEncoding.EncodeToString([]byte(k)), base64.RawURLEncoding.EncodeToString([]byte(k))} {
		if bytes.Contains(b, []byte(form)) {
			return true
		}
	}
	return false
}

// label keeps an upstream's word out of records unless it is a plain one.
func label(s string) string {
	if len(s) > 40 {
		return "(other)"
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && r != '_' {
			return "(other)"
		}
	}
	return s
}
