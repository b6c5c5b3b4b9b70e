package sts_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/lease/sts"
)

type rig struct {
	*leasetest.STS
	t      testing.TB
	issuer *leasetest.Issuer
}

func newRig(t testing.TB) *rig {
	i := leasetest.NewIssuer(t)
	return &rig{leasetest.StartSTS(t, &leasetest.Trust{Issuer: i.URL, CA: i.CA()}), t, i}
}

func (r *rig) source(endpoint string, edit ...func(*sts.Config)) *sts.Source {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.CA())
	c := sts.Config{Endpoint: endpoint, RoleARN: leasetest.RoleARN, Policy: `{"Version":"2012-10-17","Statement":[]}`, Max: 2 * time.Hour, Now: r.Now,
		HTTP: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "example.com"}, DisableKeepAlives: true}},
		Token: func(_ context.Context, o lease.Order) (string, error) {
			return r.issuer.Token("spiffe://acme.example/agent/desk/task/"+o.Task, leasetest.STSAudience, rand.Text()), nil
		},
		Sign: func(ctx context.Context, q *http.Request, body, session []byte, now time.Time) error {
			s, err := connector.ParseSession(string(session))
			if err != nil {
				return err
			}
			return s.Sign(ctx, q, body, "sts", leasetest.Region, now)
		}}
	for _, e := range edit {
		e(&c)
	}
	return sts.New(c)
}

// TestSource: the suite that every source passes, as one whose upstream ends
// sessions by time alone, against a server that verifies tokens by discovery and
// every signature.
//
// Threats: K4, K7 (lease)
func TestSource(t *testing.T) {
	r := newRig(t)
	plain := httptest.NewServer(r.STS)
	defer plain.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	leasetest.Run(t, &leasetest.Peer{Source: r.source("http://" + l.Addr().String()), Wire: leasetest.NewWire(t, l, "tcp", plain.Listener.Addr().String()),
		Works: r.Works, Labels: r.Labels, Lasts: true, Pass: func() { r.Pass(3 * time.Hour) }})
}

