package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// offered is a certificate that is shown and not proved (RFC 4252, section 7: a
// publickey request without a signature). The client comes to Sign only when the
// host has said that it would accept it.
type offered struct {
	cert     *ssh.Certificate
	accepted bool
}

func (o *offered) PublicKey() ssh.PublicKey { return o.cert }

func (o *offered) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	o.accepted = true
	return nil, errors.New("offered, and not proved")
}

// offer asks the host whether it would accept the certificate. An error is no
// answer: the host is away, is another, or broke off.
func (s *Source) offer(ctx context.Context, cert *ssh.Certificate) (accepted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := s.c.Dial(ctx, "tcp", s.c.Address)
	if err != nil {
		return false, fmt.Errorf("the host cannot be reached: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	o := &offered{cert: cert}
	conn, _, _, err := ssh.NewClientConn(c, s.c.Address, &ssh.ClientConfig{User: s.c.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(o)},
		HostKeyCallback: s.known, HostKeyAlgorithms: s.algorithms()})
	switch {
	case err == nil: // without any proof: such a host lets everybody in
		conn.Close()
		return true, nil
	case o.accepted:
		return true, nil
	case strings.Contains(err.Error(), "unable to authenticate"): // the library's words for SSH_MSG_USERAUTH_FAILURE
		return false, nil
	}
	return false, fmt.Errorf("the host gave no answer: %w", err)
}

// known accepts the declared keys alone.
func (s *Source) known(_ string, _ net.Addr, key ssh.PublicKey) error {
	for _, k := range s.c.HostKeys {
		if bytes.Equal(k.Marshal(), key.Marshal()) {
			return nil
		}
	}
	return errors.New("the host has another key than the declared ones")
}

// algorithms are those of the declared keys, so that the host shows one of them.
func (s *Source) algorithms() (out []string) {
	for _, k := range s.c.HostKeys {
		if k.Type() == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		out = append(out, k.Type())
	}
	return out
}
