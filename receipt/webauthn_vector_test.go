package receipt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"testing"
)

// The test vectors of WebAuthn level 3, section 16, for relying party
// example.org. Each signature verifies; what we make of the assertion follows
// from its flags and client data. The credential ID is not signed, so that the
// one of 1023 bytes (16.6) is left out.
func TestSpecificationVectors(t *testing.T) {
	for _, c := range []struct{ name, key, challenge, flags, client, signature, want string }{
		{"16.6_ES256_user_verified",
			"043b8176b7504489cc593046d7988abb7905a742de6ac2cdc748a873c663e90cb11436d5edc9a75f23999eef9d5950a5c2455514ee1014084720f841a06b828a11",
			"ef1deba56dce48f674a447ccf63b9599258ce87648e5c396f2ef0ca1da460e3b", "0d",
			`{"type":"webauthn.get","challenge":"7x3rpW3OSPZ0pEfM9juVmSWM6HZI5cOW8u8ModpGDjs","origin":"https://example.org","crossOrigin":false}`,
			"304502203ecef83fb12a0cae7841055f9f87103a99fd14b424194bbf06c4623d3ee6e3fd022100d2ace346db262b1374a6b70faa51f518a42ddca13a4125ce6f5052a75bac9fb6", ""},
		{"16.2_ES256_user_not_verified",
			"04afefa16f97ca9b2d23eb86ccb64098d20db90856062eb249c33a9b672f26df61930a56b87a2fca66334b03458abf879717c12cc68ed73290af2e2664796b9220",
			"39c0e7521417ba54d43e8dc95174f423dee9bf3cd804ff6d65c857c9abf4d408", "19",
			`{"type":"webauthn.get","challenge":"OcDnUhQXulTUPo3JUXT0I97pvzzYBP9tZchXyav01Ag","origin":"https://example.org","crossOrigin":false}`,
			"3046022100f50a4e2e4409249c4a853ba361282f09841df4dd4547a13a87780218deffcd380221008480ac0f0b93538174f575bf11a1dd5d78c6e486013f937295ea13653e331e87", "did not verify its user"},
		{"16.4_ES256_cross_origin",
			"0422200a473f90b11078851550d03b4e44a2279f8c4eca27b3153dedfe03e4e97dcbd0be95e746ad6f5a8191be11756e4c0420e72f65b466d39bc56b8b123a9c6e",
			"876aa517ba83fdee65fcffdbca4c84eeae5d54f8041a1fc85c991e5bbb273137", "05",
			`{"type":"webauthn.get","challenge":"h2qlF7qD_e5l_P_bykyE7q5dVPgEGh_IXJkeW7snMTc","origin":"https://example.org","crossOrigin":true,"extraData":"clientDataJSON may be extended with additional fields in the future, such as this: 92pcTVD0Aby-q4dtmj6efg"}`,
			"3046022100eb12fcf23b12764c0f122e22371fab92e283879fd798f38ee1841c951b6e40e7022100c76237ff9db77b3c56f30837cda6a09acfa2e915544e609c0733b1184036d1cf", "another origin"},
		{"16.11_EdDSA_user_not_verified", "44e06ddd331c36a8dc667bab52bcae63486c916aa5e339e6acebaa84934bf832",
			"895957e01c633a698348a2d8a31a54b7db27e8c1c43b2080d79ae2190267bfd2", "01",
			`{"type":"webauthn.get","challenge":"iVlX4BxjOmmDSKLYoxpUt9sn6MHEOyCA15riGQJnv9I","origin":"https://example.org","crossOrigin":false}`,
			"f5c59c7e46c34f6f8cc197101ddf9934fa2595f68eb1913a637e8419eb9ba4cfdfc48f85393bc0d40b011f0d6fecb097d6607525713223a0dc0d453993dae00b", "did not verify its user"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := func(s string) []byte {
				b, err := hex.DecodeString(s)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			var pub crypto.PublicKey = ed25519.PublicKey(raw(c.key))
			if len(c.key) > 64 {
				var err error
				if pub, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw(c.key)); err != nil {
					t.Fatal(err)
				}
			}
			der, err := x509.MarshalPKIXPublicKey(pub)
			if err != nil {
				t.Fatal(err)
			}
			line, err := PasskeyLine("example.org", []string{"https://example.org"}, "AAAA", der)
			if err != nil {
				t.Fatal(err)
			}
			k, err := parsePasskey(line)
			if err != nil {
				t.Fatal(err)
			}
			a := Assertion{ID: "AAAA", ClientData: []byte(c.client), Signature: raw(c.signature),
				AuthenticatorData: raw("bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b5" + c.flags + "00000000")}
			who, err := verifyAssertion(raw(c.challenge), a, k)
			if c.want == "" && (err != nil || !who.Verified || who.Hardware) {
				t.Errorf("got %+v, %v; want it to count, as one that may be backed up", who, err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			// The signature itself, whatever the flags.
			sum := sha256Of(a.ClientData)
			if err := verifyBy(k.public, append(a.AuthenticatorData, sum...), a.Signature); err != nil {
				t.Errorf("signature: got %v", err)
			}
			a.Signature[len(a.Signature)-1] ^= 1
			if err := verifyBy(k.public, append(a.AuthenticatorData, sum...), a.Signature); err == nil {
				t.Error("signature with a flipped bit: got no error")
			}
		})
	}
}

func sha256Of(b []byte) []byte {
	h := crypto.SHA256.New()
	h.Write(b)
	return h.Sum(nil)
}
