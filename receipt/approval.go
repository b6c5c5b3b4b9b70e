package receipt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// VerifyApproval verifies a person's signature over the canonical bytes of a
// statement, made by one of the keys, which are lines that ParseApprovalKey
// reads. The signature is an armored SSHSIG in ApprovalNamespace, or an
// Assertion in its String form, whose challenge is SHA-256 of the statement and
// which always verified its user.
func VerifyApproval(statement []byte, signature string, keys []string, p SSHPolicy) (Signer, error) {
	if !strings.HasPrefix(signature, "{") {
		var ssh []string
		for _, k := range keys {
			if !isPasskey(k) {
				ssh = append(ssh, k)
			}
		}
		return VerifySSHSIG(statement, []byte(signature), ApprovalNamespace, ssh, p)
	}
	who, err := verifyByPasskey(statement, signature, keys)
	if err == nil && p.RequireHardware && !who.Hardware {
		err = errors.New("the credential can be copied to other devices")
	}
	if err != nil {
		return Signer{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return who, nil
}

func verifyByPasskey(statement []byte, signature string, keys []string) (Signer, error) {
	a, err := parseAssertion(signature)
	if err != nil {
		return Signer{}, err
	}
	challenge := sha256.Sum256(statement)
	refusal := errors.New("made with a credential that is not one of those allowed")
	for _, line := range keys {
		if !isPasskey(line) {
			continue
		}
		k, err := parsePasskey(line)
		if err != nil {
			return Signer{}, fmt.Errorf("passkey: %w", err)
		}
		if k.id != a.ID {
			continue
		}
		// One credential may be listed more than once, for several origins.
		who, err := verifyAssertion(challenge[:], a, k)
		if err == nil {
			return who, nil
		}
		refusal = err
	}
	return Signer{}, refusal
}

func isPasskey(line string) bool { return strings.HasPrefix(line, passkeyType+" ") }

// ParseApprovalKey reads one line of a person's keys, a passkey as PasskeyLine
// writes it or an SSH key (ParseSSHKey), and returns the one spelling of it.
func ParseApprovalKey(line string) (string, error) {
	if isPasskey(line) {
		return parsePasskeyLine(line)
	}
	return ParseSSHKey(line)
}

// KeyDigest names the public key in a line that ParseApprovalKey reads, whatever
// form the line has: who holds one private key is one signer, whether it is
// declared as an SSH key, as a security key of some application or as a passkey.
func KeyDigest(line string) (string, error) {
	line, err := ParseApprovalKey(line)
	if err != nil {
		return "", err
	}
	var material []byte
	if isPasskey(line) {
		k, err := parsePasskey(line)
		if err != nil {
			return "", err
		}
		if material, err = rawKey(k.public); err != nil {
			return "", err
		}
	} else if material, err = rawSSHKey(line); err != nil {
		return "", err
	}
	sum := sha256.Sum256(material)
	return hex.EncodeToString(sum[:]), nil
}

func rawKey(pub crypto.PublicKey) ([]byte, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return k, nil
	case *ecdsa.PublicKey:
		return k.Bytes()
	}
	return x509.MarshalPKIXPublicKey(pub)
}

// rawSSHKey returns the point of an SSH key (RFC 8709, RFC 5656, OpenSSH
// PROTOCOL.u2f).
func rawSSHKey(line string) ([]byte, error) {
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, err
	}
	if strings.Contains(k.Type(), "ecdsa") {
		var w struct {
			Type, Curve string
			Point       []byte
			Rest        []byte `ssh:"rest"`
		}
		err = ssh.Unmarshal(k.Marshal(), &w)
		return w.Point, err
	}
	var w struct {
		Type string
		Key  []byte
		Rest []byte `ssh:"rest"`
	}
	err = ssh.Unmarshal(k.Marshal(), &w)
	return w.Key, err
}
