package approval

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Namespace is the SSHSIG namespace of approvals: a signature made for
// anything else (a commit, a file) is not an approval.
const Namespace = "sallyport-approval@v1"

// The SSHSIG format: OpenSSH PROTOCOL.sshsig.
const (
	sigBegin = "-----BEGIN SSH SIGNATURE-----"
	sigEnd   = "-----END SSH SIGNATURE-----"
	sigMagic = "SSHSIG"
	maxSig   = 16 << 10 // bytes of the armored form
	minRSA   = 3072     // bits
)

// FIDO authenticator flags (CTAP 2 authenticatorData; OpenSSH PROTOCOL.u2f).
const (
	flagPresent  = 0x01
	flagVerified = 0x04
)

type sigBlob struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  string
	Hash      string
	Signature []byte
}

type sigSigned struct {
	Namespace string
	Reserved  string
	Hash      string
	Digest    []byte
}

// Signature is a verified signature. It says which key signed, not whose it is.
type Signature struct {
	Key         ssh.PublicKey
	Fingerprint string // SHA256:...
	Hardware    bool   // a FIDO key
	Present     bool   // a person touched the FIDO key
	Verified    bool   // the FIDO key verified its user
	Counter     uint32 // of the FIDO key
}

// Sign signs the statement's canonical bytes, like
// ssh-keygen -Y sign -n sallyport-approval@v1. The signer may be a private key
// or a key of an agent.
func Sign(s Statement, signer ssh.Signer) ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	msg, err := s.Bytes()
	if err != nil {
		return nil, err
	}
	if err := checkKey(signer.PublicKey()); err != nil {
		return nil, err
	}
	sum := sha512.Sum512(msg)
	signed := append([]byte(sigMagic), ssh.Marshal(sigSigned{Namespace, "", "sha512", sum[:]})...)
	var sig *ssh.Signature
	if as, ok := signer.(ssh.AlgorithmSigner); ok && signer.PublicKey().Type() == ssh.KeyAlgoRSA {
		sig, err = as.SignWithAlgorithm(rand.Reader, signed, ssh.KeyAlgoRSASHA512)
	} else {
		sig, err = signer.Sign(rand.Reader, signed)
	}
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	blob := append([]byte(sigMagic), ssh.Marshal(sigBlob{1, signer.PublicKey().Marshal(), Namespace, "", "sha512", ssh.Marshal(sig)})...)
	var out bytes.Buffer
	out.WriteString(sigBegin + "\n")
	for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(blob)), 70) {
		out.Write(line)
		out.WriteByte('\n')
	}
	out.WriteString(sigEnd + "\n")
	return out.Bytes(), nil
}

// Verify checks an armored SSHSIG over the statement's canonical bytes. A FIDO
// signature without a touch is refused here; whether the key belongs to a
// person who may approve is not asked here.
func Verify(s Statement, armored []byte) (Signature, error) {
	msg, err := s.Bytes()
	if err != nil {
		return Signature{}, err
	}
	blob, err := unarmor(armored)
	if err != nil {
		return Signature{}, err
	}
	bad := func(reason string) (Signature, error) { return Signature{}, refuse("signature_invalid", reason) }
	if blob.Version != 1 {
		return bad("the signature is of an unknown version")
	}
	if blob.Namespace != Namespace {
		return Signature{}, refuse("signature_namespace", "the signature was made for another purpose")
	}
	if blob.Reserved != "" {
		return bad("the signature has a reserved field")
	}
	key, err := ssh.ParsePublicKey(blob.PublicKey)
	if err != nil || !bytes.Equal(key.Marshal(), blob.PublicKey) {
		return bad("the key in the signature cannot be read")
	}
	if err := checkKey(key); err != nil {
		return Signature{}, err
	}
	var h []byte
	switch blob.Hash {
	case "sha512":
		sum := sha512.Sum512(msg)
		h = sum[:]
	case "sha256":
		sum := sha256.Sum256(msg)
		h = sum[:]
	default:
		return bad("the signature uses an unknown hash")
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal(blob.Signature, &sig); err != nil {
		return bad("the signature cannot be read")
	}
	hardware := strings.HasPrefix(key.Type(), "sk-")
	if !formatFits(key.Type(), sig.Format) || !hardware && len(sig.Rest) > 0 {
		return bad("the signature does not fit its key")
	}
	out := Signature{Key: key, Fingerprint: ssh.FingerprintSHA256(key), Hardware: hardware}
	if hardware {
		var fido struct {
			Flags   byte
			Counter uint32
		}
		if err := ssh.Unmarshal(sig.Rest, &fido); err != nil {
			return bad("the signature of the hardware key cannot be read")
		}
		out.Present, out.Verified, out.Counter = fido.Flags&flagPresent != 0, fido.Flags&flagVerified != 0, fido.Counter
		if !out.Present {
			return Signature{}, refuse("user_presence", "the hardware key was not touched")
		}
	}
	signed := append([]byte(sigMagic), ssh.Marshal(sigSigned{Namespace, "", blob.Hash, h})...)
	if err := key.Verify(signed, &sig); err != nil {
		return bad("the signature is not over this statement")
	}
	return out, nil
}

func formatFits(keyType, format string) bool {
	if keyType == ssh.KeyAlgoRSA {
		return format == ssh.KeyAlgoRSASHA512 || format == ssh.KeyAlgoRSASHA256
	}
	return format == keyType
}

// checkKey accepts the key types that may approve. Certificates are refused:
// who a key belongs to is said by the directory alone.
func checkKey(k ssh.PublicKey) error {
	weak := refuse("key_type", "keys of this type cannot approve")
	switch k.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		c, ok := k.(interface{ CryptoPublicKey() crypto.PublicKey })
		if !ok {
			return weak
		}
		if r, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() >= minRSA {
			return nil
		}
	}
	return weak
}

// unarmor reads the armored form strictly: one block, nothing around it but
// white space.
func unarmor(armored []byte) (sigBlob, error) {
	bad := func() (sigBlob, error) { return sigBlob{}, refuse("signature_invalid", "not an armored SSH signature") }
	if len(armored) > maxSig {
		return bad()
	}
	s, ok := strings.CutPrefix(strings.TrimSpace(string(armored)), sigBegin)
	if !ok {
		return bad()
	}
	if s, ok = strings.CutSuffix(s, sigEnd); !ok {
		return bad()
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(strings.NewReplacer("\n", "", "\r", "").Replace(s))
	if err != nil {
		return bad()
	}
	raw, ok = bytes.CutPrefix(raw, []byte(sigMagic))
	if !ok {
		return bad()
	}
	var b sigBlob
	if err := ssh.Unmarshal(raw, &b); err != nil {
		return bad()
	}
	return b, nil
}

// parseKey reads one line of a person's keys, in the form of authorized_keys.
// Options are refused except verify-required, since sshd's meaning of the
// others has none here.
func parseKey(line string) (key ssh.PublicKey, verify bool, err error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, false, errors.New("approval key cannot be read")
	}
	for _, o := range options {
		if o != "verify-required" {
			return nil, false, fmt.Errorf("approval key has the option %q", o)
		}
		verify = true
	}
	return key, verify, checkKey(key)
}
