package signals

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// verifyEvery is the least time between two verifications that are asked for.
const verifyEvery = 10 * time.Second

// Metadata is the transmitter's configuration (SSF 1.0 section 7.1).
func (s *Sender) Metadata() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		encode(w, http.StatusOK, map[string]any{"spec_version": "1_0", "issuer": s.URL, "jwks_uri": s.URL + "/keys",
			"delivery_methods_supported": []string{push, poll}, "configuration_endpoint": s.at("stream"), "status_endpoint": s.at("status"),
			"verification_endpoint": s.at("verify"), "authorization_schemes": []any{map[string]string{"spec_urn": "urn:ietf:rfc:6750"}},
			"default_subjects": "ALL"})
	})
}

func (s *Sender) at(name string) string { return s.URL + "/ssf/" + name }

// fault is an answer that is no success.
type fault struct {
	status int
	why    string
}

func (f *fault) Error() string { return f.why }

// Manage is the API of a receiver (SSF 1.0 section 8), and where it polls. The
// last part of the path chooses.
func (s *Sender) Manage() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		status, v, err := s.manage(w, q)
		var f *fault
		switch {
		case err == nil:
			encode(w, status, v)
		case errors.As(err, &f):
			if f.status == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			encode(w, f.status, map[string]string{"err": http.StatusText(f.status), "description": f.why})
		case errors.Is(err, errNoStream):
			encode(w, http.StatusNotFound, map[string]string{"err": "not_found", "description": "no such stream of this receiver"})
		case errors.Is(err, errExists):
			encode(w, http.StatusConflict, map[string]string{"err": "conflict", "description": "this receiver has a stream: read, change or delete it"})
		case q.Context().Err() != nil:
		default:
			slog.ErrorContext(q.Context(), "stream management", "tenant", s.Log.Tenant(), "err", err)
			encode(w, http.StatusServiceUnavailable, map[string]string{"err": "unavailable", "description": "nothing was changed"})
		}
	})
}

func (s *Sender) manage(w http.ResponseWriter, q *http.Request) (int, any, error) {
	token, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
	if !ok || len(q.Header.Values("Authorization")) != 1 {
		return 0, nil, &fault{401, "show a token: Authorization: Bearer"}
	}
	r, err := s.Authenticate(q.Context(), token)
	if err != nil {
		return 0, nil, &fault{401, "the token is not of a receiver that the tenant declares"}
	}
	var body []byte
	if q.Method != http.MethodGet && q.Method != http.MethodDelete {
		if body, err = io.ReadAll(http.MaxBytesReader(w, q.Body, maxSET)); err != nil {
			return 0, nil, &fault{400, "the body is too long, or did not arrive whole"}
		}
	}
	ctx, id := q.Context(), q.URL.Query().Get("stream_id")
	name := q.PathValue("name")
	if rest, ok := strings.CutPrefix(name, "poll/"); ok && q.Method == http.MethodPost {
		return s.polled(ctx, r, rest, body)
	}
	switch q.Method + " " + name {
	case "POST stream":
		return s.createStream(ctx, r, body)
	case "GET stream":
		return s.readStream(ctx, r, id)
	case "PATCH stream", "PUT stream":
		return s.updateStream(ctx, r, body, q.Method == http.MethodPut)
	case "DELETE stream":
		st, err := s.stream(ctx, r, id)
		if err == nil {
			err = s.remove(ctx, st)
		}
		return http.StatusNoContent, nil, err
	case "GET status":
		st, err := s.stream(ctx, r, id)
		return http.StatusOK, st.standing(), err
	case "POST status":
		return s.setStatus(ctx, r, body)
	case "POST verify":
		return s.verify(ctx, r, body)
	}
	return 0, nil, &fault{404, "there is no such endpoint"}
}

type delivery struct {
	Method        string `json:"method"`
	Endpoint      string `json:"endpoint_url,omitempty"`
	Authorization string `json:"authorization_header,omitempty"` // taken, and never told again
}

