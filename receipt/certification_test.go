package receipt_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/receipt"
)

const certifies = `{"_type":"https://in-toto.io/Statement/v1","predicate":{"configuration":[{"digest":{"sha256":"02"},` +
	`"name":"suite/core"}],"result":"PASSED"},"predicateType":"https://in-toto.io/attestation/test-result/v0.1","subject":[{"annotations":{"certification":"c-1","stage":"production"},"digest":{"sha256":"01"},"name":"agent/desk"}]}`

// TestWhatShowsACertification: an approval counts for exactly this statement, of this
// tenant, by who may; a record, if it holds this very statement; an end, if it is
// of this certification. The holder of the log's key sealed all of it.
//
// Threats: I2 (approval)
func TestWhatShowsACertification(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	must(t, err)
	_, ines, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	envelope := dsse(t, key, "application/vnd.in-toto+json", []byte(certifies))
	again := dsse(t, key, "application/vnd.in-toto+json", []byte(strings.Replace(certifies, "PASSED", "FAILED", 1)))
	sum := sha256.Sum256([]byte(certifies))
	asked := fmt.Sprintf(`{"digest":"sha256:%x","excluded":["mara"],"kind":"certification","quorum":1,"subject":"c-1","tenant":"acme"}`, sum)
	summary := []byte("null")
	issued := func(id, agent string, envelope []byte) string {
		return fmt.Sprintf(`"agent":%q,"body":{"envelope":%s,"id":%q,"stage":"production","summary":%s},"id":"x"`, agent, envelope, id, summary) + `,"type":"certification.issued"`
	}
	lapsed := func(id string) string {
		return fmt.Sprintf(`"agent":"desk","body":{"id":%q,"lapse":{"code":"drift","why":"w"},"stage":"production"},"id":"x","type":"certification.lapsed"`, id)
	}
	bundle := func(approval string, bodies ...string) []byte {
		l := newLog(t, 1)
		for _, b := range bodies {
			head, kind, _ := strings.Cut(b, `,"type"`)
			l.add(t, fmt.Appendf(nil, `{%s,"seq":%d,"tenant":"acme","time":"2026-01-02T03:04:05.%09dZ","type"%s,"v":1}`, head, len(l.records), len(l.records), kind))
		}
		var out bytes.Buffer
		w := l.writer(t, &out, true)
		for _, r := range l.records {
			must(t, w.Record(r, nil))
		}
		k, sig := skSign(t, ines, []byte(approval), 5)
		must(t, w.Person(receipt.Person{Name: "ines", Keys: []string{strings.TrimSpace(k)}}), w.Key(receipt.Key{Name: "k", Public: der}),
			w.Approval(receipt.Approval{Name: "a", Person: "ines", Statement: []byte(approval), Signature: string(sig)}),
			w.Statement(receipt.Envelope{Name: "c-1", Envelope: envelope}))
		if string(summary) != "null" {
			must(t, w.Statement(receipt.Envelope{Name: "c-1/summary", Envelope: summary}))
		}
		must(t, w.Close())
		return out.Bytes()
	}
	for _, c := range []struct {
		name     string
		approval string
		records  []string
		approved int
		issued   int64
		ended    int64
	}{
		{"all", asked, []string{issued("c-1", "desk", envelope)}, 1, 1, -1},
		{"not_issued", asked, nil, 1, -1, -1},
		{"another_issued", asked, []string{issued("c-2", "desk", again)}, 1, -1, -1},
		{"lapsed", asked, []string{issued("c-1", "desk", envelope), lapsed("c-1"), issued("c-2", "desk", again)}, 1, 1, 2},
		{"another_lapsed", asked, []string{issued("c-1", "desk", envelope), lapsed("c-2")}, 1, 1, -1},
		{"replaced", asked, []string{issued("c-1", "desk", envelope), issued("c-2", "desk", again)}, 1, 1, 2},
		{"other_agent_issued", asked, []string{issued("c-1", "desk", envelope), issued("c-2", "mail", again)}, 1, 1, -1},
		{"approval_of_another_statement", strings.Replace(asked, "sha256:", "sha256:0", 1), nil, 0, -1, -1},
		{"approval_of_another_certification", strings.Replace(asked, "c-1", "c-2", 1), nil, 0, -1, -1},
		{"approval_of_another_tenant", strings.Replace(asked, "acme", "other", 1), nil, 0, -1, -1},
		{"approval_of_another_kind", strings.Replace(asked, "certification", "capability", 1), nil, 0, -1, -1},
		{"approval_by_who_is_excluded", strings.Replace(asked, "mara", "ines", 1), nil, 0, -1, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			rep, err := receipt.Verify(bytes.NewReader(bundle(c.approval, c.records...)), receipt.Options{})
			if err != nil || len(rep.Certifications) != 1 {
				t.Fatalf("got %d certifications, %v", len(rep.Certifications), err)
			}
			x := rep.Certifications[0]
			if len(x.Approved) != c.approved || x.Issued != c.issued || x.Ended != c.ended || (x.Why != "") != (c.ended >= 0) || x.Agent != "agent/desk" || x.Boundary != "sha256:01" {
				t.Errorf("got %+v", x)
			}
		})
	}
	// One key is one person's, whatever names it has.
	quorum := strings.Replace(asked, `"quorum":1`, `"quorum":2`, 1)
	k, sig := skSign(t, ines, []byte(quorum), 5)
	for name, c := range map[string]struct {
		other    string
		approved int
	}{"twice": {"jo", 1}, "of_who_is_excluded": {"mara", 0}} {
		var out bytes.Buffer
		l := newLog(t, 1)
		w := l.writer(t, &out, true)
		must(t, w.Record(l.records[0], nil))
		for _, p := range []string{"ines", c.other} {
			must(t, w.Person(receipt.Person{Name: p, Keys: []string{strings.TrimSpace(k)}}))
		}
		must(t, w.Key(receipt.Key{Name: "k", Public: der}))
		for i, p := range []string{"ines", c.other} {
			must(t, w.Approval(receipt.Approval{Name: fmt.Sprint(i), Person: p, Statement: []byte(quorum), Signature: string(sig)}))
		}
		must(t, w.Statement(receipt.Envelope{Name: "c-1", Envelope: envelope}), w.Close())
		rep, err := receipt.Verify(bytes.NewReader(out.Bytes()), receipt.Options{})
		must(t, err)
		if x := rep.Certifications[0]; len(x.Approved) != c.approved || len(x.ApprovedBy) != c.approved || x.Quorum != 2 {
			t.Errorf("%s: approved by %v with %v, of %d", name, x.Approved, x.ApprovedBy, x.Quorum)
		}
	}
	// Names are as they are spelled: for another reader these say nothing, or the opposite.
	for _, text := range []string{strings.Replace(certifies, `"result"`, `"Result"`, 1),
		strings.Replace(certifies, `"result":"PASSED"`, `"result":"FAILED","re\u017fult":"PASSED"`, 1), strings.Replace(certifies, `"production"`, `"\ud800"`, 1)} {
		envelope = dsse(t, key, "application/vnd.in-toto+json", []byte(text))
		if rep, err := receipt.Verify(bytes.NewReader(bundle(asked)), receipt.Options{}); err != nil || len(rep.Certifications) != 0 {
			t.Errorf("%s: got %+v, %v", text, rep.Certifications, err)
		}
	}
	envelope = dsse(t, key, "application/vnd.in-toto+json", []byte(certifies))
	// The log issued something else under this name.
	if rep, err := receipt.Verify(bytes.NewReader(bundle(asked, issued("c-1", "desk", again))), receipt.Options{}); !errors.Is(err, receipt.ErrBundle) {
		t.Errorf("got %+v, %v", rep.Certifications, err)
	}
	// What sums it up is of this boundary and this statement, and is what was issued.
	input := sha256.Sum256(envelope)
	sums := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","predicate":{"inputAttestations":[{"digest":{"sha256":"%x"}}],"verificationResult":"PASSED","verifiedLevels":["L"],"verifier":{"id":"v"}},`, input) +
		`"predicateType":"https://slsa.dev/verification_summary/v1","subject":[{"annotations":{"certification":"c-1"},"digest":{"sha256":"01"},"name":"agent/desk"}]}`
	for name, text := range map[string]string{
		"as_issued": sums, "another_boundary": strings.Replace(sums, `"01"`, `"02"`, 1), "failed": strings.Replace(sums, "PASSED", "FAILED", 1),
		"another_statement": strings.Replace(sums, fmt.Sprintf("%x", input), fmt.Sprintf("%x", sum), 1), "not_issued": sums,
	} {
		summary = dsse(t, key, "application/vnd.in-toto+json", []byte(text))
		body := issued("c-1", "desk", envelope)
		if name == "not_issued" { // another signature of the same
			summary = dsse(t, key, "application/vnd.in-toto+json", []byte(text))
		}
		rep, err := receipt.Verify(bytes.NewReader(bundle(asked, body)), receipt.Options{})
		if name == "as_issued" {
			if err != nil || rep.Certifications[0].Level != "L" || rep.Certifications[0].Verifier != "v" {
				t.Errorf("%s: got %+v, %v", name, rep.Certifications, err)
			}
		} else if !errors.Is(err, receipt.ErrBundle) {
			t.Errorf("%s: got %+v, %v", name, rep.Certifications, err)
		}
	}
}
