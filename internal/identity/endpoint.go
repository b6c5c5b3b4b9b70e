package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// fetchLimit bounds one fetch of a bundle.
const fetchLimit = 10 * time.Second

// fetch gets a bundle from its endpoint (SPIFFE Federation section 5): no
// redirects, which could leave the endpoint that was verified, and no proxy of
// the environment.
func (i *Issuer) fetch(ctx context.Context, f *foreign) ([]byte, *spiffebundle.Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	conf := &tls.Config{RootCAs: f.roots, MinVersion: tls.VersionTLS12}
	if f.Profile == ProfileSPIFFE {
		conf = tlsconfig.TLSClientConfig(endpointSource{i}, tlsconfig.AuthorizeID(f.id))
	}
	transport := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("the endpoint redirects, which is not followed")
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.Endpoint, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("the endpoint answers %d", resp.StatusCode)
	}
	doc, err := io.ReadAll(io.LimitReader(resp.Body, maxBundle+1))
	if err != nil {
		return nil, nil, err
	}
	if len(doc) > maxBundle {
		return nil, nil, errors.New("the bundle is too large")
	}
	b, err := parseBundle(f.td, doc)
	return doc, b, err
}

// EndpointID is the SPIFFE ID under which our own https_spiffe bundle endpoint
// proves itself. It is the boundary's, and no task's.
func (i *Issuer) EndpointID() string { return i.endpointID().String() }

func (i *Issuer) endpointID() spiffeid.ID {
	return spiffeid.RequireFromSegments(i.td, "bundle-endpoint")
}

// EndpointTLS is the configuration of our own https_spiffe bundle endpoint: a
// certificate for EndpointID, recorded when it is made, and a new one at half life.
func (i *Issuer) EndpointTLS() *tls.Config {
	var mu sync.Mutex
	var cert *tls.Certificate
	var renew time.Time
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		now := i.cfg.Now()
		if cert != nil && now.Before(renew) {
			return cert, nil
		}
		c, expires, err := i.endpointCertificate(h.Context())
		if err != nil {
			return nil, err
		}
		cert, renew = c, now.Add(expires.Sub(now)/2)
		return cert, nil
	}}
}

func (i *Issuer) endpointCertificate(ctx context.Context) (*tls.Certificate, time.Time, error) {
	if i.external.Load() {
		return nil, time.Time{}, errOwnKeysRest
	}
	a, err := i.signer(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	s, b, err := i.certify(a, i.endpointID())
	if err != nil {
		return nil, time.Time{}, err
	}
	b.Selectors, b.AttestedBy = []string{"boundary"}, "bundle-endpoint"
	if _, err := i.log.Append(ctx, record.Draft{Type: "identity.issued", Actor: "sallyport", Body: b}); err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: record issue: %w", ErrUnavailable, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(s.key)
	if err != nil {
		return nil, time.Time{}, err
	}
	return &tls.Certificate{Certificate: [][]byte{s.cert}, PrivateKey: key}, s.expires, nil
}
