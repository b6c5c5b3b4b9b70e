package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/seal"
)

const (
	svidCallers   = 64
	tokenCallers  = 16
	tokenTarget   = 4000 // a second
	perTask       = 25   // identities of one task, below its rate
	benchIssuer   = "https://sallyport.example/t/bench"
	benchResource = "https://api.example"
)

// live is an authority for which every task runs.
type live struct{}

func (live) Live(context.Context, string, string) ([]string, error) { return nil, nil }

// tasksInTurn attests callers as one task after another, perTask times each.
type tasksInTurn struct{ n atomic.Int64 }

func (a *tasksInTurn) Attest(context.Context, identity.Peer) (identity.Workload, error) {
	return identity.Workload{Tenant: tenantName, Agent: agentName, Task: fmt.Sprint("w-", a.n.Add(1)/perTask), Selectors: []string{"bench"}}, nil
}

// identity: SVIDs over the Workload API and tokens of an exchange, each recorded
// before it is out, against the signature alone.
func (b *bench) identity(ctx context.Context) (err error) {
	d, err := newDisk(ctx, filepath.Join(b.dir, "identity"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	root, err := seal.NewRoot(make([]byte, seal.KeySize))
	if err != nil {
		return err
	}
	sealer, err := root.Sealer(tenantName)
	if err != nil {
		return err
	}
	issuer, err := identity.Open(ctx, d.log, sealer, live{}, identity.Config{TrustDomain: "bench.example", IssuerURL: benchIssuer,
		Grants: func(context.Context, string) (identity.Grant, error) {
			return identity.Grant{Agent: agentName, Capability: "bench", Scopes: []string{"a.b"}, Audiences: []string{benchResource}, Until: time.Now().Add(time.Hour)}, nil
		}})
	if err != nil {
		return err
	}
	defer issuer.Close()
	if err := b.svids(ctx, issuer); err != nil {
		return err
	}
	return b.tokens(ctx, issuer)
}

func (b *bench) svids(ctx context.Context, issuer *identity.Issuer) (err error) {
	clients, stop, err := b.workloads(ctx, issuer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	sign, err := newSigner()
	if err != nil {
		return err
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	var own, base, over []float64
	for i := range b.rounds + 1 {
		long := time.Duration(b.n(400)) * time.Millisecond
		bare, err := many(svidCallers, long, func(int) error { return sign.once() })
		if err != nil {
			return err
		}
		got, err := many(svidCallers, long, func(n int) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			s, err := clients[n%len(clients)].FetchX509SVID(ctx, &workload.X509SVIDRequest{})
			if err != nil {
				return err
			}
			_, err = s.Recv()
			return err
		})
		if err != nil {
			return err
		}
		if i > 0 { // the first one warms up
			own, base, over = append(own, got), append(base, bare), append(over, got/bare)
		}
	}
	ratio := median(over)
	b.add(row{fmt.Sprintf("X.509-SVIDs over the Workload API, recorded, %d callers", svidCallers), perSecond(median(own)), perSecond(median(base)) + " check and sign a CSR",
		times(ratio), "at least 0.70x", ratio >= 0.7})
	b.note("**Identity.** A caller is a call of the Workload API over a Unix socket, from attestation to the SVID: a new key, a certificate, and a durable record; "+
		"callers and server share the machine's cores. Each task asks %d times, and the first time writes a record of its attestation too. Baseline, in as many goroutines: "+
		"parse a CSR of P-256, check its signature, and sign a certificate, with `crypto/x509` and nothing else.", perTask)
	return nil
}

// workloads serves the Workload API on sockets and connects to it.
func (b *bench) workloads(ctx context.Context, issuer *identity.Issuer) ([]workload.SpiffeWorkloadAPIClient, func() error, error) {
	ctx, cancel := context.WithCancel(ctx)
	dir, err := os.MkdirTemp("", "sb") // short: a socket's path is bounded
	if err != nil {
		cancel()
		return nil, nil, err
	}
	var clients []workload.SpiffeWorkloadAPIClient
	var conns []*grpc.ClientConn
	var wg sync.WaitGroup
	stop := func() error {
		errs := []error{}
		for _, c := range conns {
			errs = append(errs, c.Close())
		}
		cancel()
		wg.Wait()
		return errors.Join(append(errs, os.RemoveAll(dir))...)
	}
	attestor := &tasksInTurn{}
	for i := range 4 {
		path := filepath.Join(dir, fmt.Sprint(i))
		l, err := identity.ListenWorkload(path)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		wg.Go(func() { issuer.ServeWorkload(ctx, l, attestor) })
		for range 2 {
			c, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return nil, nil, errors.Join(err, stop())
			}
			conns, clients = append(conns, c), append(clients, workload.NewSpiffeWorkloadAPIClient(c))
		}
	}
	return clients, stop, nil
}

func (b *bench) tokens(ctx context.Context, issuer *identity.Issuer) error {
	var tasks atomic.Int64
	left := make([]int, tokenCallers)
	svid := make([]string, tokenCallers)
	var rates []float64
	for i := range b.rounds + 1 {
		rate, err := many(tokenCallers, time.Duration(b.n(400))*time.Millisecond, func(n int) error {
			if left[n] == 0 {
				t, err := issuer.IssueJWT(ctx, identity.Workload{Tenant: tenantName, Agent: agentName, Task: fmt.Sprint("x-", tasks.Add(1)), Selectors: []string{"bench"}}, benchIssuer)
				if err != nil {
					return err
				}
				svid[n], left[n] = t.Reveal(), perTask
			}
			left[n]--
			_, err := issuer.Exchange(ctx, identity.Request{SubjectToken: svid[n], SubjectType: "urn:ietf:params:oauth:token-type:jwt", Audience: []string{benchResource}})
			return err
		})
		if err != nil {
			return err
		}
		if i > 0 {
			rates = append(rates, rate)
		}
	}
	rate := median(rates)
	b.add(row{fmt.Sprintf("task tokens by exchange, recorded, %d callers", tokenCallers), perSecond(rate), "", "", fmt.Sprintf("at least %d/s", tokenTarget), rate >= tokenTarget})
	b.note("**Task tokens** are exchanged for a task's JWT-SVID: its signature is verified, the token is signed, and its record is durable. HTTP is not in it.")
	return nil
}

// many has n callers do something again and again for so long, and returns how
// often a second all of them did it.
func many(n int, long time.Duration, once func(caller int) error) (float64, error) {
	var done atomic.Int64
	errs := make([]error, n)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range n {
		wg.Go(func() {
			for errs[i] == nil && time.Since(start) < long {
				if errs[i] = once(i); errs[i] == nil {
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(start).Seconds(), errors.Join(errs...)
}

// signer checks and signs one CSR, as a CA does at the least.
type signer struct {
	csr []byte
	ca  *x509.Certificate
	key *ecdsa.PrivateKey
}

func newSigner() (*signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	s := &signer{key: key}
	if s.ca, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	u := &url.URL{Scheme: "spiffe", Host: "bench.example", Path: "/agent/a/task/t"}
	s.csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{u}}, leaf)
	return s, err
}

func (s *signer) once() error {
	r, err := x509.ParseCertificateRequest(s.csr)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{URIs: r.URIs, NotBefore: time.Now(), NotAfter: time.Now().Add(5 * time.Minute), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true}
	_, err = x509.CreateCertificate(rand.Reader, tmpl, s.ca, r.PublicKey, s.key)
	return err
}