// config is a stream's configuration on the wire (SSF 1.0 section 8.1.1).
type config struct {
	ID          string    `json:"stream_id,omitempty"`
	Issuer      string    `json:"iss,omitempty"`
	Audience    string    `json:"aud,omitempty"`
	Supported   []string  `json:"events_supported,omitempty"`
	Requested   []string  `json:"events_requested,omitempty"`
	Delivered   []string  `json:"events_delivered"`
	Delivery    *delivery `json:"delivery,omitempty"`
	MinVerify   int       `json:"min_verification_interval,omitempty"`
	Description string    `json:"description,omitempty"`
}

func (s *Sender) config(st Stream) config {
	c := config{ID: st.ID, Issuer: s.URL, Audience: st.Receiver, Supported: supported, Requested: st.Requested, Delivered: []string{},
		Delivery: &delivery{Method: st.Method, Endpoint: st.Endpoint}, MinVerify: int(verifyEvery / time.Second), Description: st.Description}
	if st.Method == poll {
		c.Delivery.Endpoint = s.at("poll/" + st.ID)
	}
	for _, e := range supported {
		if st.wants(e) {
			c.Delivered = append(c.Delivered, e)
		}
	}
	return c
}

func read(body []byte, v any) error {
	if err := canon.UnmarshalOpen(body, maxSET, v); err != nil {
		return &fault{400, "the body is not the JSON that is wanted here"}
	}
	return nil
}

// set takes the receiver's part of a configuration into a stream. A part that is
// not given is as it was, or with whole is taken away.
func (s *Sender) set(r Receiving, st *Stream, c config, whole bool) error {
	if c.Requested != nil || whole {
		st.Requested = nil
		for _, e := range c.Requested {
			if slices.Contains(supported, e) && !slices.Contains(st.Requested, e) {
				st.Requested = append(st.Requested, e)
			}
		}
		if c.Requested != nil && st.Requested == nil {
			return &fault{400, "events_requested: none of them is supported"}
		}
	}
	if c.Description != "" || whole {
		if st.Description = c.Description; len(st.Description) > maxID {
			st.Description = strings.ToValidUTF8(st.Description[:maxID], "")
		}
	}
	if c.Delivery == nil && !whole {
		return nil
	}
	d := delivery{Method: poll}
	if c.Delivery != nil {
		d = *c.Delivery
	}
	st.Method, st.Endpoint, st.Sealed = d.Method, "", nil
	switch d.Method {
	case poll:
	case push:
		if st.Endpoint = d.Endpoint; !r.below(d.Endpoint) {
			return &fault{400, "delivery.endpoint_url: not an address that the tenant declares for this receiver"}
		}
		if d.Authorization != "" {
			if strings.ContainsAny(d.Authorization, "\r\n\x00") || len(d.Authorization) > 4096 {
				return &fault{400, "delivery.authorization_header: not the value of a header"}
			}
			var err error
			st.Sealed, err = s.Seal.Seal(sealContext(*st), []byte(d.Authorization))
			return err
		}
	default:
		return &fault{400, "delivery.method: want " + push + " or " + poll}
	}
	return nil
}

func (s *Sender) createStream(ctx context.Context, r Receiving, body []byte) (int, any, error) {
	var c config
	if len(body) > 0 {
		if err := read(body, &c); err != nil {
			return 0, nil, err
		}
	}
	st := Stream{Receiver: r.Name, ID: newStreamID()}
	if err := s.set(r, &st, c, true); err != nil {
		return 0, nil, err
	}
	st, err := s.create(ctx, st)
	return http.StatusCreated, s.config(st), err
}

func (s *Sender) readStream(ctx context.Context, r Receiving, id string) (int, any, error) {
	if id != "" {
		st, err := s.stream(ctx, r, id)
		return http.StatusOK, s.config(st), err
	}
	all, err := s.streams(ctx)
	out := []config{}
	for _, st := range all {
		if st.Receiver == r.Name {
			out = append(out, s.config(st))
		}
	}
	return http.StatusOK, out, err
}

