package kubernetes_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/kubernetes"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/lease/rest"
)

type rig struct {
	*leasetest.Cluster
	t      testing.TB
	issuer *leasetest.Issuer
}

func newRig(t testing.TB) *rig {
	i := leasetest.NewIssuer(t)
	return &rig{leasetest.StartCluster(t, &leasetest.Trust{Issuer: i.URL, CA: i.CA()}), t, i}
}

func (r *rig) source(origin string, edit ...func(*kubernetes.Config)) *kubernetes.Source {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.CA())
	c := kubernetes.Config{Namespace: leasetest.KubeNamespace, ServiceAccount: leasetest.KubeAccount, Audiences: []string{"https://api.example"},
		Client: rest.Client{Origin: origin, HTTP: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "example.com"}, DisableKeepAlives: true}}},
		Token: func(context.Context) (string, error) {
			return r.issuer.Token("spiffe://acme.example/boundary", leasetest.KubeAudience, rand.Text()), nil
		}}
	for _, e := range edit {
		e(&c)
	}
	return kubernetes.New(c)
}

func (r *rig) works(secret []byte) error {
	token, err := kubernetes.Token(secret)
	if err != nil {
		return err
	}
	return r.Works(token)
}

// TestSource: the suite that every source passes, against the contract's API server,
// at which the boundary signs in with its own JWT-SVID.
//
// Threats: K4, K7, K9 (lease)
func TestSource(t *testing.T) {
	r := newRig(t)
	plain := httptest.NewServer(r.Cluster)
	defer plain.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := leasetest.NewWire(t, l, "tcp", plain.Listener.Addr().String())
	leasetest.Run(t, &leasetest.Peer{Source: r.source("http://" + l.Addr().String()), Wire: w, Labels: r.Labels, Works: r.works})
}

func order(id string) lease.Order {
	return lease.Order{Label: leasetest.Prefix + id, Task: "t-1", Agent: "desk", Expires: time.Now().Add(time.Minute)}
}

// TestTokenThatIsStillTaken: what looks like an end and is none.
//
// Threats: K4, K5 (lease)
func TestTokenThatIsStillTaken(t *testing.T) {
	for name, lie := range map[string]func(*rig, *lease.Credential) *kubernetes.Source{
		"finalizer": func(r *rig, _ *lease.Credential) *kubernetes.Source { r.Keeps = true; return r.source(r.URL) },
		"remembered": func(r *rig, _ *lease.Credential) *kubernetes.Source {
			r.Takes = true
			return r.source(r.URL)
		},
		"a_proxy_knows_nothing": func(r *rig, _ *lease.Credential) *kubernetes.Source {
			s := httptest.NewServer(http.NotFoundHandler())
			r.t.Cleanup(s.Close)
			return r.source(s.URL)
		},
		"may_not_ask": func(r *rig, _ *lease.Credential) *kubernetes.Source {
			return r.source(r.URL, func(c *kubernetes.Config) {
				c.Token = func(context.Context) (string, error) {
					return r.issuer.Token("spiffe://acme.example/agent/desk/task/boundary", leasetest.KubeAudience, "x"), nil
				}
			})
		},
		"somebody_elses": func(r *rig, c *lease.Credential) *kubernetes.Source {
			c.Label = "sallyport-00112233-other"
			r.Put(c.Label, nil)
			return r.source(r.URL)
		},
		"no_label": func(r *rig, c *lease.Credential) *kubernetes.Source { c.Label = "kube-root-ca"; return r.source(r.URL) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			o := order("l-1")
			secret, err := r.source(r.URL).Issue(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			c := lease.Credential{Label: o.Label, Secret: secret}
			s := lie(r, &c)
			if errors.Join(s.Revoke(t.Context(), c), s.Confirm(t.Context(), c)) == nil {
				t.Error("it was confirmed")
			}
			if err := r.works(secret); err != nil {
				t.Errorf("the case tests nothing: %v", err)
			}
		})
	}
}

// TestSealedToken: the boundary signs in with a sealed token; the sweep reads every
// page; a token that would end before its task is none.
func TestSealedToken(t *testing.T) {
	r := newRig(t)
	s := r.source(r.URL, func(c *kubernetes.Config) {
		c.Token = func(context.Context) (string, error) { return leasetest.KubeToken, nil }
		c.Audiences = nil
	})
	var want []string
	for _, id := range []string{"l-1", "l-2", "l-3", "l-4", "l-5"} {
		if _, err := s.Issue(t.Context(), order(id)); err != nil {
			t.Fatal(err)
		}
		want = append(want, leasetest.Prefix+id)
	}
	r.Put("sallyport-44556677-l-1", map[string]string{"app.kubernetes.io/managed-by": "sallyport"})
	if got, err := s.List(t.Context(), leasetest.Prefix); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q %v", got, err)
	}
	long := order("l-6")
	long.Expires = time.Now().Add(5 * time.Hour)
	if _, err := s.Issue(t.Context(), long); err == nil || !strings.Contains(err.Error(), "max-token-expiration") || errors.Is(err, lease.ErrNotIssued) {
		t.Errorf("got %v", err)
	}
	for name, edit := range map[string]func(*kubernetes.Config){
		"namespace": func(c *kubernetes.Config) { c.Namespace = "kube-system" },
		"account":   func(c *kubernetes.Config) { c.ServiceAccount = "admin" },
	} {
		_, err := r.source(r.URL, edit).Issue(t.Context(), order("l-7"))
		if err == nil || errors.Is(err, lease.ErrNotIssued) != (name == "namespace") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A cluster that repeats the boundary's token, and one that repeats the token that it
// was asked about: errors are put on record.
func TestRefusalRepeatsNoSecret(t *testing.T) {
	r := newRig(t)
	for _, at := range []string{"secrets", "tokenreviews", "review"} {
		echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			body, _ := io.ReadAll(q.Body)
			path := q.URL.Path[strings.LastIndexByte(q.URL.Path, '/')+1:]
			switch said, _ := json.Marshal("you sent " + q.Header.Get("Authorization") + string(body)); {
			case path == at:
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprintf(w, `{"kind": "Status", "reason": "Forbidden", "message": %s}`, said)
			case path == "secrets":
				fmt.Fprint(w, `{"metadata": {"uid": "u"}}`)
			case path == "token":
				fmt.Fprintf(w, `{"status": {"token": "ey.the-token-of-a-task", "expirationTimestamp": %q}}`, time.Now().Add(time.Hour).Format(time.RFC3339))
			default:
				fmt.Fprintf(w, `{"kind": "TokenReview", "status": {"error": %s}}`, said)
			}
		}))
		_, err := r.source(echo.URL, func(c *kubernetes.Config) {
			c.Token = func(context.Context) (string, error) { return leasetest.KubeToken, nil }
		}).Issue(t.Context(), order("l-8"))
		echo.Close()
		if want := map[bool]string{true: "does not take its own token", false: "Forbidden"}[at == "review"]; err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "you sent") {
			t.Errorf("%s: got %v", at, err)
		}
	}
}
