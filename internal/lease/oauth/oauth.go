// Package oauth leases access tokens of an authorization server (RFC 6749): one
// for each task, asked for anew before it expires, and revoked with the task.
//
// A token has no label at its server. What is known of it is its text, and how long
// it lives at most:
//   - Revoke hands the text to the revocation endpoint (RFC 7009). Confirm asks the
//     introspection endpoint (RFC 7662), and the application, if a probe is declared.
//     An application that reads signed tokens by itself may take one for as long as
//     it lives: its probe tells.
//   - What no endpoint can end or tell of ends by itself: until its life is over it is
//     not confirmed, and no alarm (lease.Lasting). Server.Check refuses such a server
//     unless that life is short.
//   - A server that calls a token inactive when it is new, or cannot be asked then, is
//     not believed when it calls that token inactive at its end.
//   - A token whose answer was lost is one that nobody has. It is over when the longest
//     life that was taken from the server then is, counted from a minute after it was
//     asked for. Only then the label is confirmed.
//
// Not trusted: the server's metadata (its issuer must be the declared one, RFC 8414
// section 3.3), redirects (never followed), the size and the words of its answers, and
// a token that is of another type, lives longer or says more than was asked for: that
// one is given back with an error, to be revoked and never used. If it does not say
// how long it lives, it is taken to live for ever.
//
// A crash leaves nothing but what the keeper's records say.
package oauth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease"
)

// Grant is how a token is asked for.
type Grant string

// The grants.
const (
	ClientCredentials Grant = "client_credentials" // RFC 6749 section 4.4
	TokenExchange     Grant = "token_exchange"     // RFC 8693
)

// Config says who asks for what. Exactly one of Assertion and Secret is given.
type Config struct {
	Server   *Server
	Grant    Grant
	ClientID string
	// Assertion authenticates by private_key_jwt (RFC 7523): a new one for each
	// request, for the server's issuer or the endpoint that is asked.
	Assertion func(ctx context.Context, label, endpoint string) (string, error)
	// Secret authenticates by client_secret_basic.
	Secret func(ctx context.Context) ([]byte, error)
	// Subject is the token that is exchanged: a JWT for the server's issuer.
	Subject  func(ctx context.Context, task, agent string) (string, error)
	Scope    []string
	Resource []string // RFC 8707
	// Life is the longest that is taken.
	Life time.Duration
	// Probe asks the application with a token, and returns nil if it is refused.
	Probe func(ctx context.Context, token string) error
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Source is a client of one authorization server.
type Source struct{ Config }

var _ lease.Lasting = (*Source)(nil)

// New makes a source.
func New(c Config) *Source {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Source{c}
}

// held is the credential as it is sealed.
type held struct {
	Access  string    `json:"accessToken"`
	Refresh string    `json:"refreshToken,omitempty"` // never used, and ended too
	Expires time.Time `json:"expires"`
	// Unheard: the introspection endpoint did not call it active when it was new.
	Unheard bool `json:"unheard,omitempty"`
}

// Token is what a credential is put into requests as, and when it ends by itself.
func Token(credential []byte) (token string, expires time.Time, err error) {
	h, err := parse(credential)
	return h.Access, h.Expires, err
}

func parse(credential []byte) (h held, err error) {
	d := json.NewDecoder(bytes.NewReader(credential))
	d.DisallowUnknownFields()
	if d.Decode(&h) != nil || h.Access == "" || h.Expires.IsZero() {
		return held{}, errors.New("not a token of an authorization server")
	}
	return h, nil
}

// late is how long after it was asked a server may still issue a token.
const late = time.Minute

// skew is how much a server's clock may differ from ours.
const skew = 5 * time.Second

// wait is for how long a token may live that was asked for and never seen.
func (s *Source) wait() time.Duration { return late + s.Life + skew }

// Lasts says that nothing but time ends a token where an endpoint for it is missing.
// One that may live for longer than Server.Check lets such a token is not left to
// that: the server had the endpoint when the source was applied.
func (s *Source) Lasts(ctx context.Context, _ lease.Order) (over time.Time, alone bool, err error) {
	m, err := s.Server.metadata(ctx)
	if err != nil {
		return time.Time{}, false, err
	}
	alone = s.Life <= ShortLife && (m.Revocation == "" || m.Introspection == "" && s.Probe == nil)
	return s.Now().Add(s.wait()), alone, nil
}

// Issue asks for a token.
func (s *Source) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	m, err := s.Server.metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	form := url.Values{"grant_type": {string(s.Grant)}}
	if s.Grant == TokenExchange {
		subject, err := s.Subject(ctx, o.Task, o.Agent)
		if err != nil {
			return nil, fmt.Errorf("%w: subject token: %w", lease.ErrNotIssued, err)
		}
		form = url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {subject},
			"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"}, "requested_token_type": {typeAccess}}
	}
	if len(s.Scope) > 0 {
		form.Set("scope", strings.Join(s.Scope, " "))
	}
	form["resource"] = slices.Clone(s.Resource)
	asked := s.Now()
	var got answer
	sent, err := s.ask(ctx, m.Token, o.Label, form, &got)
	if err != nil && got.Access == "" {
		if said, refused := errors.AsType[*Error](err); !sent || refused && said.Status < 500 {
			err = fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
		}
		return nil, err
	}
	if got.Access == "" {
		return nil, errors.New("the token endpoint answered without a token")
	}
	// From here on it exists: with an error goes what ends it.
	h := held{Access: got.Access, Refresh: got.Refresh, Expires: asked.Add(got.life()).UTC()}
	unfit := cmp.Or(err, s.fits(got)) // of an answer that could be read in part, too
	// A server that calls a token inactive while it lives, as some do to a client that
	// it does not take for the token's, would call it inactive at its end as well.
	if m.Introspection != "" {
		alive, err := s.active(ctx, m.Introspection, o.Label, got.Access)
		if err == nil && !alive {
			err = errors.New("the server says that a token which it has just given is inactive, so its word on the end would mean nothing")
		}
		h.Unheard, unfit = err != nil, cmp.Or(unfit, err)
	}
	credential, err := json.Marshal(h)
	return credential, cmp.Or(err, unfit)
}

