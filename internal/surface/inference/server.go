package inference

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/surface/local"
)

const (
	// DefaultMaxBody bounds a request, in bytes. It is below what the ledger
	// keeps as one payload: what cannot be recorded is not sent.
	DefaultMaxBody = 15 << 20
	// maxAnswer bounds an answer that is not a stream, in bytes.
	maxAnswer  = 32 << 20
	maxStream  = 256 << 20 // a stream, in bytes
	apiVersion = "2023-06-01"
	path       = "/v1/messages"
)

// Config is what one endpoint needs.
type Config struct {
	Tenant, Task, Agent string
	Gate                Gate
	Observer            Observer
	Key                 Key
	// Upstream is the provider's base URL, https without path or query, e.g.
	// https://api.anthropic.com. The operator is trusted with it.
	Upstream string
	// Roots verify the upstream; nil means the system's.
	Roots *x509.CertPool
	// Dial reaches the upstream; nil means the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Given says whether the harness has a tool's definition, word for word, from the
	// door to tools: such a one is measured there and not here. nil: it has none.
	Given func(name, description string, schema []byte) bool
	// Betas are the anthropic-beta values that the harness may send.
	Betas []string
	// MaxBody bounds a request in bytes; 0 means DefaultMaxBody.
	MaxBody int
}

// Server is the inference endpoint of one task.
type Server struct {
	c        Config
	upstream string // scheme://host[:port]
	client   *http.Client
	http     *http.Server
	kept     kept
}

// New makes the endpoint. It does not touch the network.
func New(c Config) (*Server, error) {
	if c.Tenant == "" || c.Task == "" || c.Agent == "" || c.Gate == nil || c.Observer == nil || c.Key == nil {
		return nil, errors.New("inference: incomplete configuration")
	}
	u, err := url.Parse(c.Upstream)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("inference: the upstream must be https://HOST[:PORT]")
	}
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	s := &Server{c: c, upstream: "https://" + u.Host, kept: kept{seen: map[action.Digest]bool{}}}
	s.client = &http.Client{
		// No proxy of the environment: the route is the operator's choice. No
		// compression: what is read is what was sent. No redirect is followed.
		Transport: &http.Transport{DialContext: c.Dial, TLSClientConfig: &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12, VerifyConnection: s.peer},
			DisableCompression: true, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
			ResponseHeaderTimeout: 10 * time.Minute, MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
	return s, nil
}

// Serve answers on l until Close. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("inference: serve: %w", err)
	}
	return nil
}

// peer measures who answers, when the certificate is verified and before the
// handshake ends: another peer than the certified one is sent nothing.
func (s *Server) peer(c tls.ConnectionState) error {
	if len(c.VerifiedChains) == 0 {
		return errors.New("the certificate was not verified")
	}
	chain := c.VerifiedChains[0]
	m := Measurement{Phase: AtConnect, Endpoint: s.upstream + path, Peer: string(canon.Digest(chain[len(chain)-1].RawSubjectPublicKeyInfo))}
	if s.c.Observer.Observe(context.Background(), m) != nil {
		return errDrift
	}
	return nil
}

// Close cuts every call.
func (s *Server) Close() error {
	err := s.http.Close()
	s.client.CloseIdleConnections()
	return err
}

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, why := s.read(w, r)
	var m measured
	if why == nil {
		m, why = readMessage(body, s.c.MaxBody, s.c.Given)
	}
	if why == nil {
		m.Betas, why = readBetas(r.Header, s.c.Betas)
	}
	if why != nil {
		s.malformed(r.Context(), why.code, body)
		writeError(w, why)
		return
	}
	if len(m.Betas) > 0 {
		m.Sampling["betas"] = list(m.Betas)
	}
	m.Endpoint = s.upstream + path
	m.url = m.Endpoint
	if r.URL.RawQuery != "" {
		m.url += "?beta=true"
	}
	s.call(w, r, m, body)
}

