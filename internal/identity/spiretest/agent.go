// Package spiretest gives tests a SPIRE agent: one that speaks the Workload API on
// go-spiffe's generated protocol and does what the test says (Agent), and the real
// one (Real). It is used by tests alone.
package spiretest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"maps"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// Agent is an agent whose registration entries the test writes.
type Agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	Socket string

	t    testing.TB
	td   spiffeid.TrustDomain
	key  *ecdsa.PrivateKey // of JWT-SVIDs
	ca   *x509.Certificate
	caK  *ecdsa.PrivateKey
	stop func()

	mu      sync.Mutex
	entries map[string]*workload.X509SVID // by SPIFFE ID
	changed chan struct{}
}

// Start starts an agent with no entries.
func Start(t testing.TB, td string) *Agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "spire")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &Agent{t: t, td: spiffeid.RequireTrustDomainFromString(td), Socket: filepath.Join(dir, "agent.sock"), key: newKey(t), entries: map[string]*workload.X509SVID{}, changed: make(chan struct{})}
	a.ca, a.caK = a.NewCA(td)
	a.Serve()
	t.Cleanup(func() { a.Stop() })
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// NewCA makes a CA of a trust domain; only the agent's own is in its bundle.
func (a *Agent) NewCA(td string) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key := newKey(a.t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{spiffeid.RequireTrustDomainFromString(td).ID().URL()}}
	return a.sign(tmpl, tmpl, key, key), key
}

func (a *Agent) sign(tmpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// Serve serves the socket again after Stop.
func (a *Agent) Serve() {
	a.t.Helper()
	l, err := net.Listen("unix", a.Socket)
	if err != nil {
		a.t.Fatal(err)
	}
	s := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(s, a)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	a.stop = func() { s.Stop(); <-done }
}

// Stop breaks the socket.
func (a *Agent) Stop() {
	if a.stop != nil {
		a.stop()
		a.stop = nil
	}
}

// At is the socket of the Workload API.
func (a *Agent) At() string { return a.Socket }

// Register gives the caller an SVID for so long; again, it gives another.
func (a *Agent) Register(id string, life time.Duration) (remove func()) {
	a.t.Helper()
	a.RegisterBy(id, life, a.ca, a.caK)
	return func() { a.Remove(id) }
}

// RegisterBy is Register with the certificate of another CA.
func (a *Agent) RegisterBy(id string, life time.Duration, ca *x509.Certificate, by *ecdsa.PrivateKey) {
	a.t.Helper()
	key := newKey(a.t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	c := a.sign(&x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-10 * time.Second), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, URIs: []*url.URL{spiffeid.RequireFromString(id).URL()}}, ca, key, by)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.change(func() {
		a.entries[id] = &workload.X509SVID{SpiffeId: id, X509Svid: c.Raw, X509SvidKey: der, Bundle: a.ca.Raw}
	})
}

// Remove takes an entry away.
func (a *Agent) Remove(id string) { a.change(func() { delete(a.entries, id) }) }

func (a *Agent) change(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *Agent) now() (svids []*workload.X509SVID, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(a.entries)) {
		svids = append(svids, a.entries[id])
	}
	return svids, a.changed
}

func marked(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	return nil
}

// FetchX509SVID implements the Workload API.
func (a *Agent) FetchX509SVID(_ *workload.X509SVIDRequest, s grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if err := marked(s.Context()); err != nil {
		return err
	}
	for {
		svids, changed := a.now()
		if len(svids) == 0 {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		if err := s.Send(&workload.X509SVIDResponse{Svids: svids}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.Context().Done():
			return nil
		}
	}
}

// FetchJWTBundles implements the Workload API.
func (a *Agent) FetchJWTBundles(_ *workload.JWTBundlesRequest, s grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	b := jwtbundle.FromJWTAuthorities(a.td, map[string]crypto.PublicKey{"spire": a.key.Public()})
	doc, err := b.Marshal()
	if err != nil {
		return err
	}
	if err := s.Send(&workload.JWTBundlesResponse{Bundles: map[string][]byte{a.td.IDString(): doc}}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

// FetchJWTSVID implements the Workload API.
func (a *Agent) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if err := marked(ctx); err != nil {
		return nil, err
	}
	svids, _ := a.now()
	out := &workload.JWTSVIDResponse{}
	for _, v := range svids {
		if r.SpiffeId == "" || r.SpiffeId == v.SpiffeId {
			out.Svids = append(out.Svids, &workload.JWTSVID{SpiffeId: v.SpiffeId, Svid: a.JWT(v.SpiffeId, r.Audience...)})
		}
	}
	if len(out.Svids) == 0 {
		return nil, status.Error(codes.PermissionDenied, "no identity issued")
	}
	return out, nil
}

// ValidateJWTSVID implements the Workload API, by go-spiffe's own verifier.
func (a *Agent) ValidateJWTSVID(ctx context.Context, r *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if err := marked(ctx); err != nil {
		return nil, err
	}
	b := jwtbundle.FromJWTAuthorities(a.td, map[string]crypto.PublicKey{"spire": a.key.Public()})
	v, err := jwtsvid.ParseAndValidate(r.Svid, b, []string{r.Audience})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	claims, err := structpb.NewStruct(v.Claims)
	return &workload.ValidateJWTSVIDResponse{SpiffeId: v.ID.String(), Claims: claims}, err
}

// JWT is a JWT-SVID of any ID.
func (a *Agent) JWT(id string, audience ...string) string {
	a.t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: a.key, KeyID: "spire"}}, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	out, err := jwt.Signed(s).Claims(jwt.Claims{Subject: id, Audience: audience, Expiry: jwt.NewNumericDate(time.Now().Add(5 * time.Minute)), IssuedAt: jwt.NewNumericDate(time.Now())}).Serialize()
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}
