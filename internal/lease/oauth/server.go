package oauth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease/rest"
)

const (
	maxAnswer   = 64 << 10        // bytes of an answer
	metadataAge = 5 * time.Minute // how long metadata is believed
	// metadataLimit bounds one question for it.
	metadataLimit = 20 * time.Second
	// ShortLife is how long a token may live that nobody can end.
	ShortLife = 5 * time.Minute
)

// Server is one authorization server, known by its issuer.
type Server struct {
	issuer string
	client *http.Client

	mu       sync.Mutex // never held while the server is asked
	meta     metadata
	read     time.Time
	question *question // that is under way
}

// question is one for the metadata. Whoever comes while it is under way waits for its
// answer, and no longer than its own time.
type question struct {
	done chan struct{} // closed once meta and err are set
	meta metadata
	err  error
}

// NewServer names a server. The client must not follow redirects, and is given none
// to follow.
func NewServer(issuer string, c *http.Client) (*Server, error) {
	if err := CheckURL(issuer, issuer); err != nil {
		return nil, err
	}
	own := *c
	own.Jar, own.CheckRedirect = nil, func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Server{issuer: issuer, client: &own}, nil
}

// metadata is RFC 8414 section 2, as far as it is used.
type metadata struct {
	Issuer        string `json:"issuer"`
	Token         string `json:"token_endpoint"`
	Revocation    string `json:"revocation_endpoint"`
	Introspection string `json:"introspection_endpoint"`
}

// CheckURL refuses an address of a server that secrets must not be sent to: without
// TLS it may be on this machine only, and then so is the issuer.
func CheckURL(text, issuer string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || text == issuer && (u.RawQuery != "" || u.ForceQuery) {
		return errors.New("want https://host[:port][/path]")
	}
	i, err := url.Parse(issuer)
	if u.Scheme == "https" || err == nil && u.Scheme == "http" && i.Scheme == "http" && loopback(u.Hostname()) && loopback(i.Hostname()) {
		return nil
	}
	return errors.New("want https: secrets are sent there")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// wellKnown are the places of metadata: RFC 8414 section 3.1, OpenID Connect
// Discovery 1.0 section 4.
func wellKnown(issuer string) []string {
	u, _ := url.Parse(issuer) // CheckURL did
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	base := u.Scheme + "://" + u.Host
	return []string{base + "/.well-known/oauth-authorization-server" + path, base + path + "/.well-known/openid-configuration"}
}

// metadata is what the server says of itself, if it says that it is the declared one.
func (s *Server) metadata(ctx context.Context) (metadata, error) {
	s.mu.Lock()
	if age := time.Since(s.read); s.meta.Token != "" && age >= 0 && age < metadataAge {
		defer s.mu.Unlock()
		return s.meta, nil
	}
	q := s.question
	if q == nil {
		q = &question{done: make(chan struct{})}
		s.question = q
		go s.answer(q)
	}
	s.mu.Unlock()
	var err error
	select {
	case <-q.done:
		err = q.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return metadata{}, fmt.Errorf("metadata of %s: %w", s.issuer, err)
	}
	return q.meta, nil
}

// answer is given time of its own: the first who asks is not the only one.
func (s *Server) answer(q *question) {
	ctx, cancel := context.WithTimeout(context.Background(), metadataLimit)
	defer cancel()
	q.meta, q.err = s.discover(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.question = nil; q.err == nil {
		s.meta, s.read = q.meta, time.Now()
	}
	close(q.done)
}

func (s *Server) discover(ctx context.Context) (m metadata, err error) {
	for _, at := range wellKnown(s.issuer) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
		if err != nil {
			return m, err
		}
		r.Header.Set("Accept", "application/json")
		m = metadata{}
		_, err = s.do(r, nil, &m)
		if e, ok := errors.AsType[*Error](err); ok && e.Status == http.StatusNotFound {
			continue
		}
		if err != nil {
			return m, err
		}
		if m.Issuer != s.issuer {
			return m, fmt.Errorf("%s says that its issuer is %s (RFC 8414 section 3.3)", at, word(m.Issuer))
		}
		if m.Token == "" {
			return m, errors.New("there is no token_endpoint in it")
		}
		for name, e := range map[string]string{"token_endpoint": m.Token, "revocation_endpoint": m.Revocation, "introspection_endpoint": m.Introspection} {
			if err := CheckURL(e, s.issuer); e != "" && err != nil {
				return m, fmt.Errorf("%s: %w", name, err)
			}
		}
		return m, nil
	}
	return m, errors.New("there is none, neither of OAuth (RFC 8414) nor of OpenID Connect")
}

// Check says why the tokens of a server could not be ended with their tasks: before
// any is issued.
func (s *Server) Check(ctx context.Context, life time.Duration, probe bool) error {
	m, err := s.metadata(ctx)
	switch {
	case err != nil:
		return err
	case life <= ShortLife:
		return nil
	case m.Revocation == "":
		return fmt.Errorf("%s has no revocation endpoint (RFC 7009): its tokens work for as long as they live; declare lifeSeconds of at most %d, and have the server give no longer ones", s.issuer, ShortLife/time.Second)
	case m.Introspection == "" && !probe:
		return fmt.Errorf("%s has no introspection endpoint (RFC 7662), so that nobody can be asked whether a token is dead: declare a probe, or lifeSeconds of at most %d", s.issuer, ShortLife/time.Second)
	}
	return nil
}

// Error is what a server answered instead of what was asked for.
type Error struct {
	Status int
	Code   string // `error` of RFC 6749 section 5.2
	Says   string // error_description, without what was sent
}

func (e *Error) Error() string {
	text := fmt.Sprintf("the server answered %d", e.Status)
	if e.Status >= 300 && e.Status < 400 {
		return text + ": a redirect, which is not followed"
	}
	if e.Code != "" {
		text += " " + e.Code
	}
	if e.Says != "" {
		text += ": " + e.Says
	}
	return text
}

// post sends a form. secrets are what no error may repeat.
func (s *Server) post(ctx context.Context, endpoint string, header http.Header, form url.Values, secrets []string, out any) (sent bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return false, err
	}
	r.Header = header
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	r.GetBody = nil // sent once
	return s.do(r, secrets, out)
}

func (s *Server) do(r *http.Request, secrets []string, out any) (sent bool, err error) {
	var connected atomic.Bool
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}))
	resp, err := s.client.Do(r)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the address, which could carry something
		}
		return connected.Load(), err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return true, fmt.Errorf("read answer: %w", err)
	}
	if len(body) > maxAnswer {
		return true, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	if resp.StatusCode != http.StatusOK && (out != nil || resp.StatusCode != http.StatusNoContent) {
		return true, failure(resp.StatusCode, body, secrets)
	}
	if out == nil {
		return true, nil
	}
	if m, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || m != "application/json" {
		return true, errors.New("the answer is no JSON")
	}
	if json.Unmarshal(body, out) != nil { // whose error would quote it
		return true, errors.New("the answer cannot be read")
	}
	return true, nil
}

func failure(status int, body []byte, secrets []string) *Error {
	var said struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	_ = json.Unmarshal(body, &said) // what is no such answer has no words either
	clean := func(text string) string { return word(rest.Without(text, secrets...)) }
	return &Error{status, clean(said.Error), clean(said.Description)}
}

// word makes text of a server fit for a line of a log.
func word(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return s
}

// basic is RFC 6749 section 2.3.1: both are form-encoded first.
func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
}
