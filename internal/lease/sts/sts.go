// Package sts leases sessions of a role in a cloud, by AssumeRoleWithWebIdentity of
// AWS STS or of who speaks its protocol: the task's own JWT-SVID for a session.
//
// Invariants:
//   - No key of the cloud is kept: the cloud believes the boundary's issuer.
//   - A session can do at most what the declared session policy and the role allow.
//     It is named by the label, which the cloud's own audit log has.
//   - A session cannot be ended by anybody who may do no more than use it. The lease
//     says until when it lasts, from before it is asked for; its use in the boundary
//     ends with the task.
//   - Ended means: the cloud was asked with the session and said that it is over.
//   - A session that is not what was asked for is never used. It is given back with the
//     error, and in sight, as an alarm, for as long as the cloud takes it.
//
// A crash between request and record leaves a session whose answer was lost: nobody
// holds it, it cannot be found, and it is over when its lease says.
package sts

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/rest"
)

// Config says whom to ask, and for what.
type Config struct {
	Endpoint string // https://HOST[:PORT]
	HTTP     *http.Client
	RoleARN  string
	Policy   string // JSON
	Max      time.Duration
	// Token makes the JWT-SVID of an order's task.
	Token func(ctx context.Context, o lease.Order) (string, error)
	// Sign signs a request to STS with a session, in the region.
	Sign func(ctx context.Context, r *http.Request, body, session []byte, now time.Time) error
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Limits of STS: the shortest session, and of a name.
const (
	Shortest  = 15 * time.Minute
	maxAnswer = 1 << 20
)

// Source is a lease.Source. It holds nothing between calls.
type Source struct{ c Config }

var _ lease.Lasting = (*Source)(nil)

// New makes a source. It does not touch the network.
func New(c Config) *Source {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Source{c}
}

// Session is what is sealed, in the form that door 2 reads.
type session struct {
	AccessKeyID  string    `json:"accessKeyId"`
	SecretKey    string    `json:"secretAccessKey"`
	SessionToken string    `json:"sessionToken"`
	Expires      time.Time `json:"expiration"`
}

var labels = regexp.MustCompile(`^sallyport-[0-9a-z-]{8,53}$`)

// life is how long a session is asked for: as long as the task may take.
func (s *Source) life(o lease.Order) time.Duration {
	return max(Shortest, o.Expires.Sub(s.c.Now()).Round(time.Second))
}

// answerLimit is by how much later than asked for a session may begin.
const answerLimit = time.Minute

// Lasts is when the session of an order, asked for now, is over: by time alone.
func (s *Source) Lasts(_ context.Context, o lease.Order) (over time.Time, alone bool, err error) {
	return s.limit(o), true, nil
}

func (s *Source) limit(o lease.Order) time.Time { return s.c.Now().Add(s.life(o) + answerLimit) }

// Issue assumes the role.
func (s *Source) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	never := func(err error) ([]byte, error) { return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err) }
	life := s.life(o)
	switch {
	case !labels.MatchString(o.Label):
		return never(errors.New("the label has another form"))
	case life > s.c.Max:
		return never(fmt.Errorf("the task may take %s and a session lives %s at most: shorten the capability, or raise maxSeconds and the role's MaxSessionDuration", life, s.c.Max))
	}
	token, err := s.c.Token(ctx, o)
	if err != nil {
		return never(err)
	}
	form := url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {s.c.RoleARN}, "RoleSessionName": {o.Label},
		"WebIdentityToken": {token}, "DurationSeconds": {strconv.Itoa(int(life.Seconds()))}, "Policy": {s.c.Policy}}
	var a struct {
		C struct {
			AccessKeyID  string `xml:"AccessKeyId"`
			SecretKey    string `xml:"SecretAccessKey"`
			SessionToken string `xml:"SessionToken"`
			Expires      string `xml:"Expiration"` // of any form, so that none loses the session
		} `xml:"AssumeRoleWithWebIdentityResult>Credentials"`
	}
	if err := s.ask(ctx, form, nil, &a); err != nil {
		if e, ok := errors.AsType[*refusal](err); ok && e.Status < 500 {
			return never(fmt.Errorf("assume %s: %w", s.c.RoleARN, err))
		}
		return nil, fmt.Errorf("assume %s: %w", s.c.RoleARN, err)
	}
	if a.C.AccessKeyID == "" || a.C.SecretKey == "" || a.C.SessionToken == "" {
		return nil, errors.New("the answer has no session")
	}
	// From here on it exists: with an error goes what Confirm asks with.
	expires, unfit := time.Parse(time.RFC3339, a.C.Expires)
	if unfit != nil {
		unfit = errors.New("the answer does not say when the session ends")
	} else if expires.After(s.limit(o)) {
		unfit = fmt.Errorf("the session lives until %s, longer than was asked for", expires.Format(time.RFC3339))
	}
	out, err := json.Marshal(session{a.C.AccessKeyID, a.C.SecretKey, a.C.SessionToken, expires})
	return out, cmp.Or(err, unfit)
}

