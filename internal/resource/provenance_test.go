package resource_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
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

	"github.com/sallyport-dev/sallyport/internal/action"
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

// envelope signs a payload on P-384, as the tool for models does by default.
func envelope(t *testing.T, k *ecdsa.PrivateKey, payloadType, payload string) string {
	t.Helper()
	sum := sha512.Sum384(receipt.PAE(payloadType, []byte(payload)))
	sig, err := ecdsa.SignASN1(rand.Reader, k, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q,"keyid":""}]}`,
		base64.StdEncoding.EncodeToString([]byte(payload)), payloadType, base64.StdEncoding.EncodeToString(sig))
}

// Provenance that in-toto's own library makes is taken, and says which program was
// built by whom; anything else than that is refused.
func TestProvenance(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program of another module")
	}
	dir := t.TempDir()
	program, key := filepath.Join(dir, "harness"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	const builder = "https://ci.example/builders/1"
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
		"another_statement":  {signed(inTotoType, "in-toto.io/Statement/v1", "in-toto.io/Statement/v0.1"), "want https://in-toto.io/Statement/v1"},
		"weaker_digest":      {signed(inTotoType, `"sha256"`, `"sha1"`), "no subject has a sha256 digest"},
		"digest_in_capitals": {signed(inTotoType, sum, strings.ToUpper(sum)), "no subject has a sha256 digest"},
		"builder_twice":      {signed(inTotoType, `"builder":`, `"builder":{"id":"x"},"builder":`), "duplicate"},
		"not_json":           {resource.Provenance{Statement: "builder: me", Key: mine, Builder: builder}, "json"},
		"empty":              {resource.Provenance{Key: mine, Builder: builder}, "json"},
		"too_large":          {resource.Provenance{Statement: strings.Repeat(" ", 5<<20) + good.Statement, Key: good.Key, Builder: builder}, "larger than"},
	} {
		if b, err := c.p.Verify(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v, want %q", name, b, err, c.want)
		}
	}
}

// A model's signature is a bundle whose subject is over all of its files; whatever
// is not that is refused. The bundles are made here, in the form that the tool of
// OpenSSF writes.
func TestModelSignature(t *testing.T) {
	k, public := newECDSA(t, elliptic.P384())
	a, b := sha256.Sum256([]byte("weights")), sha256.Sum256([]byte("tokens"))
	all := sha256.Sum256(append(a[:], b[:]...))
	payload := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"%x"}}],"predicateType":"https://model_signing/signature/v1.0",
"predicate":{"resources":[{"name":"a","algorithm":"sha256","digest":"%x"},{"name":"b","algorithm":"sha256","digest":"%x"}],"serialization":{"method":"files","hash_type":"sha256"}}}`, all, a, b)
	bundle := func(media, payload string) *resource.ModelSignature {
		return &resource.ModelSignature{Key: public, Statement: fmt.Sprintf(`{"mediaType":%q,"verificationMaterial":{"publicKey":{"hint":"x"},"tlogEntries":[]},"dsseEnvelope":%s}`,
			media, envelope(t, k, "application/vnd.in-toto+json", payload))}
	}
	const v03 = "application/vnd.dev.sigstore.bundle.v0.3+json"
	files, key, err := bundle(v03, payload).Verify()
	if err != nil || files != "sha256:"+action.Digest(hex.EncodeToString(all[:])) || !strings.HasPrefix(string(key), "sha256:") {
		t.Fatalf("got %s by %s, %v", files, key, err)
	}
	swap := func(from, to string) *resource.ModelSignature {
		if !strings.Contains(payload, from) {
			t.Fatalf("%q is not there", from)
		}
		return bundle(v03, strings.Replace(payload, from, to, 1))
	}
	_, other := newECDSA(t, elliptic.P384())
	for name, c := range map[string]struct {
		m    *resource.ModelSignature
		want string
	}{
		"another_key":      {&resource.ModelSignature{Statement: bundle(v03, payload).Statement, Key: other}, "not by any"},
		"another_media":    {bundle("application/json", payload), "no bundle of a model signature"},
		"file_left_out":    {swap(fmt.Sprintf(`,{"name":"b","algorithm":"sha256","digest":"%x"}`, b), ""), "not the SHA-256 over"},
		"files_exchanged":  {swap(fmt.Sprintf("%x", a), fmt.Sprintf("%x", b)), "not the SHA-256 over"},
		"no_files":         {swap(payload[strings.Index(payload, `[{"name":"a"`):strings.Index(payload, `,"serialization"`)], "[]"), "not the SHA-256 over"},
		"digest_not_hex":   {swap(fmt.Sprintf("%x", a), "zz"), "resources[0]"},
		"no_name":          {swap(`"name":"a"`, `"name":""`), "resources[0]"},
		"of_something":     {swap("https://model_signing/signature/v1.0", "https://slsa.dev/provenance/v1"), "want https://in-toto.io/Statement/v1"},
		"no_envelope":      {&resource.ModelSignature{Statement: `{"mediaType":"` + v03 + `"}`, Key: public}, "without a DSSE envelope"},
		"not_json":         {&resource.ModelSignature{Statement: "x", Key: public}, "json"},
		"another_envelope": {&resource.ModelSignature{Statement: envelope(t, k, "application/vnd.in-toto+json", payload), Key: public}, "no bundle"},
	} {
		if files, _, err := c.m.Verify(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %s, %v, want %q", name, files, err, c.want)
		}
	}
}
