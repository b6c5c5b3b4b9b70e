package resource_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/test/peer"
)

const builder = "https://ci.example/builders/1"

var provenanceOf = fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"harness","digest":{"sha256":%q}}],"predicateType":"https://slsa.dev/provenance/v1",
"predicate":{"buildDefinition":{"buildType":"https://ci.example/v1","externalParameters":{}},"runDetails":{"builder":{"id":%q}}}}`, sum("harness"), builder)

// What cosign and the tool for models in Go have signed is taken for what it is, and
// with any byte changed it is not.
//
// Threats: P2 (policy)
func TestSignedByTools(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join("testdata", "signed", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, curve := range []string{"p256", "p384", "p521"} {
		text, key := read("model-"+curve+".sig"), read("model-"+curve+".pem")
		got, err := (&resource.ModelSignature{Statement: text, Key: key}).Verify()
		if err != nil || got.Root != "sha256:"+action.Digest(rootOf(weights, tokens)) {
			t.Fatalf("%s: got %+v, %v", curve, got, err)
		}
		if curve == "p256" { // the others are slow
			everyByte(t, text, key)
		}
	}
	for _, name := range []string{"harness.bundle.json", "harness.intoto.json"} {
		text, key := read(name), read("harness.pem")
		for i := range len(text) + 1 {
			b := []byte(text)
			if i < len(b) {
				b[i] ^= 1
			}
			got, err := (&resource.Provenance{Statement: string(b), Key: key, Builder: builder}).Verify()
			if i == len(b) && err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err == nil && (len(got.Programs) != 1 || !got.Programs["sha256:"+action.Digest(sum("harness"))]) {
				t.Errorf("%s, byte %d: got %+v", name, i, got)
			}
		}
	}
}

// Bundles that Sigstore's own packages make are taken, and what is taken here, they
// take: with any byte of it changed too.
//
// Threats: P2 (policy)
func TestSigstoreBundles(t *testing.T) {
	if testing.Short() {
		t.Skip("installs modules of another registry")
	}
	dir, err := filepath.Abs("../../test/sigstore")
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Modules(dir); err != nil {
		t.Fatal(err)
	}
	k, public := newECDSA(t, elliptic.P256())
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	keys := t.TempDir()
	private, pub := filepath.Join(keys, "key.pem"), filepath.Join(keys, "pub.pem")
	for name, text := range map[string]string{private: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), pub: public} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	node := func(verb, key, input string) string {
		c := exec.CommandContext(t.Context(), "node", filepath.Join(dir, "dsse.mjs"), verb, key)
		c.Stdin, c.Stderr = strings.NewReader(input), t.Output()
		out, err := c.Output()
		if err != nil {
			t.Fatalf("node %s: %v", verb, err)
		}
		return string(out)
	}
	ofModel := func(text string) error {
		_, err := (&resource.ModelSignature{Statement: text, Key: public}).Verify()
		return err
	}
	ofBuild := func(text string) error {
		_, err := (&resource.Provenance{Statement: text, Key: public, Builder: builder}).Verify()
		return err
	}
	ours := bundled(bundleV03, byKey, envelope(t, k, inTotoMedia, statementOf()))
	for name, c := range map[string]struct {
		text   string
		verify func(string) error
	}{
		"their_model": {node("sign", private, statementOf()), ofModel}, "their_build": {node("sign", private, provenanceOf), ofBuild}, "our_model": {ours, ofModel},
	} {
		if err := c.verify(c.text); err != nil {
			t.Errorf("%s: %v of %s", name, err, c.text)
		}
		var all bytes.Buffer
		var taken []bool
		for i := range len(c.text) + 1 {
			b := []byte(c.text)
			if i < len(b) {
				b[i] ^= 1
			}
			line, err := json.Marshal(string(b))
			if err != nil || !json.Valid(b) {
				continue // refused by both
			}
			all.Write(append(line, '\n'))
			taken = append(taken, c.verify(string(b)) == nil)
		}
		verdicts := strings.Split(strings.TrimSpace(node("verify", pub, all.String())), "\n")
		if len(verdicts) != len(taken) {
			t.Fatalf("%s: %d verdicts of %d", name, len(verdicts), len(taken))
		}
		if n := len(taken) - 1; !taken[n] || verdicts[n] != "true" {
			t.Errorf("%s, as it is: taken %v, and by Sigstore: %s", name, taken[n], verdicts[n])
		}
		for i, theirs := range verdicts {
			if taken[i] && theirs != "true" {
				t.Errorf("%s: taken here with another byte, and by Sigstore: %s\n%s", name, theirs, strings.Split(all.String(), "\n")[i])
			}
		}
	}
}

// What others have published: npm's registry has signed with its key, and a build of
// GitHub's with a certificate. They are in the tests of Sigstore's library for Go.
//
// Threats: P2, P5 (policy)
func TestPublishedBundles(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads another module")
	}
	var module struct{ Dir, Sum string }
	if err := json.Unmarshal([]byte(peer.Go(t, "intoto", "mod", "download", "-json", "github.com/sigstore/sigstore-go@v1.3.0")), &module); err != nil {
		t.Fatal(err)
	}
	if module.Sum != "h1:hnIMHREyCNTYFtOE1o7ae3Axa9B5W5EjUSBJICP2NBE=" {
		t.Fatalf("it has changed: %s", module.Sum)
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(module.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	type parts struct {
		Material struct {
			Chain struct {
				Certificates []struct{ RawBytes []byte }
			} `json:"x509CertificateChain"`
		} `json:"verificationMaterial"`
		Envelope json.RawMessage `json:"dsseEnvelope"`
	}
	var build parts
	text := read("pkg/testing/data/bundles/sigstore.js@2.0.0-provenance.sigstore.json")
	if err := json.Unmarshal([]byte(text), &build); err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(build.Material.Chain.Certificates[0].RawBytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	leafKey := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	published, npmKey := read("examples/bundle-publish.json"), read("examples/publish_key.pub")
	const github = "https://github.com/actions/runner/github-hosted"
	_, other := newECDSA(t, elliptic.P256())
	for name, c := range map[string]struct{ text, key, builder, want string }{
		// The signatures are good: it is what they sign that is not asked for.
		"github_envelope": {string(build.Envelope), leafKey, github, "no subject has a sha256 digest"}, // npm's are SHA-512
		"npm_published":   {published, npmKey, github, `"https://in-toto.io/Statement/v0.1" with predicate "https://github.com/npm/attestation/tree/main/specs/publish/v0.1"`},

		"github_bundle":      {text, leafKey, github, "made with a certificate"},
		"github_another_key": {string(build.Envelope), other, github, "not by any"},
		"github_changed":     {strings.Replace(string(build.Envelope), "eyJfdHlwZSI6", "eyJfdHlwZSI7", 1), leafKey, github, "not by any"},
		"github_builder":     {string(build.Envelope), leafKey, github + "x", "built by"},
		"npm_another_key":    {published, leafKey, github, "not by any"},
		"two_signatures":     {read("pkg/testing/data/bundles/dsse-2sigs.sigstore.json"), leafKey, github, "made with a certificate"},
		"of_a_message":       {read("pkg/testing/data/bundles/othername.sigstore.json"), leafKey, github, "without a DSSE envelope"},
	} {
		b, err := (&resource.Provenance{Statement: c.text, Key: c.key, Builder: c.builder}).Verify()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %+v, %v, want %q", name, b, err, c.want)
		}
	}
}
