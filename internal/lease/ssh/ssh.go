// Package ssh leases sign-ins to hosts by OpenSSH certificates: a key pair for
// each task, and certificates over it that live for seconds.
//
// Invariants:
//   - The private key is in this process's memory and nowhere else: not sealed, not
//     written, not handed out. What is sealed is the public half. A crash ends the
//     credential as surely as Revoke does.
//   - A certificate is made when one is about to be used, lives for Life, and never
//     beyond its lease. So none has to be recalled: there is no KRL.
//   - A certificate names its principals; one without any would be good for all.
//     It names the addresses it may be used from, and allows no forwarding, terminal
//     or command but what is declared.
//   - Ended means: the key is gone, the last certificate's time is over, and the host
//     was offered one that ended when that did, and refused it. A host whose clock
//     is behind accepts it, and then the lease stays as it is.
//
// Not seen from here: processes at the host that outlive their session.
//
// Not trusted: the host's clock, and any host that does not prove a declared key.
package ssh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/lease"
)

// Life is how long a certificate can be used. It is less than one attempt to end a
// lease may take, so that a first attempt can confirm.
const Life = 10 * time.Second

// behind is how far a host's clock may be behind ours. One that is ahead by more
// than Life refuses every certificate.
const behind = time.Minute

const probeTimeout = 8 * time.Second

// Config says where the host is and what a certificate allows there.
type Config struct {
	Address  string // host:port
	User     string // who signs in
	HostKeys []ssh.PublicKey
	// CA is asked for the authority's private key (OpenSSH or PEM form) at each
	// certificate; the result is cleared.
	CA func(ctx context.Context) ([]byte, error)
	// Principals and SourceAddresses have at least one member.
	Principals      []string
	SourceAddresses []string
	ForceCommand    string   // empty is what the client asks for
	Extensions      []string // names only
	// Dial reaches the host; nil is the network.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Keys holds the private keys of a tenant's leases, whatever becomes of the
// declarations that they were issued for.
type Keys struct {
	began time.Time

	mu  sync.Mutex
	all map[string]*held // by label
}

// held is one key. It stays, without the key, until its end is confirmed.
type held struct {
	key   ed25519.PrivateKey // nil when revoked
	until time.Time          // no certificate beyond
	last  time.Time          // when the last certificate ends
}

// NewKeys makes an empty one.
func NewKeys() *Keys { return &Keys{began: time.Now(), all: map[string]*held{}} }

// Source is a lease.Source. It keeps nothing but in Keys.
type Source struct {
	c    Config
	keys *Keys
}

// New makes a source. It does not touch the network.
func New(c Config, keys *Keys) (*Source, error) {
	switch {
	case len(c.Principals) == 0:
		return nil, errors.New("ssh: principals: want at least one: a certificate without any is good for every account")
	case len(c.SourceAddresses) == 0:
		return nil, errors.New("ssh: sourceAddresses: want at least one")
	case len(c.HostKeys) == 0:
		return nil, errors.New("ssh: hostKeys: want at least one")
	case c.User == "" || c.Address == "" || c.CA == nil || keys == nil:
		return nil, errors.New("ssh: incomplete configuration")
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	return &Source{c, keys}, nil
}

// Issue makes a key pair and asks the host whether it would accept a certificate
// for it. What is sealed is the public key.
func (s *Source) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	if err := s.keys.add(o.Label, key, o.Expires); err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	cert, err := s.Certificate(ctx, o.Label)
	if err == nil {
		var accepted bool
		if accepted, err = s.offer(ctx, cert); err == nil && !accepted {
			err = fmt.Errorf("%s does not accept a certificate for %s: it must trust the authority (TrustedUserCAKeys), know the principal, and see us come from a declared source address",
				s.c.Address, s.c.User)
		}
	}
	if err != nil {
		s.keys.drop(o.Label)
		s.keys.forget(o.Label) // nobody was given a certificate
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	return cert.Key.Marshal(), nil
}

// Certificate makes a certificate for a lease that is in force.
func (s *Source) Certificate(ctx context.Context, label string) (*ssh.Certificate, error) {
	pub, ends, err := s.keys.lend(label, time.Now())
	if err != nil {
		return nil, err
	}
	return s.sign(ctx, label, pub, ends)
}

// Sign signs with the key of a lease that is in force. What data is, the caller
// has judged.
func (s *Source) Sign(label string, data []byte) (*ssh.Signature, error) {
	return s.keys.sign(label, data)
}

// sign makes the authority sign.
func (s *Source) sign(ctx context.Context, label string, pub ssh.PublicKey, ends time.Time) (*ssh.Certificate, error) {
	b, err := s.c.CA(ctx)
	if err != nil {
		return nil, fmt.Errorf("authority's key: %w", err)
	}
	defer clear(b)
	ca, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, errors.New("the authority's key is not a private key in OpenSSH or PEM form, without a passphrase")
	}
	sum := sha256.Sum256([]byte(label))
	c := &ssh.Certificate{Key: pub, Serial: binary.BigEndian.Uint64(sum[:8]), CertType: ssh.UserCert, KeyId: label,
		ValidPrincipals: s.c.Principals, ValidAfter: uint64(ends.Add(-Life - behind).Unix()), ValidBefore: uint64(ends.Unix()),
		Permissions: ssh.Permissions{CriticalOptions: map[string]string{"source-address": strings.Join(s.c.SourceAddresses, ",")}, Extensions: map[string]string{}}}
	if s.c.ForceCommand != "" {
		c.CriticalOptions["force-command"] = s.c.ForceCommand
	}
	for _, e := range s.c.Extensions {
		c.Extensions[e] = ""
	}
	return c, c.SignCert(rand.Reader, ca)
}

// Revoke forgets the key. From then on nobody can prove that a certificate is his.
func (s *Source) Revoke(_ context.Context, c lease.Credential) error {
	s.keys.drop(c.Label)
	return nil
}

// Confirm waits for the end of the last certificate, and asks the host. It is
// offered a certificate for a key that is nobody's, which ended when the last did.
func (s *Source) Confirm(ctx context.Context, c lease.Credential) error {
	ends, err := s.keys.ended(c.Label)
	if err != nil {
		return err
	}
	select {
	case <-time.After(time.Until(ends)):
	case <-ctx.Done():
		return fmt.Errorf("a certificate that nobody can use any more is valid until %s", ends.UTC().Format(time.RFC3339))
	}
	raw, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	pub, err := ssh.NewPublicKey(raw)
	if err != nil {
		return err
	}
	cert, err := s.sign(ctx, c.Label, pub, ends)
	if err != nil {
		return err
	}
	accepted, err := s.offer(ctx, cert)
	if err != nil {
		return err
	}
	if accepted {
		return fmt.Errorf("%s accepts a certificate that ended at %s: its clock is behind", s.c.Address, ends.UTC().Format(time.RFC3339))
	}
	s.keys.forget(c.Label)
	return nil
}