const typeAccess = "urn:ietf:params:oauth:token-type:access_token"

// answer is RFC 6749 section 5.1, with RFC 8693 section 2.2.1.
type answer struct {
	Access  string          `json:"access_token"`
	Refresh string          `json:"refresh_token"`
	Type    string          `json:"token_type"`
	Issued  string          `json:"issued_token_type"`
	Expires json.RawMessage `json:"expires_in"` // of any form, so that none loses the token
	Scope   string          `json:"scope"`
}

// forever is how long a token lives that does not say it in seconds, or in more than
// can be counted here.
const forever = time.Duration(math.MaxInt64)

func (a answer) life() time.Duration {
	n, err := strconv.ParseInt(string(a.Expires), 10, 64)
	if err != nil || n <= 0 || n > int64(forever/time.Second) {
		return forever
	}
	return time.Duration(n) * time.Second
}

// b64token is RFC 6750 section 2.1.
var b64token = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// A token that is shorter could not be told from other text in what comes back; one
// that lives for less than may be declared would be asked for more often than helps.
const (
	shortestToken = 8 // bytes
	shortestLife  = 10 * time.Second
)

func (s *Source) fits(a answer) error {
	switch life := a.life(); {
	case !strings.EqualFold(a.Type, "Bearer"):
		return fmt.Errorf("the token is of type %s, want Bearer", word(a.Type))
	case !b64token.MatchString(a.Access):
		return errors.New("the token has a character that no header field carries")
	case len(a.Access) < shortestToken:
		return fmt.Errorf("the token has %d bytes, too few to be found in what comes back: want at least %d", len(a.Access), shortestToken)
	case s.Grant == TokenExchange && a.Issued != typeAccess:
		return fmt.Errorf("the exchange gave a token of type %s, want %s", word(a.Issued), typeAccess)
	case life == forever:
		return errors.New("the server does not say, in seconds, how long the token lives: expires_in")
	case life < shortestLife:
		return fmt.Errorf("the token lives for %d s: have the server give ones of at least %d s", int64(life/time.Second), int64(shortestLife/time.Second))
	case life > s.Life:
		return fmt.Errorf("the token lives for %d s, and at most %d s are taken: lifeSeconds", int64(life/time.Second), int64(s.Life/time.Second))
	}
	for _, have := range strings.Fields(a.Scope) {
		if len(s.Scope) > 0 && !slices.Contains(s.Scope, have) {
			return fmt.Errorf("the token has the scope %s, which was not asked for", word(have))
		}
	}
	return nil
}

