package attack

import (
	"crypto/ed25519"
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
	statement, key := signedBuild(t, string(canon.Digest(program)), builder)
	r := rig.New(t, rig.Options{Edit: func(f map[string][]byte) {
		spec, err := json.Marshal(map[string]any{"path": self, "args": rig.SampleAgent, "provenance": map[string]any{"statement": statement, "key": key, "builder": builder}})
		if err != nil {
			t.Error(err)
		}
		f["agent.yaml"] = []byte(strings.Replace(string(f["agent.yaml"]), "harness: {name: reference}", "harness: "+string(spec), 1))
	}})
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

// signedBuild says in SLSA provenance that a builder built one program.
func signedBuild(t *testing.T, digest, builder string) (envelope, key string) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	const kind = "application/vnd.in-toto+json"
	payload := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"harness","digest":{"sha256":%q}}],"predicateType":"https://slsa.dev/provenance/v1",
"predicate":{"buildDefinition":{"buildType":"https://ci.example/v1","externalParameters":{}},"runDetails":{"builder":{"id":%q}}}}`, strings.TrimPrefix(digest, "sha256:"), builder)
	sig := ed25519.Sign(private, receipt.PAE(kind, payload))
	return fmt.Sprintf(`{"payloadType":%q,"payload":%q,"signatures":[{"sig":%q}]}`, kind, base64.StdEncoding.EncodeToString(payload), base64.StdEncoding.EncodeToString(sig)),
		string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}
