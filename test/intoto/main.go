// Command intoto speaks in-toto by the project's own library, and DSSE by the one
// that it uses:
//
//	intoto build FILE BUILDER KEY   says that BUILDER built FILE; KEY gets the public key
//	intoto read KEY                 verifies an envelope from standard input and says what is in it
package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	testresult "github.com/in-toto/attestation/go/predicates/test_result/v0"
	vsa "github.com/in-toto/attestation/go/predicates/vsa/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

const payload = "application/vnd.in-toto+json"

func main() {
	err := errors.New("want build FILE BUILDER KEY, or read KEY")
	switch a := os.Args[1:]; {
	case len(a) == 4 && a[0] == "build":
		err = build(a[1], a[2], a[3])
	case len(a) == 2 && a[0] == "read":
		err = read(a[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func build(file, builder, public string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	parameters, err := structpb.NewStruct(map[string]any{"source": "git+https://example.com/harness"})
	if err != nil {
		return err
	}
	p := &provenance.Provenance{
		BuildDefinition: &provenance.BuildDefinition{BuildType: "https://example.com/build/v1", ExternalParameters: parameters},
		RunDetails:      &provenance.RunDetails{Builder: &provenance.Builder{Id: builder}},
	}
	if err := p.Validate(); err != nil {
		return err
	}
	st := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: "https://slsa.dev/provenance/v1",
		Subject: []*intoto.ResourceDescriptor{{Name: filepath.Base(file), Digest: map[string]string{"sha256": hex.EncodeToString(sum[:])}}}}
	if st.Predicate, err = predicate(p); err != nil {
		return err
	}
	if err := st.Validate(); err != nil {
		return err
	}
	doc, err := protojson.Marshal(st)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	k, err := signerverifier.LoadKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	if err != nil {
		return err
	}
	sv, err := signerverifier.NewECDSASignerVerifierFromSSLibKey(k)
	if err != nil {
		return err
	}
	signer, err := dsse.NewEnvelopeSigner(sv)
	if err != nil {
		return err
	}
	e, err := signer.SignPayload(context.Background(), payload, doc)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(e)
}

func predicate(m proto.Message) (*structpb.Struct, error) {
	b, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	s := new(structpb.Struct)
	return s, protojson.Unmarshal(b, s)
}

// verifier is a key as DSSE's library asks for it. The identifiers of keys are no
// part of what is signed.
type verifier struct {
	dsse.Verifier
	key crypto.PublicKey
}

func (v verifier) KeyID() (string, error)   { return "", nil }
func (v verifier) Public() crypto.PublicKey { return v.key }

func read(public string) error {
	raw, err := os.ReadFile(public)
	if err != nil {
		return err
	}
	k, err := signerverifier.LoadKey(raw)
	if err != nil {
		return err
	}
	var v dsse.Verifier
	if k.KeyType == signerverifier.ED25519KeyType {
		v, err = signerverifier.NewED25519SignerVerifierFromSSLibKey(k)
	} else {
		v, err = signerverifier.NewECDSASignerVerifierFromSSLibKey(k)
	}
	if err != nil {
		return err
	}
	check, err := dsse.NewEnvelopeVerifier(verifier{v, v.Public()})
	if err != nil {
		return err
	}
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var e dsse.Envelope
	if err := json.NewDecoder(bytes.NewReader(in)).Decode(&e); err != nil {
		return err
	}
	if _, err := check.Verify(context.Background(), &e); err != nil {
		return err
	}
	doc, err := e.DecodeB64Payload()
	if err != nil {
		return err
	}
	st := new(intoto.Statement)
	if err := errors.Join(protojson.Unmarshal(doc, st), st.Validate()); err != nil {
		return err
	}
	inner, err := protojson.Marshal(st.Predicate)
	if err != nil {
		return err
	}
	said := ""
	switch st.PredicateType {
	case "https://slsa.dev/verification_summary/v1":
		p := new(vsa.VerificationSummary)
		err = protojson.Unmarshal(inner, p)
		said = fmt.Sprintf("%s by %s of %s: %v under %s", p.VerificationResult, p.Verifier.GetId(), p.ResourceUri, p.VerifiedLevels, p.Policy.GetUri())
	case "https://in-toto.io/attestation/test-result/v0.1":
		p := new(testresult.TestResult)
		err = protojson.Unmarshal(inner, p)
		said = fmt.Sprintf("%s: %d passed, %d failed", p.Result, len(p.PassedTests), len(p.FailedTests))
	default:
		err = fmt.Errorf("predicate %s is not read here", st.PredicateType)
	}
	for _, s := range st.Subject {
		fmt.Printf("%s sha256:%s %s\n", s.Name, s.Digest["sha256"], said)
	}
	return err
}
