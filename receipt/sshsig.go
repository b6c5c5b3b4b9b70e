package receipt

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// ApprovalNamespace is the SSHSIG namespace of approvals. A signature made for
// another purpose (git, file) never counts.
const ApprovalNamespace = "sallyport-approval@v1"

// ErrSignature is wrapped by every refusal of a signature. The statement was
// not signed by the key that was asked for; there is nothing to retry.
var ErrSignature = errors.New("signature is not valid")

// SSHPolicy says what a signature by a security key must show. The zero value
// accepts software keys, and security keys whose button was touched.
type SSHPolicy struct {
	RequireHardware     bool // only sk- keys
	RequireVerification bool // the key checked a PIN or a fingerprint; implies RequireHardware
}

// Signer is who made a valid signature, and how.
type Signer struct {
	Key         string // the line of the key, as ParseApprovalKey returns it
	Fingerprint string // SHA256:...
	Hardware    bool   // by its own word, a FIDO authenticator that gives the key to no other device
	Present     bool   // it was touched
	Verified    bool   // it verified its user
	Counter     uint32 // of the authenticator, 0 if it has none; it only rises on an uncloned one
}

// Flags of a security key's signature (WebAuthn level 3, section 6.1).
const (
	flagPresent  = 0x01
	flagVerified = 0x04
)

var sshKeyTypes = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256}

// sshsig is the signature blob (OpenSSH PROTOCOL.sshsig, section 3) after its
// magic preamble.
type sshsig struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  string
	Hash      string
	Signature []byte
}

// sshsigMessage is what is signed (PROTOCOL.sshsig, section 4), after the
// preamble.
type sshsigMessage struct {
	Namespace string
	Reserved  string
	Hash      string
	Digest    []byte
}

const sshsigMagic = "SSHSIG"

