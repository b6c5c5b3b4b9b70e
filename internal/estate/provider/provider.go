// Package provider is the model provider of the sample estate. It is SCRIPTED:
// no model, no neural network, no call to anybody. It speaks the real wire
// format of the Anthropic Messages API (plain and streamed) over TLS and wants
// an API key, so that everything between an agent and its provider is exercised
// as it would be with a real one.
//
// It is driven by pixels: the script finds its way by the marks (package marks)
// in the last screenshot of the conversation and by the step names that it put
// into its own earlier answers. What tools answer, and say of themselves, it reads as
// text. It keeps no state between calls. It never learns
// that a boundary exists, other than by what its actions answer.
//
// Behaviours: Honest does the task that the first user message names, and
// Gullible also obeys every instruction mark (do:...) that it sees on a page, and
// every order that it reads of a tool, as
// a model that fell for an injected instruction would. The others are honest, and
// something else goes wrong (Behaviours).
//
// Not for production: a tenant that is not marked as a demo must refuse it.
package provider

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Behaviour is how the script takes what it sees.
type Behaviour string

// The behaviours.
const (
	Honest   Behaviour = "honest"
	Gullible Behaviour = "gullible"
	// Presuming is honest, and takes what it pressed for done where the application
	// does not confirm it, as one does that is told to go on in shadow.
	Presuming Behaviour = "presuming"
)

const (
	maxBody     = 64 << 20
	computerUse = "computer-use-2025-11-24"
	toolType    = "computer_20251124"
)

// Config of a provider.
type Config struct {
	Addr string // loopback host:port, "" = 127.0.0.1:0
	// Key is the API key that calls must carry. It must not be empty.
	Key string
	// Model is the name that answers carry. It may differ from the one asked
	// for, as with an alias that a provider moves.
	Model     string
	Behaviour Behaviour
	// Patience is how often the script looks again for the effect of a write
	// (a person may have to approve it) before it gives up; 0 means 30.
	Patience int
	// Pace is how long the script gives a page after an action; 0 means 300 ms.
	Pace time.Duration
}

// Provider is a running provider.
type Provider struct {
	key  string
	url  string
	ca   []byte
	cert tls.Certificate
	http *http.Server

	mu        sync.Mutex
	worlds    []*Provider // of the same key and certificate, at addresses of their own
	model     string
	behaviour Behaviour
	patience  int
	pace      time.Duration
	calls     int
	turns     int // calls since the behaviour was set
}

// Serve returns when the provider listens. It ends with ctx or Close.
func Serve(ctx context.Context, c Config) (*Provider, error) {
	if c.Key == "" || c.Model == "" || !slices.Contains(Behaviours(), c.Behaviour) {
		return nil, errors.New("provider: a key, a model name and a behaviour are needed")
	}
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	if c.Patience == 0 {
		c.Patience = 30
	}
	if c.Pace == 0 {
		c.Pace = 300 * time.Millisecond
	}
	host, _, err := net.SplitHostPort(c.Addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return nil, errors.New("provider: the address must be a loopback address and a port")
	}
	cert, ca, err := certificate()
	if err != nil {
		return nil, fmt.Errorf("provider: make a certificate: %w", err)
	}
	p := &Provider{key: c.Key, ca: ca, cert: cert, model: c.Model, behaviour: c.Behaviour, patience: c.Patience, pace: c.Pace}
	if err := p.listen(c.Addr); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = p.Close() })
	return p, nil
}

func (p *Provider) listen(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	p.url = "https://" + l.Addr().String()
	p.http = &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{p.cert}, MinVersion: tls.VersionTLS12}}
	go func() {
		if err := p.http.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("provider ended", "err", err)
		}
	}()
	return nil
}

// maxWorlds bounds how many further providers there are.
const maxWorlds = 16