func (s *Sender) updateStream(ctx context.Context, r Receiving, body []byte, whole bool) (int, any, error) {
	var c config
	var given map[string]canon.Value
	if err := errors.Join(read(body, &c), read(body, &given)); err != nil {
		return 0, nil, &fault{400, "the body is not a stream's configuration"}
	}
	st, err := s.stream(ctx, r, c.ID)
	if err != nil {
		return 0, nil, err
	}
	now := s.config(st)
	for name, ok := range map[string]bool{"iss": c.Issuer == now.Issuer, "aud": c.Audience == now.Audience,
		"events_supported": reflect.DeepEqual(c.Supported, now.Supported), "events_delivered": reflect.DeepEqual(c.Delivered, now.Delivered),
		"min_verification_interval": c.MinVerify == now.MinVerify} {
		if given[name] != nil && !ok {
			return 0, nil, &fault{400, name + ": is the transmitter's, and another"}
		}
	}
	if c.Delivery != nil && c.Delivery.Method == poll {
		c.Delivery.Endpoint = ""
	}
	if err := s.set(r, &st, c, whole); err != nil {
		return 0, nil, err
	}
	next := st
	st, err = s.change(ctx, "stream.updated", "receiver:"+r.Name, st.ID, next.public(), func(x *Stream) error {
		x.Method, x.Endpoint, x.Sealed, x.Requested, x.Description = next.Method, next.Endpoint, next.Sealed, next.Requested, next.Description
		return nil
	})
	s.forget(st.ID)
	return http.StatusOK, s.config(st), err
}

// forget makes a stream be read again from its cursor.
func (s *Sender) forget(id string) {
	l := s.of(id)
	l.Lock()
	l.Again()
	l.Unlock()
}

type standing struct {
	ID     string `json:"stream_id"`
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

func (st Stream) standing() standing { return standing{st.ID, st.Status, st.Reason} }

// setStatus: what ends while a stream is paused waits; while it is disabled it is
// not sent, also later.
func (s *Sender) setStatus(ctx context.Context, r Receiving, body []byte) (int, any, error) {
	var in standing
	if err := read(body, &in); err != nil {
		return 0, nil, err
	}
	if !slices.Contains([]string{enabled, paused, disabled}, in.Status) || len(in.Reason) > maxID {
		return 0, nil, &fault{400, "status: want enabled, paused or disabled, and a short reason"}
	}
	st, err := s.stream(ctx, r, in.ID)
	if err != nil {
		return 0, nil, err
	}
	head, err := s.Head(ctx)
	if err != nil {
		return 0, nil, err
	}
	st, err = s.change(ctx, "stream.status", "receiver:"+r.Name, st.ID, in, func(x *Stream) error {
		if x.Status == disabled && in.Status != disabled {
			x.Next = max(x.Next, head)
		}
		x.Status, x.Reason = in.Status, in.Reason
		return nil
	})
	return http.StatusOK, st.standing(), err
}

// verify asks for a verification event. It is derived from its record, as every
// event is.
func (s *Sender) verify(ctx context.Context, r Receiving, body []byte) (int, any, error) {
	var in struct {
		ID    string `json:"stream_id"`
		State string `json:"state"`
	}
	if err := read(body, &in); err != nil {
		return 0, nil, err
	}
	if len(in.State) > 1024 {
		return 0, nil, &fault{400, "state: want at most 1024 bytes"}
	}
	st, err := s.stream(ctx, r, in.ID)
	if err != nil {
		return 0, nil, err
	}
	_, err = s.change(ctx, "stream.verify", "receiver:"+r.Name, st.ID, map[string]any{"stream": st.ID, "verify": in.State}, func(x *Stream) error {
		if time.Since(x.Verified) < verifyEvery {
			return &fault{429, "verification was asked for less than min_verification_interval ago"}
		}
		x.Verified = time.Now().UTC()
		return nil
	})
	return http.StatusNoContent, nil, err
}

func (s *Sender) polled(ctx context.Context, r Receiving, id string, body []byte) (int, any, error) {
	st, err := s.stream(ctx, r, id)
	if err != nil {
		return 0, nil, err
	}
	if st.Method != poll {
		return 0, nil, &fault{400, "the stream is pushed"}
	}
	var a asked
	if err := read(body, &a); err != nil {
		return 0, nil, err
	}
	v, err := s.answer(ctx, r, id, a)
	return http.StatusOK, v, err
}
