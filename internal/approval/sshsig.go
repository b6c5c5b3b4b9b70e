package approval

import (
	"bytes"
	"crypto/rand"
	"crypto/sha512"
	"encoding/pem"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/receipt"
)

// Namespace is the SSHSIG namespace of approvals: a signature made for
// anything else (a commit, a file) is not an approval.
const Namespace = receipt.ApprovalNamespace

// Sign signs the statement's canonical bytes as SSHSIG (OpenSSH
// PROTOCOL.sshsig), like ssh-keygen -Y sign -n sallyport-approval@v1. The
// signer may be a private key or a key of an agent.
func Sign(s Statement, signer ssh.Signer) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	key := signer.PublicKey()
	if _, err := receipt.ParseSSHKey(authorizedKey(key)); err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	msg, err := s.Bytes()
	if err != nil {
		return nil, err
	}
	const magic, hash = "SSHSIG", "sha512"
	sum := sha512.Sum512(msg)
	sig, err := signer.Sign(rand.Reader, append([]byte(magic), ssh.Marshal(struct {
		Namespace, Reserved, Hash string
		Digest                    []byte
	}{Namespace, "", hash, sum[:]})...))
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	blob := append([]byte(magic), ssh.Marshal(struct {
		Version                   uint32
		Key                       []byte
		Namespace, Reserved, Hash string
		Signature                 []byte
	}{1, key.Marshal(), Namespace, "", hash, ssh.Marshal(sig)})...)
	var b bytes.Buffer
	err = pem.Encode(&b, &pem.Block{Type: "SSH SIGNATURE", Bytes: blob})
	return b.Bytes(), err
}

func authorizedKey(k ssh.PublicKey) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}