// Revoke ends the token, and what came with it.
func (s *Source) Revoke(ctx context.Context, c lease.Credential) error {
	if c.Secret == nil {
		return nil // Confirm waits for it
	}
	h, err := parse(c.Secret)
	if err != nil {
		return err
	}
	m, err := s.Server.metadata(ctx)
	if err != nil || m.Revocation == "" {
		return err
	}
	for _, t := range []struct{ token, hint string }{{h.Refresh, "refresh_token"}, {h.Access, "access_token"}} {
		if t.token == "" {
			continue
		}
		if _, err := s.ask(ctx, m.Revocation, c.Label, url.Values{"token": {t.token}, "token_type_hint": {t.hint}}, nil); err != nil {
			return err
		}
	}
	return nil
}

// Confirm asks the server, and the application if there is a probe.
func (s *Source) Confirm(ctx context.Context, c lease.Credential) error {
	if c.Secret == nil {
		over := c.Asked.Add(s.wait())
		if c.Lost.After(over) { // what is declared now may be shorter
			over = c.Lost
		}
		if !c.Asked.IsZero() && s.Now().Before(over) {
			return fmt.Errorf("the server may have issued a token that nobody received; it ends by itself at %s", over.UTC().Format(time.RFC3339))
		}
		return nil
	}
	h, err := parse(c.Secret)
	if err != nil {
		return err
	}
	m, err := s.Server.metadata(ctx)
	if err != nil {
		return err
	}
	if m.Introspection != "" {
		for _, t := range []string{h.Refresh, h.Access} {
			if t == "" {
				continue
			}
			if alive, err := s.active(ctx, m.Introspection, c.Label, t); err != nil {
				return err
			} else if alive {
				return errors.New("the server does not say that the token is inactive")
			}
		}
	}
	if s.Probe != nil {
		if err := s.Probe(ctx, h.Access); err != nil {
			return err
		}
	}
	if over := h.Expires.Add(skew); (m.Introspection == "" || h.Unheard) && s.Probe == nil && s.Now().Before(over) {
		return fmt.Errorf("nobody can be asked whether the token is dead, unless a probe is declared; it ends by itself at %s", over.Format(time.RFC3339))
	}
	return nil
}

// active asks whether a token is (RFC 7662); an answer that does not say counts as yes.
func (s *Source) active(ctx context.Context, endpoint, label, token string) (bool, error) {
	var says struct {
		Active *bool `json:"active"`
	}
	_, err := s.ask(ctx, endpoint, label, url.Values{"token": {token}}, &says)
	return says.Active == nil || *says.Active, err
}

// ask posts a form as the client and reads the answer into out. sent is false if
// nothing of it can have arrived.
func (s *Source) ask(ctx context.Context, endpoint, label string, form url.Values, out any) (sent bool, err error) {
	header := http.Header{"User-Agent": {"sallyport (" + label + ")"}}
	var secrets []string
	switch {
	case s.Assertion != nil:
		assertion, err := s.Assertion(ctx, label, endpoint)
		if err != nil {
			return false, fmt.Errorf("client assertion: %w", err)
		}
		form.Set("client_id", s.ClientID)
		form.Set("client_assertion", assertion)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	case s.Secret != nil:
		secret, err := s.Secret(ctx)
		if err != nil {
			return false, err
		}
		defer clear(secret)
		header.Set("Authorization", basic(s.ClientID, string(secret)))
		secrets = append(secrets, string(secret), strings.TrimPrefix(header.Get("Authorization"), "Basic "))
	default:
		return false, errors.New("the source has no means to authenticate")
	}
	for _, name := range []string{"client_assertion", "subject_token", "token"} {
		if v := form.Get(name); v != "" {
			secrets = append(secrets, v)
		}
	}
	return s.Server.post(ctx, endpoint, header, form, secrets, out)
}
