package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// signerLimit bounds one exchange with a signer.
const signerLimit = 5 * time.Second

// Signer is another process that holds a tenant's private keys and signs with
// them. It is asked by the SSH agent protocol (draft-miller-ssh-agent): for a
// key of type ecdsa-sha2-nistp256 an agent signs the bytes that it is given with
// ECDSA over SHA-256, which is what ES256 and ecdsa-with-SHA256 are. So any agent
// will do, OpenSSH's with a PKCS #11 token included, and no private key is in
// this process.
//
// The socket belongs to one tenant, and its keys to nothing else: who reaches it
// can have anything signed. Not trusted: that what it returns is a signature.
type Signer struct {
	path string

	mu     sync.Mutex // one exchange at a time
	conn   net.Conn
	client agent.ExtendedAgent // of conn; a second one on it would take its answers
}

// NewSigner names the agent's Unix socket. It is dialled when it is needed.
func NewSigner(path string) *Signer { return &Signer{path: path} }

// ask does one exchange, on a new connection if the last one broke.
func (s *Signer) ask(f func(agent.Agent) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.conn != nil
	for {
		if s.conn == nil {
			c, err := net.DialTimeout("unix", s.path, signerLimit)
			if err != nil {
				return fmt.Errorf("signer: %w", err)
			}
			s.conn, s.client = c, agent.NewClient(c)
		}
		s.conn.SetDeadline(time.Now().Add(signerLimit))
		err := f(s.client)
		if err == nil {
			return nil
		}
		s.conn.Close()
		s.conn = nil
		if !kept {
			return fmt.Errorf("signer: %w", err)
		}
		kept = false // the agent may have been started again
	}
}

// unused are two P-256 keys of the agent that are not in used, in its order.
func (s *Signer) unused(_ context.Context, used []action.Digest) (pair [2]crypto.Signer, taken []action.Digest, err error) {
	err = s.ask(func(a agent.Agent) error {
		keys, err := a.List()
		if err != nil {
			return err
		}
		taken = nil
		for _, k := range keys {
			pub, ok := p256Of(k)
			if !ok {
				continue
			}
			der, err := x509.MarshalPKIXPublicKey(pub)
			if err != nil {
				return err
			}
			if d := canon.Digest(der); len(taken) < 2 && !slices.Contains(used, d) && !slices.Contains(taken, d) {
				pair[len(taken)] = s.key(pub)
				taken = append(taken, d)
			}
		}
		return nil
	})
	if err == nil && len(taken) < 2 {
		err = errors.New("signer: it holds no two P-256 keys that were never used: make two more in it")
	}
	return pair, taken, err
}

func p256Of(k ssh.PublicKey) (*ecdsa.PublicKey, bool) {
	if k.Type() != ssh.KeyAlgoECDSA256 {
		return nil, false
	}
	parsed, err := ssh.ParsePublicKey(k.Marshal())
	if err != nil {
		return nil, false
	}
	c, ok := parsed.(ssh.CryptoPublicKey)
	if !ok {
		return nil, false
	}
	pub, ok := c.CryptoPublicKey().(*ecdsa.PublicKey)
	return pub, ok && pub.Curve == elliptic.P256()
}

func (s *Signer) key(pub *ecdsa.PublicKey) *agentKey { return &agentKey{s, pub} }

// agentKey signs messages in the agent.
type agentKey struct {
	s   *Signer
	pub *ecdsa.PublicKey
}

var _ crypto.MessageSigner = (*agentKey)(nil)

func (k *agentKey) Public() crypto.PublicKey { return k.pub }

// Sign cannot be: the agent hashes what it signs.
func (k *agentKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("signer: an agent signs messages and no digests")
}

// SignMessage returns a signature in ASN.1 that was verified.
func (k *agentKey) SignMessage(_ io.Reader, msg []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 {
		return nil, errors.New("signer: want SHA-256")
	}
	pub, err := ssh.NewPublicKey(k.pub)
	if err != nil {
		return nil, err
	}
	var sig *ssh.Signature
	if err := k.s.ask(func(a agent.Agent) (err error) { sig, err = a.Sign(pub, msg); return err }); err != nil {
		return nil, err
	}
	if err := pub.Verify(msg, sig); err != nil || sig.Format != ssh.KeyAlgoECDSA256 {
		return nil, errors.New("signer: what it returned is no signature of the key")
	}
	var rs struct{ R, S *big.Int } // RFC 5656 section 3.1.2
	if err := ssh.Unmarshal(sig.Blob, &rs); err != nil {
		return nil, errors.New("signer: the signature is malformed")
	}
	return asn1.Marshal(rs)
}
