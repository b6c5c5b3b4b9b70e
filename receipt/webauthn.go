package receipt

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Limits of WebAuthn values, in bytes.
const (
	maxAssertion    = 32 << 10
	maxCredentialID = 1023 // WebAuthn level 3, section 4, credential ID
	maxOrigins      = 16
)

// More flags of authenticator data (WebAuthn level 3, section 6.1).
const (
	flagEligible   = 0x08 // the credential may be backed up
	flagBackedUp   = 0x10
	flagAttested   = 0x40
	flagExtensions = 0x80
)

// Assertion is what an authenticator signed: the members of WebAuthn's
// AuthenticationResponseJSON (level 3, section 5.1) that verification needs.
type Assertion struct {
	ID                string // of the credential, base64url
	AuthenticatorData []byte
	ClientData        []byte // clientDataJSON
	Signature         []byte
}

// assertion is an Assertion as it is kept: canonical JSON of these members.
type assertion struct {
	ID       string            `json:"id"`
	Response assertionResponse `json:"response"`
	Type     string            `json:"type"`
}

type assertionResponse struct {
	AuthenticatorData string `json:"authenticatorData"`
	ClientDataJSON    string `json:"clientDataJSON"`
	Signature         string `json:"signature"`
}

// base64url is WebAuthn's: without padding, with one spelling for each value.
var base64url = base64.RawURLEncoding.Strict()

// String is the form in which an assertion is kept in a record and a bundle:
// RFC 8785 canonical, and an AuthenticationResponseJSON still.
func (a Assertion) String() string {
	b, err := marshal(assertion{a.ID, assertionResponse{base64url.EncodeToString(a.AuthenticatorData),
		base64url.EncodeToString(a.ClientData), base64url.EncodeToString(a.Signature)}, "public-key"})
	if err != nil {
		panic("receipt: internal error: " + err.Error())
	}
	return string(b)
}

func parseAssertion(text string) (a Assertion, err error) {
	if len(text) > maxAssertion {
		return a, fmt.Errorf("assertion is larger than %d bytes", maxAssertion)
	}
	var in assertion
	if err := unmarshal([]byte(text), &in); err != nil {
		return a, fmt.Errorf("assertion: %w", err)
	}
	if in.Type != "public-key" {
		return a, errors.New("assertion: type is not public-key")
	}
	a.ID = in.ID
	for _, f := range []struct {
		to   *[]byte
		from string
	}{{&a.AuthenticatorData, in.Response.AuthenticatorData}, {&a.ClientData, in.Response.ClientDataJSON}, {&a.Signature, in.Response.Signature}} {
		if *f.to, err = base64url.DecodeString(f.from); err != nil {
			return a, fmt.Errorf("assertion: %w", err)
		}
	}
	return a, nil
}

// passkey is a WebAuthn credential as declared for a person.
type passkey struct {
	rpID    string
	origins []string
	id      string // base64url
	spki    []byte
	public  crypto.PublicKey
}

const passkeyType = "webauthn"

// PasskeyLine writes a WebAuthn credential as one line of a person's keys:
//
//	webauthn RPID ORIGIN[,ORIGIN...] CREDENTIAL-ID PUBLIC-KEY
//
// id is base64url as the browser gives it. spki is the SubjectPublicKeyInfo
// that AuthenticatorAttestationResponse.getPublicKey() returns (level 3, section
// 5.2.1). ES256 (P-256), EdDSA (Ed25519) and RS256 (2048 to 4096 bits) count.
func PasskeyLine(rpID string, origins []string, id string, spki []byte) (string, error) {
	origins = slices.Sorted(slices.Values(origins))
	return parsePasskeyLine(strings.Join([]string{passkeyType, rpID, strings.Join(origins, ","), id, base64.StdEncoding.EncodeToString(spki)}, " "))
}

func parsePasskeyLine(line string) (string, error) {
	k, err := parsePasskey(line)
	if err != nil {
		return "", fmt.Errorf("passkey: %w", err)
	}
	return k.line(), nil
}

func (k passkey) line() string {
	return strings.Join([]string{passkeyType, k.rpID, strings.Join(k.origins, ","), k.id, base64.StdEncoding.EncodeToString(k.spki)}, " ")
}

var rpIDForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

func parsePasskey(line string) (k passkey, err error) {
	f := strings.Split(line, " ")
	if len(f) != 5 || f[0] != passkeyType {
		return k, errors.New("want: webauthn RPID ORIGINS CREDENTIAL-ID PUBLIC-KEY")
	}
	k = passkey{rpID: f[1], origins: strings.Split(f[2], ","), id: f[3]}
	if len(k.rpID) > 253 || !rpIDForm.MatchString(k.rpID) {
		return k, errors.New("relying party ID: want a domain in lower case")
	}
	if len(k.origins) > maxOrigins || !slices.IsSorted(k.origins) || len(slices.Compact(slices.Clone(k.origins))) != len(k.origins) {
		return k, fmt.Errorf("origins: want at most %d, sorted, each once", maxOrigins)
	}
	for _, o := range k.origins {
		if err := checkOrigin(o, k.rpID); err != nil {
			return k, err
		}
	}
	if id, err := base64url.DecodeString(k.id); err != nil || len(id) == 0 || len(id) > maxCredentialID {
		return k, fmt.Errorf("credential ID: want base64url of 1 to %d bytes", maxCredentialID)
	}
	if k.spki, err = base64.StdEncoding.Strict().DecodeString(f[4]); err != nil {
		return k, errors.New("public key: want base64")
	}
	k.public, err = parseSPKI(k.spki)
	return k, err
}