// TestSessionThatOutlivesItsTime: before it, nobody is alarmed; after it, somebody is.
//
// Threats: K4 (lease)
func TestSessionThatOutlivesItsTime(t *testing.T) {
	r := newRig(t)
	s := r.source(r.URL)
	o := lease.Order{Label: leasetest.Prefix + "l-1", Task: "t", Expires: r.Now().Add(time.Minute)}
	secret, err := s.Issue(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	over, alone, err := s.Lasts(t.Context(), o)
	if err != nil || !alone {
		t.Errorf("got %v %v", alone, err)
	}
	c := lease.Credential{Label: o.Label, Secret: secret}
	if d := time.Until(over); d < sts.Shortest || d > sts.Shortest+2*time.Minute {
		t.Errorf("a task of a minute has a session that lasts %s", d)
	}
	lost := lease.Credential{Label: o.Label, Asked: time.Now(), Lost: over}
	if s.Confirm(t.Context(), lost) == nil {
		t.Error("one whose answer was lost is over before its time")
	}
	r.Pass(time.Hour)
	for _, c := range []lease.Credential{c, lost} {
		if err := s.Confirm(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
	r.Never = true
	if err := s.Confirm(t.Context(), c); err == nil || !strings.Contains(err.Error(), "still takes") {
		t.Errorf("got %v", err)
	}
	// Other refusals say nothing of its time.
	other := newRig(t)
	if other.source(other.URL).Confirm(t.Context(), c) == nil {
		t.Error("a server that does not know the session confirmed its end")
	}
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>ExpiredToken", 403) }))
	defer html.Close()
	if r.source(html.URL).Confirm(t.Context(), c) == nil {
		t.Error("a proxy confirmed its end")
	}
}

// soon says that a session is over after a moment, and it is not.
type soon struct{ *sts.Source }

func (soon) Lasts(context.Context, lease.Order) (time.Time, bool, error) {
	return time.Now().Add(50 * time.Millisecond), true, nil
}

// TestAlarmAfterItsTime: the keeper's side of the same.
//
// Threats: K4 (lease)
func TestAlarmAfterItsTime(t *testing.T) {
	r := newRig(t)
	s := r.source(r.URL)
	k := lease.New(lease.Config{Log: gatetest.NewLog("acme"), Seal: leasetest.Plain{}, Prefix: leasetest.Prefix, IDs: func() string { return "l-3" },
		Find: func(context.Context, lease.Lease) (lease.Source, error) { return soon{s}, nil }})
	if _, _, err := k.Issue(t.Context(), lease.Request{Task: "t", Source: "s", Audience: "a", Until: time.Now().Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := k.End(ctx, "t")
	for err == nil && ctx.Err() == nil {
		err = k.End(ctx, "t")
	}
	left, lerr := k.Unconfirmed(t.Context())
	if err == nil || lerr != nil || len(left) != 1 || !strings.Contains(left[0].Why, "still takes") {
		t.Errorf("got %v, %+v %v", err, left, lerr)
	}
}

func TestOrdersThatAreRefused(t *testing.T) {
	r := newRig(t)
	order := lease.Order{Label: leasetest.Prefix + "l-2", Task: "t", Expires: time.Now().Add(time.Minute)}
	for name, bad := range map[string]struct {
		source *sts.Source
		edit   func(*lease.Order)
		want   string
	}{
		"long":   {r.source(r.URL), func(o *lease.Order) { o.Expires = time.Now().Add(5 * time.Hour) }, "MaxSessionDuration"},
		"label":  {r.source(r.URL), func(o *lease.Order) { o.Label = "admin" }, "another form"},
		"role":   {r.source(r.URL, func(c *sts.Config) { c.RoleARN += "x" }), nil, "AccessDenied"},
		"policy": {r.source(r.URL, func(c *sts.Config) { c.Policy = "{" }), nil, "ValidationError"},
		"issuer": {(&rig{r.STS, t, leasetest.NewIssuer(t)}).source(r.URL), nil, "InvalidIdentityToken"},
	} {
		o := order
		if bad.edit != nil {
			bad.edit(&o)
		}
		if _, err := bad.source.Issue(t.Context(), o); !errors.Is(err, lease.ErrNotIssued) || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got := r.Labels(); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}

// An error about a signature repeats what was signed, and one about a token the
// token: neither is in ours, which is put on record.
func TestRefusalRepeatsNoSecret(t *testing.T) {
	r := newRig(t)
	o := lease.Order{Label: leasetest.Prefix + "l-4", Task: "t", Expires: r.Now().Add(time.Minute)}
	secret, err := r.source(r.URL).Issue(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	session, err := connector.ParseSession(string(secret))
	if err != nil {
		t.Fatal(err)
	}
	var sent []string
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		q.ParseForm()
		sent = append(sent, q.Form.Get("WebIdentityToken")+q.Header.Get("X-Amz-Security-Token"))
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>you sent %s</Message></Error></ErrorResponse>`, sent[len(sent)-1])
	}))
	defer echo.Close()
	s := r.source(echo.URL)
	_, issue := s.Issue(t.Context(), o)
	for i, err := range []error{issue, s.Confirm(t.Context(), lease.Credential{Label: o.Label, Secret: secret})} {
		if len(sent) <= i || sent[i] == "" || err == nil || !strings.Contains(err.Error(), "SignatureDoesNotMatch") || strings.Contains(err.Error(), "you sent") {
			t.Errorf("%d: got %v", i, err)
		}
	}
	if sent[1] != session.SessionToken {
		t.Error("the session was not sent: the case tests nothing")
	}
}

// A session that is not what was asked for is not used, and in sight for as long as
// the cloud takes it, over a crash.
//
// Threats: K4 (lease)
func TestMisfitStaysInSight(t *testing.T) {
	for name, edit := range map[string]func(answer string) string{
		"longer": func(a string) string {
			return regexp.MustCompile(`<Expiration>[^<]*`).ReplaceAllString(a, "<Expiration>"+time.Now().Add(5*time.Hour).UTC().Format(time.RFC3339))
		},
		"does_not_say": func(a string) string {
			return regexp.MustCompile(`<Expiration>[^<]*</Expiration>`).ReplaceAllString(a, "")
		},
		"no_time": func(a string) string {
			return regexp.MustCompile(`<Expiration>[^<]*`).ReplaceAllString(a, "<Expiration>soon")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.Never = true
			front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				rec := httptest.NewRecorder()
				r.ServeHTTP(rec, q)
				w.WriteHeader(rec.Code)
				io.WriteString(w, edit(rec.Body.String()))
			}))
			defer front.Close()
			pool := x509.NewCertPool()
			pool.AddCert(front.Certificate())
			s := r.source(front.URL, func(c *sts.Config) {
				c.HTTP = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
			})
			log := gatetest.NewLog("acme")
			keeper := func() *lease.Keeper {
				return lease.New(lease.Config{Log: log, Seal: leasetest.Plain{}, Prefix: leasetest.Prefix, IDs: func() string { return "l-5" },
					Find: func(context.Context, lease.Lease) (lease.Source, error) { return s, nil }})
			}
			if _, _, err := keeper().Issue(t.Context(), lease.Request{Task: "t", Source: "s", Audience: "a", Until: time.Now().Add(time.Minute)}); err == nil || errors.Is(err, lease.ErrNotIssued) {
				t.Fatalf("got %v", err)
			}
			r.Pass(3 * time.Hour)
			k := keeper()
			_ = k.Recover(t.Context()) // the reason is in the lease
			left, err := k.Unconfirmed(t.Context())
			if err != nil || len(left) != 1 || !strings.Contains(left[0].Why, "still takes") {
				t.Errorf("got %+v %v, while the cloud takes the session", left, err)
			}
			r.Never = false
			if err := keeper().Recover(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