// Revoke has nothing to do: no call ends one session alone.
func (s *Source) Revoke(context.Context, lease.Credential) error { return nil }

// Confirm asks who the session is, which needs no permission, and wants to hear that
// it is over. A session that nobody knows is over by the clock.
func (s *Source) Confirm(ctx context.Context, c lease.Credential) error {
	if c.Secret == nil {
		if !c.Asked.IsZero() && s.c.Now().Before(c.Lost) {
			return errors.New("a session whose answer was lost may live until its time")
		}
		return nil
	}
	err := s.ask(ctx, url.Values{"Action": {"GetCallerIdentity"}, "Version": {"2011-06-15"}}, c.Secret, nil)
	if err == nil {
		return errors.New("the cloud still takes the session")
	}
	// Codes of the common errors of AWS' APIs. InvalidClientTokenId would be said
	// of a key that the endpoint does not know, as one of another partition.
	if e, ok := errors.AsType[*refusal](err); ok && e.Code == "ExpiredToken" && (e.Status == http.StatusForbidden || e.Status == http.StatusBadRequest) {
		return nil
	}
	return fmt.Errorf("the session was not refused as over: %w", err)
}

// refusal is STS' own word.
type refusal struct {
	Status int
	Code   string `xml:"Error>Code"`
	Text   string `xml:"Error>Message"`
}

func (r *refusal) Error() string {
	return fmt.Sprintf("it answers %d %.64q: %.200q", r.Status, r.Code, r.Text)
}

// ask posts a form and reads the XML. With a session the request is signed.
func (s *Source) ask(ctx context.Context, form url.Values, session []byte, out any) error {
	body := []byte(form.Encode())
	defer clear(body)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.c.Endpoint+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.GetBody = nil // nothing is sent twice
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if session != nil {
		if err := s.c.Sign(ctx, r, body, session, time.Now()); err != nil {
			return err
		}
	}
	resp, err := s.c.HTTP.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	defer clear(b)
	if resp.StatusCode != http.StatusOK {
		e := &refusal{Status: resp.StatusCode}
		if xml.Unmarshal(b, e) != nil || e.Code == "" {
			return fmt.Errorf("it answers %d, and not as STS does", resp.StatusCode)
		}
		// One about a signature repeats the fields that were signed.
		sent := []string{form.Get("WebIdentityToken"), r.Header.Get("X-Amz-Security-Token"), r.Header.Get("Authorization")}
		e.Code, e.Text = rest.Without(e.Code, sent...), rest.Without(e.Text, sent...)
		return e
	}
	if out == nil {
		return nil
	}
	if xml.Unmarshal(b, out) != nil {
		return errors.New("the answer is not the XML that it should be")
	}
	return nil
}