// VerifySSHSIG verifies an armored SSH signature (OpenSSH PROTOCOL.sshsig, as
// made by ssh-keygen -Y sign) over message, made for namespace by one of the
// allowed keys, which are lines that ParseSSHKey reads. Ed25519, ECDSA and their
// security key forms count; RSA, DSA and certificates do not. A security key must
// have been touched, and must have verified its user where its line asks for it.
func VerifySSHSIG(message, armored []byte, namespace string, allowed []string, p SSHPolicy) (Signer, error) {
	s, err := verifySSHSIG(message, armored, namespace, allowed, p)
	if err != nil {
		return Signer{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return s, nil
}

func verifySSHSIG(message, armored []byte, namespace string, allowed []string, p SSHPolicy) (Signer, error) {
	blob, err := unarmor(armored)
	if err != nil {
		return Signer{}, err
	}
	key, err := ssh.ParsePublicKey(blob.PublicKey)
	if err != nil {
		return Signer{}, fmt.Errorf("public key: %w", err)
	}
	if !slices.Contains(sshKeyTypes, key.Type()) {
		return Signer{}, fmt.Errorf("key type %s does not count", key.Type())
	}
	line, err := allowKey(key, allowed)
	if err != nil {
		return Signer{}, err
	}
	if namespace == "" || blob.Namespace != namespace {
		return Signer{}, fmt.Errorf("made for %q, want %q", blob.Namespace, namespace)
	}
	digest, err := sshDigest(blob.Hash, message)
	if err != nil {
		return Signer{}, err
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal(blob.Signature, &sig); err != nil {
		return Signer{}, fmt.Errorf("signature: %w", err)
	}
	if sig.Format != key.Type() {
		return Signer{}, fmt.Errorf("%s signature by a %s key", sig.Format, key.Type())
	}
	who := Signer{Key: line, Fingerprint: ssh.FingerprintSHA256(key)}
	if err := readFlags(&who, key.Type(), sig.Rest); err != nil {
		return Signer{}, err
	}
	signed := append([]byte(sshsigMagic), ssh.Marshal(sshsigMessage{blob.Namespace, "", blob.Hash, digest})...)
	if err := key.Verify(signed, &sig); err != nil {
		return Signer{}, err
	}
	switch {
	case (p.RequireHardware || p.RequireVerification) && !who.Hardware:
		return Signer{}, errors.New("not made by a security key")
	case (p.RequireVerification || strings.HasPrefix(line, verifyRequired)) && !who.Verified:
		return Signer{}, errors.New("the security key did not verify its user")
	}
	return who, nil
}

// unarmor reads the one armored block that armored must be (PROTOCOL.sshsig,
// section 1), to the last bit: a signature has one spelling, but for its lines.
func unarmor(armored []byte) (sshsig, error) {
	var s sshsig
	text := strings.TrimSuffix(strings.ReplaceAll(string(armored), "\r\n", "\n"), "\n")
	text, begun := strings.CutPrefix(text, "-----BEGIN SSH SIGNATURE-----\n")
	text, ended := strings.CutSuffix(text, "\n-----END SSH SIGNATURE-----")
	blob, err := base64.StdEncoding.Strict().DecodeString(text)
	if !begun || !ended || err != nil {
		return s, errors.New("not one armored SSH signature")
	}
	body, ok := bytes.CutPrefix(blob, []byte(sshsigMagic))
	if !ok {
		return s, errors.New("not an SSH signature")
	}
	if err := ssh.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("signature blob: %w", err)
	}
	if s.Version != 1 {
		return s, fmt.Errorf("version %d is not known", s.Version)
	}
	if s.Reserved != "" {
		return s, errors.New("reserved field is not empty")
	}
	return s, nil
}

func sshDigest(hash string, message []byte) ([]byte, error) {
	switch hash {
	case "sha256":
		h := sha256.Sum256(message)
		return h[:], nil
	case "sha512":
		h := sha512.Sum512(message)
		return h[:], nil
	}
	return nil, fmt.Errorf("hash %q is not known", hash)
}

// readFlags reads flags and counter of a security key's signature. That the
// key was touched is checked here, whatever the library does.
func readFlags(who *Signer, keyType string, rest []byte) error {
	if keyType != ssh.KeyAlgoSKED25519 && keyType != ssh.KeyAlgoSKECDSA256 {
		if len(rest) > 0 {
			return errors.New("data after the signature")
		}
		return nil
	}
	var f struct {
		Flags   byte
		Counter uint32
	}
	if err := ssh.Unmarshal(rest, &f); err != nil {
		return fmt.Errorf("security key fields: %w", err)
	}
	who.Hardware, who.Counter = true, f.Counter
	who.Present, who.Verified = f.Flags&flagPresent != 0, f.Flags&flagVerified != 0
	if !who.Present {
		return errors.New("the security key was not touched")
	}
	return nil
}

// allowKey returns the line of the key among those allowed.
func allowKey(key ssh.PublicKey, allowed []string) (string, error) {
	for _, line := range allowed {
		k, err := ParseSSHKey(line)
		if err != nil {
			return "", err
		}
		if strings.TrimPrefix(k, verifyRequired) == keyLine(key) {
			return k, nil
		}
	}
	return "", fmt.Errorf("key %s is not one of the %d allowed", ssh.FingerprintSHA256(key), len(allowed))
}

// verifyRequired is the one option that a line may have (sshd(8), AUTHORIZED_KEYS
// FILE FORMAT): this security key counts only when it verified its user.
const verifyRequired = "verify-required "

// ParseSSHKey reads one authorized_keys line of a type that counts and returns
// it as "type base64", after "verify-required " if a security key has that
// option. A line with any other option is refused: an option such as
// no-touch-required would be promised and not kept.
func ParseSSHKey(line string) (string, error) {
	k, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return "", fmt.Errorf("SSH key: %w", err)
	case len(bytes.TrimSpace(rest)) > 0:
		return "", errors.New("SSH key: want one line")
	case !slices.Contains(sshKeyTypes, k.Type()):
		return "", fmt.Errorf("SSH key: type %s does not count", k.Type())
	case len(options) == 0:
		return keyLine(k), nil
	case len(options) == 1 && options[0]+" " == verifyRequired && strings.HasPrefix(k.Type(), "sk-"):
		return verifyRequired + keyLine(k), nil
	}
	return "", errors.New("SSH key: want no option but verify-required, of a security key")
}

func keyLine(k ssh.PublicKey) string {
	return k.Type() + " " + base64.StdEncoding.EncodeToString(k.Marshal())
}
