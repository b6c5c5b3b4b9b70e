package mcp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

const (
	measureTimeout = 15 * time.Second
	leaveTimeout   = 2 * time.Second
	maxAnswer      = 4 << 20  // bytes of one answer, a stream of events as a whole
	maxPages       = 20       // of a list
	maxTools       = 512      // of a server
	maxDefinition  = 64 << 10 // bytes of a declared tool's
	maxSession     = 256      // bytes of a session's id
)

// put puts credentials into a request.
type put func(*http.Request) error

// upstream is the way to one server, for one task.
type upstream struct {
	Server
	client  *http.Client
	timeout time.Duration
	redact  func([]byte) []byte
	ids     atomic.Int64 // of requests: none is used twice

	mu   sync.Mutex
	seen *sight // the last one
}

// session is what a handshake settled. Each look has one of its own, so that who
// answers is measured each time, and nobody else has it.
type session struct {
	version string
	id      string
	name    string // what it calls itself
	server  string // the same with its version and the protocol's, for people
	peer    string // who vouched for it; "" without TLS
}

// newUpstream makes the way. verify measures who answers, before the handshake ends.
func newUpstream(x Server, timeout time.Duration, redact func([]byte) []byte, verify func(tls.ConnectionState) error) *upstream {
	return &upstream{Server: x, timeout: timeout, redact: redact, client: &http.Client{
		// No proxy of the environment, no compression, no redirect: what is read is
		// what the declared server sent.
		Transport: &http.Transport{DialContext: x.Dial, TLSClientConfig: &tls.Config{RootCAs: x.Roots, MinVersion: tls.VersionTLS12, VerifyConnection: verify}, ForceAttemptHTTP2: true,
			DisableCompression: true, TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: time.Minute, MaxConnsPerHost: 16},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Peer is who vouches for a server, by a handshake and no request; "" if it has no TLS.
func Peer(ctx context.Context, x Server) (string, error) {
	at, err := url.Parse(x.URL)
	if err != nil || at.Scheme != "https" {
		return "", err
	}
	port := at.Port()
	if port == "" {
		port = "443"
	}
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	dial := x.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", net.JoinHostPort(at.Hostname(), port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	c := tls.Client(conn, &tls.Config{RootCAs: x.Roots, MinVersion: tls.VersionTLS12, ServerName: at.Hostname()})
	if err := c.HandshakeContext(ctx); err != nil {
		return "", err
	}
	state := c.ConnectionState()
	return peerOf(&state), nil
}

// peerOf is the public key of the root that vouched for who answers, or "" without TLS.
func peerOf(c *tls.ConnectionState) string {
	if c == nil || len(c.VerifiedChains) == 0 {
		return ""
	}
	chain := c.VerifiedChains[0]
	return string(canon.Digest(chain[len(chain)-1].RawSubjectPublicKeyInfo))
}

// Errors of a server. Their text is for people and repeats nothing of it.
var (
	errUnread  = errors.New("its answer cannot be read as one of the protocol")
	errAsks    = errors.New("it asks something itself, which nobody here answers")
	errLate    = errors.New("no whole answer came in time")
	errLarge   = errors.New("its answer is larger than is read")
	errSession = errors.New("it knows the session no more")
	errUnknown = errors.New("it speaks no version of the protocol that is spoken here")
	errDrift   = errors.New("it is not the one that was certified")
	errNotSent = errors.New("it cannot be reached")
)

// statusError is an answer without a message of the protocol.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("it answers with status %d", int(e)) }

// rpcError is a server's own error.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *rpcError) Error() string { return fmt.Sprintf("it answers with error %d", e.Code) }

// greet settles version, identity and session anew: without initialize first, as
// servers of the newest version want it.
func (u *upstream) greet(ctx context.Context, se *session, p put) error {
	*se = session{version: stateless}
	raw, err := u.ask(ctx, se, "server/discover", "", map[string]any{}, p)
	if err == nil {
		var d struct {
			Versions []string               `json:"supportedVersions"`
			Meta     map[string]canon.Value `json:"_meta"`
		}
		if canon.UnmarshalOpen(raw, maxAnswer, &d) == nil && slices.Contains(d.Versions, stateless) {
			return u.identify(se, d.Meta[metaServer])
		}
	}
	if errors.Is(err, errNotSent) || errors.Is(err, errDrift) || ctx.Err() != nil {
		return err
	}
	*se = session{version: latest}
	raw, err = u.ask(ctx, se, "initialize", "", map[string]any{"protocolVersion": latest, "capabilities": map[string]any{}, "clientInfo": self}, p)
	if err != nil {
		return err
	}
	var i struct {
		Version string      `json:"protocolVersion"`
		Server  canon.Value `json:"serverInfo"`
	}
	if canon.UnmarshalOpen(raw, maxAnswer, &i) != nil {
		return errUnread
	}
	if !slices.Contains(append([]string{"2025-03-26"}, initialized...), i.Version) {
		return errUnknown
	}
	se.version = i.Version
	if err := u.identify(se, i.Server); err != nil {
		return err
	}
	_, err = u.exchange(ctx, se, map[string]any{"jsonrpc": "2.0", "method": "notifications/initialized"}, "notifications/initialized", "", p)
	return err
}

// identify reads who a server says it is.
func (u *upstream) identify(se *session, raw canon.Value) error {
	var who struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	if len(raw) > 0 && canon.UnmarshalOpen(raw, maxAnswer, &who) != nil {
		return errUnread
	}
	se.name = who.Name
	se.server = u.plain(who.Name) + " " + u.plain(who.Version) + ", protocol " + se.version
	return nil
}

// ask sends a request and returns its result.
func (u *upstream) ask(ctx context.Context, se *session, method, name string, params map[string]any, p put) (canon.Value, error) {
	if se.version == stateless {
		params["_meta"] = map[string]any{metaVersion: stateless, metaClient: self, metaCapabilities: map[string]any{}}
	}
	result, err := u.exchange(ctx, se, map[string]any{"jsonrpc": "2.0", "id": u.ids.Add(1), "method": method, "params": params}, method, name, p)
	if errors.Is(err, errUnread) && ctx.Err() != nil {
		err = errLate
	}
	return result, err
}

// exchange is one HTTP request.
func (u *upstream) exchange(ctx context.Context, se *session, doc map[string]any, method, name string, p put) (canon.Value, error) {
	body, err := canon.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	r, touched, err := u.request(ctx, http.MethodPost, body, se, p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	if method == "initialize" {
		r.Header.Del("Mcp-Protocol-Version")
	}
	if se.version == stateless {
		r.Header.Set("Mcp-Method", method)
		if name != "" {
			r.Header.Set("Mcp-Name", name)
		}
	}
	resp, err := u.client.Do(r)
	switch {
	case errors.Is(err, errDrift): // in the handshake
		return nil, errDrift
	case err != nil && !touched.Load():
		return nil, errNotSent
	case err != nil:
		return nil, errUnread
	}
	defer resp.Body.Close()
	se.peer = peerOf(resp.TLS)
	id, asked := doc["id"].(int64)
	if !asked {
		if resp.StatusCode >= 300 {
			return nil, statusError(resp.StatusCode)
		}
		return nil, nil
	}
	return read(se, resp, method, id)
}

// request is one to the server, with the credentials. touched says that there was a
// connection for it.
func (u *upstream) request(ctx context.Context, method string, body []byte, se *session, p put) (r *http.Request, touched *atomic.Bool, err error) {
	touched = &atomic.Bool{}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { touched.Store(true) }})
	if r, err = http.NewRequestWithContext(ctx, method, u.URL, bytes.NewReader(body)); err != nil {
		return nil, nil, err
	}
	r.GetBody = nil // nothing is sent twice
	r.Header = http.Header{"Accept-Encoding": {"identity"}, "User-Agent": {"sallyport"}, "Mcp-Protocol-Version": {se.version}}
	if se.id != "" {
		r.Header.Set("Mcp-Session-Id", se.id)
	}
	if p != nil && p(r) != nil {
		return nil, nil, errors.New("credentials")
	}
	return r, touched, nil
}

// leave ends the session, if the server has one and lets us.
func (u *upstream) leave(ctx context.Context, se *session, p put) {
	if se.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	r, _, err := u.request(ctx, http.MethodDelete, nil, se, p)
	if err != nil {
		return
	}
	if resp, err := u.client.Do(r); err == nil {
		resp.Body.Close()
	}
}

// read takes the one answer out of a response.
func read(se *session, resp *http.Response, method string, id int64) (canon.Value, error) {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusNotFound && se.id != "":
		return nil, errSession
	case resp.Header.Get("Content-Encoding") != "" && resp.Header.Get("Content-Encoding") != "identity":
		return nil, errUnread
	case resp.StatusCode >= 400 && kind == "application/json": // with an error of the protocol, perhaps
	case resp.StatusCode != http.StatusOK:
		return nil, statusError(resp.StatusCode)
	}
	if method == "initialize" {
		name := resp.Header.Get("Mcp-Session-Id")
		if len(name) > maxSession || strings.ContainsFunc(name, func(r rune) bool { return r < '!' || r > '~' }) {
			return nil, errUnread
		}
		se.id = name
	}
	body := &limited{r: resp.Body, left: maxAnswer}
	switch kind {
	case "application/json":
		b, err := io.ReadAll(body)
		if err != nil {
			return nil, err
		}
		result, _, err := one(b, id)
		if err != nil && resp.StatusCode != http.StatusOK {
			if rpc := (*rpcError)(nil); errors.As(err, &rpc) {
				return nil, rpc
			}
			return nil, statusError(resp.StatusCode)
		}
		return result, err
	case "text/event-stream":
		return events(body, id)
	}
	return nil, errUnread
}

// one reads a message of a server, which should answer the request of that id. again says that it is a notification, and the
// answer comes after it.
func one(b []byte, id int64) (result canon.Value, again bool, err error) {
	var m struct {
		JSONRPC string      `json:"jsonrpc"`
		ID      canon.Value `json:"id"`
		Method  string      `json:"method"`
		Result  canon.Value `json:"result"`
		Error   *rpcError   `json:"error"`
	}
	if canon.UnmarshalOpen(b, maxAnswer, &m) != nil || m.JSONRPC != "2.0" {
		return nil, false, errUnread
	}
	switch {
	case m.Method != "" && len(m.ID) == 0:
		return nil, true, nil
	case m.Method == "ping":
		return nil, true, nil
	case m.Method != "":
		return nil, false, errAsks
	case m.Error != nil && m.Result == nil: // of a request that it could not read, without id
		return nil, false, m.Error
	case string(m.ID) != strconv.FormatInt(id, 10) || m.Result == nil || m.Error != nil:
		return nil, false, errUnread
	}
	return m.Result, false, nil
}

// limited is a reader that fails beyond its limit, where io.LimitReader ends.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errLarge
	}
	if err != nil && err != io.EOF {
		err = errUnread
	}
	return n, err
}
