package certify

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

const payloadType = "application/vnd.in-toto+json"

// Envelope is a DSSE 1.0 envelope.
type Envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"` // base64
	Signatures  []Signature `json:"signatures"`
}

// Signature is one signature of an Envelope, over its pre-authentication encoding.
// It has no keyid: that is a hint by which others' verifiers leave a signature out
// if it is not how they name keys.
type Signature struct {
	Sig string `json:"sig"` // base64
}

// Statement is the digest that approvers sign: of the statement's bytes.
func (c Certification) Statement() action.Digest {
	b, err := base64.StdEncoding.DecodeString(c.Envelope.Payload)
	if err != nil {
		return ""
	}
	return canon.Digest(b)
}

// resource is an in-toto ResourceDescriptor.
type resource struct {
	Name        string            `json:"name,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	Annotations map[string]any    `json:"annotations,omitempty"`
}

// sign makes the in-toto statement (Statement v1, predicate test-result/v0.1)
// and its DSSE envelope.
func (e *Engine) sign(c Certification) (Envelope, error) {
	passed, failed := []string{}, []string{}
	suites := []resource{}
	for _, s := range c.Suites {
		for _, x := range s.Scenarios {
			if name := s.Name + "/" + x.Name; x.Passed == x.Trials && x.Trials > 0 {
				passed = append(passed, name)
			} else {
				failed = append(failed, name)
			}
		}
		suites = append(suites, resource{Name: "suite/" + s.Name, Digest: sha(s.Digest), Annotations: map[string]any{
			"results": s.Results, "rates": s.Rates, "falseHolds": s.FalseHolds, "compared": s.Compared, "stopped": s.Stopped, "cut": s.Cut}})
	}
	result := "FAILED"
	if c.Passed() {
		result = "PASSED"
	}
	model := "real"
	if c.Scripted {
		model = "scripted"
	}
	about := map[string]any{"certification": c.ID, "stage": c.Stage, "expires": c.Expires.Format(time.RFC3339), "ran": c.Ran.Format(time.RFC3339),
		"model": model, "author": c.Author, "ranBy": c.RanBy, "left": c.Left(), "failedBefore": c.FailedBefore}
	st := map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []resource{{Name: "agent/" + c.Agent, Digest: sha(c.Boundary), Annotations: about}},
		"predicateType": "https://in-toto.io/attestation/test-result/v0.1",
		"predicate":     map[string]any{"result": result, "passedTests": passed, "failedTests": failed, "configuration": suites},
	}
	return e.envelope(st)
}

func (e *Engine) envelope(statement any) (Envelope, error) {
	payload, err := canon.Marshal(statement)
	if err != nil {
		return Envelope{}, err
	}
	return Envelope{PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(payload),
		Signatures: []Signature{{base64.StdEncoding.EncodeToString(ed25519.Sign(e.key, pae(payload)))}}}, nil
}

// Verifier is who vouches for what is issued, and of what.
type Verifier struct {
	ID       string // URI: the boundary's SPIFFE ID
	Resource string // URI: the agent's
	Tier     string
}

// Scripted is the level of a certification of a scripted model, whatever its tier.
const Scripted = "SALLYPORT_SCRIPTED"

// summarize makes the verification summary of what is issued (SLSA 1.2, predicate
// verification_summary/v1). Its policy are the suites, its input the statement
// that was approved.
func (e *Engine) summarize(c Certification, by Verifier) (*Envelope, error) {
	var suites []string
	for _, s := range c.Suites {
		suites = append(suites, s.Name+"@"+string(s.Digest))
	}
	policy, err := canon.DigestOf(suites)
	if err != nil {
		return nil, err
	}
	input, err := canon.DigestOf(c.Envelope)
	if err != nil {
		return nil, err
	}
	level := "SALLYPORT_" + strings.ToUpper(by.Tier)
	if c.Scripted {
		level = Scripted
	}
	out, err := e.envelope(map[string]any{
		"_type": "https://in-toto.io/Statement/v1",
		"subject": []resource{{Name: "agent/" + c.Agent, Digest: sha(c.Boundary), Annotations: map[string]any{
			"certification": c.ID, "stage": c.Stage, "expires": c.Expires.Format(time.RFC3339), "approval": c.Approval}}},
		"predicateType": "https://slsa.dev/verification_summary/v1",
		"predicate": map[string]any{
			"verifier":           map[string]any{"id": by.ID},
			"timeVerified":       c.Issued.Format(time.RFC3339),
			"resourceUri":        by.Resource,
			"policy":             map[string]any{"uri": "urn:sallyport:suites:" + strings.ReplaceAll(c.SuiteNames(), ", ", "+"), "digest": sha(policy)},
			"inputAttestations":  []any{map[string]any{"uri": "urn:sallyport:certification:" + c.ID, "digest": sha(input)}},
			"verificationResult": "PASSED",
			"verifiedLevels":     []string{level},
		},
	})
	return &out, err
}

// pae is the pre-authentication encoding of DSSE 1.0.
func pae(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

func sha(d action.Digest) map[string]string {
	return map[string]string{"sha256": strings.TrimPrefix(string(d), "sha256:")}
}