// read checks everything about a call that is not its document.
func (s *Server) read(w http.ResponseWriter, r *http.Request) ([]byte, *refusal) {
	if r.URL.IsAbs() || r.URL.Host != "" {
		return []byte(r.RequestURI), bad("absolute_request", "this endpoint is not a proxy")
	}
	if why := local.Refuse(r); why != nil {
		return []byte(path), &refusal{http.StatusForbidden, "permission_error", why.Code, why.Message}
	}
	switch {
	case r.URL.Path != path:
		return []byte(r.URL.Path), &refusal{http.StatusNotFound, "not_found_error", "unknown_path", "only POST " + path + " is served here"}
	case r.Method != http.MethodPost:
		return []byte(r.Method), &refusal{http.StatusMethodNotAllowed, "invalid_request_error", "wrong_method", "only POST is served here"}
	case r.URL.RawQuery != "" && r.URL.RawQuery != "beta=true":
		return []byte(r.URL.RawQuery), bad("bad_query", "the only query is beta=true")
	case r.Header.Get("Content-Encoding") != "":
		return []byte(path), bad("bad_encoding", "the body must not be encoded")
	}
	if v := r.Header.Values("Anthropic-Version"); len(v) > 1 || len(v) == 1 && v[0] != apiVersion {
		return []byte(path), bad("bad_version", "anthropic-version is %s", apiVersion)
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return []byte(path), bad("wrong_type", "the body must be application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(s.c.MaxBody)))
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return body, &refusal{http.StatusRequestEntityTooLarge, "request_too_large", "too_large", fmt.Sprintf("the request is larger than %d bytes", s.c.MaxBody)}
	}
	if err != nil {
		return body, bad("unreadable", "the body could not be read")
	}
	return body, nil
}

func (s *Server) action(op string, e action.Effect) action.Action {
	return action.Action{Tenant: s.c.Tenant, Task: s.c.Task, Agent: s.c.Agent, Surface: action.Inference, Source: "harness",
		Operation: "inference." + op, Effect: e, Params: map[string]string{}}
}

// malformed records, through the gate, an attempt that has no canonical form.
func (s *Server) malformed(ctx context.Context, code string, raw []byte) {
	a := s.action("malformed", action.Irreversible)
	a.Params["why"] = code
	a.Digest = canon.Digest(raw)
	s.c.Gate.Act(ctx, a, nil, func(context.Context, gate.Permit) action.Outcome {
		return action.Outcome{State: action.Failed, Detail: "malformed"}
	})
}

// form is what is decided and sent.
type form struct {
	URL   string        `json:"url"`
	Betas []string      `json:"betas"`
	Body  action.Digest `json:"body"`
}

func (f form) digest() action.Digest {
	d, err := canon.DigestOf(f)
	if err != nil {
		return "" // matches nothing
	}
	return d
}

// call measures, asks the gate and, inside the dispatch, sends and answers.
func (s *Server) call(w http.ResponseWriter, r *http.Request, m measured, body []byte) {
	a := s.action("messages", action.Read)
	for k, v := range map[string]string{"model": m.Model, "systemDigest": string(m.SystemDigest), "toolsDigest": string(m.ToolsDigest),
		"sampling": m.SamplingText(), "endpoint": m.Endpoint, "stream": strconv.FormatBool(m.stream),
		"maxTokens": strconv.FormatInt(m.maxTokens, 10), "betas": strings.Join(m.Betas, ","), "bodyDigest": string(canon.Digest(body))} {
		a.Params[k] = v
	}
	a.Digest = form{m.url, m.Betas, canon.Digest(body)}.digest()

	// Before the gate: a drift that is found here has lapsed the certification
	// when the gate looks. The call is recorded in either case.
	drift := s.c.Observer.Observe(r.Context(), m.Measurement)
	ex := &exchange{s: s, w: w, m: m, body: body}
	evidence, fresh := s.kept.shorten(body)
	res := s.c.Gate.Act(r.Context(), a, []record.Blob{{Name: "request-body", Type: "application/json", Data: evidence}},
		func(ctx context.Context, p gate.Permit) action.Outcome {
			if drift != nil {
				ex.refuse(drifted)
				return action.Outcome{State: action.Failed, Detail: "not sent: " + drifted.code}
			}
			if err := p.Consume(form{m.url, m.Betas, canon.Digest(body)}.digest()); err != nil {
				return action.Outcome{State: action.Failed, Detail: err.Error()}
			}
			return ex.send(ctx)
		})
	if res.Seq >= 0 {
		s.kept.recorded(fresh)
	}
	if ex.started {
		return
	}
	if res.Outcome == nil {
		d := res.Decision
		text := "sallyport: " + d.Code + " (" + string(d.Layer) + "): " + d.Reason
		if d.Next != "" {
			text += ". Next: " + d.Next
		}
		writeError(w, &refusal{http.StatusForbidden, "permission_error", d.Code, text})
		return
	}
	writeError(w, &refusal{http.StatusForbidden, "permission_error", "not_dispatched", "sallyport: " + res.Outcome.Detail})
}

var drifted = &refusal{http.StatusForbidden, "permission_error", "drift",
	"sallyport: drift: the model, prompt or tools are not those that were certified. Next: re-certify the agent"}

// errorBody is the provider's error shape. The code is ours.
func errorBody(why *refusal) []byte {
	b, err := json.Marshal(map[string]any{"type": "error", "error": map[string]string{"type": why.kind, "message": why.message, "code": why.code}})
	if err != nil {
		panic("sallyport: internal error: " + err.Error())
	}
	return b
}

func writeError(w http.ResponseWriter, why *refusal) {
	w.Header().Set("Content-Type", "application/json")
	// Official clients retry some statuses by themselves; a refusal is final.
	w.Header().Set("X-Should-Retry", "false")
	w.WriteHeader(why.status)
	_, _ = w.Write(errorBody(why)) // the only error left is a client that went away
}