// checkOrigin: a page of that origin may ask for credentials of the relying
// party (level 3, section 5.1.4.1: the ID is a suffix of the origin's domain, in
// a secure context).
func checkOrigin(origin, rpID string) error {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme+"://"+u.Host != origin || u.Host == "" || u.Host != strings.ToLower(u.Host) {
		return fmt.Errorf("origin %q: want https://host[:port]", origin)
	}
	host := u.Hostname()
	if u.Scheme != "https" && (u.Scheme != "http" || host != "localhost" && !strings.HasSuffix(host, ".localhost")) {
		return fmt.Errorf("origin %q: want https", origin)
	}
	if host != rpID && !strings.HasSuffix(host, "."+rpID) {
		return fmt.Errorf("origin %q does not belong to relying party %q", origin, rpID)
	}
	return nil
}

func parseSPKI(der []byte) (crypto.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("public key: want SubjectPublicKeyInfo")
	}
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || !bytes.Equal(again, der) {
		return nil, errors.New("public key: not in its one DER form")
	}
	switch k := pub.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, errors.New("public key: want curve P-256")
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 || k.E != 65537 {
			return nil, errors.New("public key: want RSA of 2048 to 4096 bits and exponent 65537")
		}
	default:
		return nil, fmt.Errorf("public key: type %T does not count", pub)
	}
	return pub, nil
}

// verifyAssertion follows WebAuthn level 3, section 7.2. The user must have been verified; an assertion made inside
// a frame of another origin does not count. Not checked here: the signature
// counter, which needs memory, and the user handle, since the credential alone
// names the person.
func verifyAssertion(challenge []byte, a Assertion, k passkey) (Signer, error) {
	if a.ID != k.id {
		return Signer{}, errors.New("made with another credential")
	}
	if err := checkClientData(a.ClientData, challenge, k.origins); err != nil {
		return Signer{}, err
	}
	d := a.AuthenticatorData
	if len(d) != 37 {
		// No extension was asked for, and an assertion attests nothing.
		return Signer{}, fmt.Errorf("authenticator data has %d bytes, want 37", len(d))
	}
	rp := sha256.Sum256([]byte(k.rpID))
	flags := d[32]
	switch {
	case !bytes.Equal(d[:32], rp[:]):
		return Signer{}, errors.New("made for another relying party")
	case flags&flagPresent == 0:
		return Signer{}, errors.New("the authenticator was not touched")
	case flags&flagVerified == 0:
		return Signer{}, errors.New("the authenticator did not verify its user")
	case flags&flagBackedUp != 0 && flags&flagEligible == 0:
		return Signer{}, errors.New("backed up without being eligible for it")
	case flags&(flagAttested|flagExtensions) != 0:
		return Signer{}, errors.New("flags name data that is not there")
	}
	sum := sha256.Sum256(a.ClientData)
	if err := verifyBy(k.public, append(slices.Clone(d), sum[:]...), a.Signature); err != nil {
		return Signer{}, err
	}
	print := sha256.Sum256(k.spki)
	return Signer{Key: k.line(), Fingerprint: "SHA256:" + base64.RawStdEncoding.EncodeToString(print[:]),
		Hardware: flags&flagEligible == 0, Present: true, Verified: true, Counter: binary.BigEndian.Uint32(d[33:])}, nil
}

// checkClientData reads clientDataJSON (level 3, section 5.8.1). Names are
// compared exactly, and a name that is given twice is refused: encoding/json
// alone would take "Origin" for "origin". Other members may follow, as the
// specification says.
func checkClientData(raw, challenge []byte, origins []string) error {
	if _, err := canonical(raw); err != nil {
		return fmt.Errorf("client data: %w", err)
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("client data: %w", err)
	}
	text := func(name string) string {
		var s string
		if len(m[name]) == 0 || m[name][0] != '"' || json.Unmarshal(m[name], &s) != nil {
			return ""
		}
		return s
	}
	_, top := m["topOrigin"]
	cross, said := m["crossOrigin"]
	switch {
	case text("type") != "webauthn.get":
		return errors.New("client data: type is not webauthn.get")
	case text("challenge") != base64url.EncodeToString(challenge):
		return errors.New("client data: the challenge is of another statement")
	case !slices.Contains(origins, text("origin")):
		return fmt.Errorf("client data: origin %.100q is not the credential's", text("origin"))
	case said && string(cross) != "false" || top:
		return errors.New("client data: made inside a page of another origin")
	}
	return nil
}

func verifyBy(pub crypto.PublicKey, signed, sig []byte) error {
	digest := sha256.Sum256(signed)
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, digest[:], sig)
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, signed, sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], sig) == nil
	}
	if !ok {
		return errors.New("the signature is not by this credential")
	}
	return nil
}
