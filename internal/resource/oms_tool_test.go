package resource_test

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// These run OpenSSF's own tool for model signatures, and read what it has signed. They
// are run by hand, where they are given what no package has:
//
//	MODEL_SIGNING        the tool: of sigstore/model-transparency, or its version in Go
//	MODEL_TRANSPARENCY   the folder scripts/tests of a checkout of that repository

// What the tool has signed with a key in each of its versions is taken, and with any
// byte changed it is not. What it signs in other ways is refused by name.
func TestModelSignatureOfTheTool(t *testing.T) {
	dir := os.Getenv("MODEL_TRANSPARENCY")
	if dir == "" {
		t.Skip("MODEL_TRANSPARENCY names no scripts/tests of a checkout of sigstore/model-transparency")
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	key := read("keys/certificate/signing-key-pub.pem")
	for name, want := range map[string]string{
		"v0.2.0-certificate": "certificate", "v0.3.1-certificate": "certificate", "v1.0.0-certificate": "certificate", "v1.0.1-certificate": "certificate",
		"v1.1.0-certificate": "certificate", "v0.3.1-sigstore": "certificate", "v1.0.0-sigstore": "certificate", "v1.0.1-sigstore": "certificate", "v1.1.0-sigstore": "certificate",
		"v0.3.1-elliptic-key": "", "v1.0.0-elliptic-key": "", "v1.0.1-elliptic-key": "", "v1.1.0-elliptic-key": "",
	} {
		text := read(name + "/model.sig")
		got, err := (&resource.ModelSignature{Statement: text, Key: key}).Verify()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %+v, %v, want %q", name, got, err, want)
		}
		if err == nil {
			t.Logf("%s: %+v; bytes of hints: %q", name, got, everyByte(t, text, key))
		}
	}
}

// The tool signs what is read here, and verifies what is signed here.
func TestModelSignatureWithTheTool(t *testing.T) {
	tool := os.Getenv("MODEL_SIGNING")
	if tool == "" {
		t.Skip("MODEL_SIGNING names no tool for model signatures")
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("model/a", "weights")
	write("model/d/b", "tokens")
	model := filepath.Join(dir, "model")
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, public := newECDSA(t, curve)
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		private := write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
		theirs, ours, pub := filepath.Join(dir, "theirs.sig"), filepath.Join(dir, "ours.sig"), write("pub.pem", public)
		if out, err := exec.CommandContext(t.Context(), tool, "sign", "key", "--private-key", private, "--signature", theirs, model).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		text, err := os.ReadFile(theirs)
		if err != nil {
			t.Fatal(err)
		}
		got, err := (&resource.ModelSignature{Statement: string(text), Key: public}).Verify()
		if err != nil || got.Root != "sha256:"+action.Digest(rootOf(weights, tokens)) {
			t.Errorf("%s: got %+v, %v of %s", curve.Params().Name, got, err, text)
		}
		hint := fmt.Sprintf(`{"publicKey":{"hint":"%s"}}`, sum(public))
		write("ours.sig", bundled(bundleV03, hint, envelope(t, k, inTotoMedia, statementOf())))
		if out, err := exec.CommandContext(t.Context(), tool, "verify", "key", "--public-key", pub, "--signature", ours, model).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", curve.Params().Name, err, out)
		}
	}
}
