package attack

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/receipt"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// An agent's declaration says who builds its harness. Somebody who can write to
// the harness's place brings a program of their own: it is not started, though
// nothing else is wrong with it. The build's own program is.
//
// Threats: P1 (authority)
func TestProgramThatNobodyBuilt(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	const builder = "https://ci.example/builders/1"
	s := newSigner(t)
	signed := func(f map[string][]byte) {
		spec, err := json.Marshal(map[string]any{"path": self, "args": rig.SampleAgent, "provenance": map[string]any{
			"file": "harness.intoto.json", "keyFile": "ci.pem", "builder": builder}})
		if err != nil {
			t.Error(err)
		}
		f["harness.intoto.json"], f["ci.pem"] = []byte(s.build(canon.Digest(program), builder)), []byte(s.public)
		rig.Replace("agent.yaml", "harness: {name: reference}", "harness: "+string(spec))(f)
	}
	r := rig.New(t, rig.Options{Edit: signed})
	r.Ready(t)

	mine := filepath.Join(t.TempDir(), "harness")
	if err := os.WriteFile(mine, []byte("#!/bin/sh\necho mine\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out rig.Output
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	_, err = r.Server.Run(t.Context(), "", x.ID, server.Harness{Path: mine, Stdout: &out, Stderr: &out})
	refusedWith(t, err, "harness_of_no_build")
	if out.String() != "" {
		t.Errorf("it ran: %s", out.String())
	}

	x = r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, rig.SampleAgent...))
	if err != nil {
		t.Fatal(err)
	}
	rig.Wait(t, running)
	b, err := r.Server.Boundary(t.Context(), "", "helpdesk", "")
	if err != nil {
		t.Fatal(err)
	}
	if f, ok := b.Get("harness.provenance"); !ok || !strings.HasPrefix(f.Value, builder+" by key sha256:") || f.Grade != boundary.Pinned {
		t.Errorf("the boundary says %+v", f)
	}
}

// A publisher's signature of a model is over the digests of files in a row. Somebody
// who has the publisher sign the same contents under other names, so that another file
// is what runs, has the same root; the boundary says that it is another model.
//
// Threats: P3 (authority)
func TestModelOfOtherNames(t *testing.T) {
	s := newSigner(t)
	signed := func(first, second string) func(map[string][]byte) {
		return func(f map[string][]byte) {
			f["model.sig"], f["publisher.pem"] = []byte(s.model(first, second)), []byte(s.public)
			rig.Replace("agent.yaml", "    scripted: true\n", "    scripted: true\n    signature: {file: model.sig, keyFile: publisher.pem}\n")(f)
		}
	}
	r := rig.New(t, rig.Options{Edit: signed("config.json", "weights.bin")})
	fact := func() (root, rest string) {
		t.Helper()
		b, err := r.Server.Boundary(t.Context(), "", "helpdesk", "")
		if err != nil {
			t.Fatal(err)
		}
		f, ok := b.Get("model.signature")
		root, rest, _ = strings.Cut(f.Value, " manifest ")
		if !ok || f.Grade != boundary.Declared || !strings.HasPrefix(root, "sha256:") || !strings.Contains(rest, " by key sha256:") {
			t.Fatalf("the boundary says %+v", f)
		}
		return root, rest
	}
	root, rest := fact()
	all, err := r.Resources(signed("adapter.json", "weights.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Server.Apply(t.Context(), rig.As("mara"), all); err != nil {
		t.Fatal(err)
	}
	if r2, s2 := fact(); r2 != root || s2 == rest {
		t.Errorf("got %s %s, was %s %s", r2, s2, root, rest)
	}
}

// signer signs in-toto statements with one key.
type signer struct {
	private ed25519.PrivateKey
	public  string
}

func newSigner(t *testing.T) signer {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return signer{private, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

func (s signer) envelope(kind, predicate, name, digest string) string {
	const media = "application/vnd.in-toto+json"
	payload := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":%q,"digest":{"sha256":%q}}],"predicateType":%q,"predicate":%s}`, name, digest, kind, predicate)
	sig := ed25519.Sign(s.private, receipt.PAE(media, payload))
	return fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[{"sig":%q}]}`, media, base64.StdEncoding.EncodeToString(payload), base64.StdEncoding.EncodeToString(sig))
}

// build says in SLSA provenance that a builder built one program.
func (s signer) build(program action.Digest, builder string) string {
	return s.envelope("https://slsa.dev/provenance/v1", fmt.Sprintf(`{"buildDefinition":{"buildType":"https://ci.example/v1","externalParameters":{}},"runDetails":{"builder":{"id":%q}}}`, builder),
		"harness", strings.TrimPrefix(string(program), "sha256:"))
}

// model says that a model is two files of these names.
func (s signer) model(first, second string) string {
	a, b := sha256.Sum256([]byte("a")), sha256.Sum256([]byte("b"))
	predicate := fmt.Sprintf(`{"resources":[{"name":%q,"algorithm":"sha256","digest":"%x"},{"name":%q,"algorithm":"sha256","digest":"%x"}],"serialization":{"method":"files","hash_type":"sha256","allow_symlinks":false}}`, first, a, second, b)
	root := sha256.Sum256(append(a[:], b[:]...))
	return fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":%s}`,
		s.envelope("https://model_signing/signature/v1.0", predicate, "model", fmt.Sprintf("%x", root)))
}
