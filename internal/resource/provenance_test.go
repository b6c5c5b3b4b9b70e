package resource_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/receipt"
	"github.com/sallyport-dev/sallyport/test/peer"
)

func newECDSA(t *testing.T, curve elliptic.Curve) (*ecdsa.PrivateKey, string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// sign signs with the hash that goes with the curve, as OpenSSF's tool for models does.
func sign(t *testing.T, k *ecdsa.PrivateKey, what []byte) string {
	t.Helper()
	sum := map[elliptic.Curve]crypto.Hash{elliptic.P256(): crypto.SHA256, elliptic.P384(): crypto.SHA384, elliptic.P521(): crypto.SHA512}[k.Curve].New()
	sum.Write(what)
	sig, err := ecdsa.SignASN1(rand.Reader, k, sum.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sig)
}

// envelope signs a payload.
func envelope(t *testing.T, k *ecdsa.PrivateKey, payloadType, payload string) string {
	t.Helper()
	return fmt.Sprintf(`{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q,"keyid":""}]}`,
		base64.StdEncoding.EncodeToString([]byte(payload)), payloadType, sign(t, k, receipt.PAE(payloadType, []byte(payload))))
}

// Provenance that in-toto's own library makes is taken, and says which program was
// built by whom; anything else than that is refused.
//
// Threats: P2 (policy)
func TestProvenance(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program of another module")
	}
	dir := t.TempDir()
	program, key := filepath.Join(dir, "harness"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), peer.Build(t, "intoto"), "build", program, builder, key).Output()
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	good := resource.Provenance{Statement: string(out), Key: string(public), Builder: builder}
	b, err := good.Verify()
	if err != nil || b.Builder != builder || len(b.Programs) != 1 || !b.Programs[canon.Digest([]byte("#!/bin/sh\n"))] {
		t.Fatalf("got %+v, %v", b, err)
	}

	var env map[string]any
	if err := json.Unmarshal(out, &env); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(env["payload"].(string))
	if err != nil {
		t.Fatal(err)
	}
	k, mine := newECDSA(t, elliptic.P384())
	const inTotoType = "application/vnd.in-toto+json"
	signed := func(payloadType, from, to string) resource.Provenance {
		text := strings.Replace(string(payload), from, to, 1)
		if from != "" && text == string(payload) {
			t.Fatalf("%q is not in %s", from, payload)
		}
		return resource.Provenance{Statement: envelope(t, k, payloadType, text), Key: mine, Builder: builder}
	}
	if _, err := new(signed(inTotoType, "", "")).Verify(); err != nil {
		t.Fatalf("the same by another key: %v", err)
	}
	// slsa-github-generator adds the certificate, cosign writes the statement's older type.
	for name, p := range map[string]resource.Provenance{
		"certificate_beside": {Statement: strings.Replace(good.Statement, `"signatures":[{`, `"signatures":[{"cert":"x",`, 1), Key: good.Key, Builder: builder},
		"older_statement":    signed(inTotoType, "in-toto.io/Statement/v1", "in-toto.io/Statement/v0.1"),
		"bundle":             {Statement: bundled(bundleV03, byKey, good.Statement), Key: good.Key, Builder: builder},
	} {
		if got, err := p.Verify(); err != nil || len(got.Programs) != 1 || p.Statement == good.Statement {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	sum := hex.EncodeToString(func() []byte { s := sha256.Sum256([]byte("#!/bin/sh\n")); return s[:] }())
	for name, c := range map[string]struct {
		p    resource.Provenance
		want string
	}{
		"another_key":        {resource.Provenance{Statement: good.Statement, Key: mine, Builder: builder}, "not by any of the 1 keys"},
		"another_builder":    {resource.Provenance{Statement: good.Statement, Key: good.Key, Builder: builder + "0"}, "built by"},
		"no_builder":         {signed(inTotoType, `"builder":`, `"bilder":`), "built by"},
		"edited":             {resource.Provenance{Statement: strings.Replace(good.Statement, env["payload"].(string), base64.StdEncoding.EncodeToString([]byte(strings.Replace(string(payload), sum, strings.Repeat("0", 64), 1))), 1), Key: good.Key, Builder: builder}, "not by any"},
		"two_keys":           {resource.Provenance{Statement: good.Statement, Key: good.Key + mine, Builder: builder}, "want one public key"},
		"private_key":        {resource.Provenance{Statement: good.Statement, Key: strings.ReplaceAll(good.Key, "PUBLIC", "PRIVATE"), Builder: builder}, "want one public key"},
		"no_key":             {resource.Provenance{Statement: good.Statement, Builder: builder}, "want one public key"},
		"another_payload":    {signed("text/plain", "", ""), "payload type"},
		"another_predicate":  {signed(inTotoType, "slsa.dev/provenance/v1", "slsa.dev/provenance/v0.2"), "want https://in-toto.io/Statement/v1"},
		"another_statement":  {signed(inTotoType, "in-toto.io/Statement/v1", "in-toto.io/Statement/v0.2"), "want https://in-toto.io/Statement/v1"},
		"weaker_digest":      {signed(inTotoType, `"sha256"`, `"sha1"`), "no subject has a sha256 digest"},
		"digest_in_capitals": {signed(inTotoType, sum, strings.ToUpper(sum)), "no subject has a sha256 digest"},
		"builder_twice":      {signed(inTotoType, `"builder":`, `"builder":{"id":"x"},"builder":`), "duplicate"},
		"not_json":           {resource.Provenance{Statement: "builder: me", Key: mine, Builder: builder}, "json"},
		"empty":              {resource.Provenance{Key: mine, Builder: builder}, "json"},
		"bundle_of_others":   {resource.Provenance{Statement: bundled("text/plain", byKey, good.Statement), Key: good.Key, Builder: builder}, "no bundle"},
		"too_large":          {resource.Provenance{Statement: strings.Repeat(" ", 5<<20) + good.Statement, Key: good.Key, Builder: builder}, "larger than"},
	} {
		if b, err := c.p.Verify(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v, want %q", name, b, err, c.want)
		}
	}
}