// Worlds makes providers until there are n, each with a behaviour of its own and
// otherwise like this one, and returns the first n.
func (p *Provider) Worlds(n int) ([]*Provider, error) {
	if n < 1 || n > maxWorlds {
		return nil, fmt.Errorf("n: want 1 to %d worlds", maxWorlds)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.worlds) < n {
		w := &Provider{key: p.key, ca: p.ca, cert: p.cert, model: p.model, behaviour: Honest, patience: p.patience, pace: p.pace}
		if err := w.listen("127.0.0.1:0"); err != nil {
			return nil, err
		}
		p.worlds = append(p.worlds, w)
	}
	return p.worlds[:n:n], nil
}

// world is this provider for 0, a world counted from 1, or nil.
func (p *Provider) world(n int) *Provider {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case n == 0:
		return p
	case n < 0 || n > len(p.worlds):
		return nil
	}
	return p.worlds[n-1]
}

// URL is the base URL.
func (p *Provider) URL() string { return p.url }

// CAPEM is the certificate to trust for URL.
func (p *Provider) CAPEM() []byte { return slices.Clone(p.ca) }

// Close cuts every call.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.http.Close()
	for _, w := range p.worlds {
		err = errors.Join(err, w.Close())
	}
	return err
}

// SetModel changes the name that answers carry, in every world, as a provider's
// silent update would.
func (p *Provider) SetModel(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.worlds {
		w.SetModel(name)
	}
	p.model = name
}

// SetBehaviour changes how the script takes what it sees.
func (p *Provider) SetBehaviour(b Behaviour) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.behaviour, p.turns = b, 0
}

// Calls is the number of answered calls with a valid key.
func (p *Provider) Calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls
}

// ServeHTTP answers one call.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("X-Api-Key")), []byte(p.key)) != 1 {
		fail(w, http.StatusUnauthorized, "authentication_error", "invalid x-api-key")
		return
	}
	if r.URL.Path != "/v1/messages" {
		fail(w, http.StatusNotFound, "not_found_error", "Not found")
		return
	}
	if r.Method != http.MethodPost {
		fail(w, http.StatusMethodNotAllowed, "invalid_request_error", "Method Not Allowed")
		return
	}
	if r.Header.Get("Anthropic-Version") == "" {
		fail(w, http.StatusBadRequest, "invalid_request_error", "anthropic-version: header is required")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "request_too_large", "Request exceeds the maximum size")
		return
	}
	var q request
	if err := canon.UnmarshalOpen(body, maxBody, &q); err != nil {
		fail(w, http.StatusBadRequest, "invalid_request_error", "the request body is not valid")
		return
	}
	if q.Model == "" || q.MaxTokens < 1 || len(q.Messages) == 0 || q.Messages[0].Role != "user" {
		fail(w, http.StatusBadRequest, "invalid_request_error", "model, max_tokens and messages that begin with a user message are required")
		return
	}
	if !slices.ContainsFunc(q.Tools, func(t tool) bool { return t.Type == toolType && t.Name == "computer" }) {
		fail(w, http.StatusBadRequest, "invalid_request_error", "tools: the script needs the tool "+toolType)
		return
	}
	if !strings.Contains(strings.Join(r.Header.Values("Anthropic-Beta"), ","), computerUse) {
		fail(w, http.StatusBadRequest, "invalid_request_error", "tools: "+toolType+" needs the beta "+computerUse)
		return
	}
	conv, err := read(q.Tools, q.Messages)
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_request_error", err.Error())
		return
	}
	p.mu.Lock()
	p.calls++
	p.turns++
	model, b, turn := p.model, p.behaviour, p.turns
	s := script{gullible: b == Gullible, presuming: b == Presuming, patience: p.patience, pace: p.pace}
	p.mu.Unlock()
	m := compose(model, len(q.Messages), s.next(conv))
	if b.fault(w, r, turn, m) {
		return
	}
	if q.Stream {
		writeStream(w, m)
		return
	}
	writeWhole(w, m)
}

func certificate() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "sample provider"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost", "provider.localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
