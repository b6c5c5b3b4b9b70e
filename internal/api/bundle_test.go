package api_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/receipt"
)

// certifier makes certifications in a log of its own, approved by its people.
type certifier struct {
	*testing.T
	log       *ledger.Log
	certs     *certify.Engine
	approvals *approval.Engine
	keys      map[string]ssh.Signer
}

func newCertifier(t *testing.T) *certifier {
	t.Helper()
	l, root := ledgertest.NewLedger(t)
	log, err := l.Create(t.Context(), ledgertest.Tenant, "acme.example/log")
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := root.Sealer(ledgertest.Tenant)
	if err != nil {
		t.Fatal(err)
	}
	x := &certifier{T: t, log: log, keys: map[string]ssh.Signer{}}
	for i, name := range []string{"ines", "felix"} {
		if x.keys[name], err = ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, 32))); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	if x.certs, err = certify.Open(t.Context(), log, sealer, func() string { n++; return fmt.Sprintf("c-%d", n) }); err != nil {
		t.Fatal(err)
	}
	x.approvals = approval.New(log, x, nil)
	return x
}

// People implements approval.Directory.
func (x *certifier) People(record.Tx) ([]approval.Person, error) {
	var out []approval.Person
	for name, k := range x.keys {
		out = append(out, approval.Person{Name: name, Roles: []string{"approver"}, Keys: []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.PublicKey())))}})
	}
	return out, nil
}

// certified is a certification that went the whole way, approved by these people.
func (x *certifier) certified(model string, by ...string) certify.Certification {
	x.Helper()
	ctx := x.Context()
	m, err := boundary.New("helpdesk", []boundary.Fact{{Name: "model.id", Value: model, Grade: boundary.Observed, Measured: time.Unix(1, 0)}})
	if err != nil {
		x.Fatal(err)
	}
	c := certify.Certification{Agent: "helpdesk", Stage: action.Production, Manifest: m, Scripted: true, Author: "mara",
		Suites: []certify.Suite{{Name: "core", Digest: canon.Digest([]byte("core")), Need: certify.Need{Success: 50}, Scenarios: []certify.Scenario{{Name: "reset", Kind: certify.Benign, Trials: 4, Passed: 4}}},
			{Name: "injection", Digest: canon.Digest([]byte("injection")), Need: certify.Need{Safety: 50}, Scenarios: []certify.Scenario{{Name: "orders", Kind: certify.Attack, Trials: 5, Passed: 5}}}}}
	c.Judge(nil)
	if c, err = x.certs.Record(ctx, c, time.Hour, nil); err != nil || c.State != certify.Proposed {
		x.Fatal(c.State, c.Shortfall, err)
	}
	if len(by) == 0 {
		return c
	}
	st, err := x.approvals.Request(ctx, approval.Draft{Valid: time.Hour, Requester: "mara", Statement: approval.Statement{Kind: approval.Certification, Subject: c.ID, Digest: c.Statement(),
		Agent: c.Agent, BoundaryDigest: c.Boundary, Role: "approver", Quorum: len(by), Excluded: []string{"mara"}}})
	if err != nil {
		x.Fatal(err)
	}
	for _, name := range by {
		sig, err := approval.Sign(st, x.keys[name])
		if err == nil {
			_, err = x.approvals.Grant(ctx, st.Nonce, name, sig, nil)
		}
		if err != nil {
			x.Fatal(err)
		}
	}
	c, err = x.certs.Issue(ctx, c.ID, st.Nonce, certify.Verifier{ID: "spiffe://acme.example/boundary", Resource: "spiffe://acme.example/agent/helpdesk", Tier: "standard"}, func(tx record.Tx) error {
		_, err := x.approvals.Consume(tx, st.Nonce, st.Digest)
		return err
	})
	if err != nil {
		x.Fatal(err)
	}
	return c
}

func (x *certifier) export(in api.Export) []byte {
	x.Helper()
	var out bytes.Buffer
	if err := api.WriteBundle(x.Context(), x.log, &out, in); err != nil {
		x.Fatal(err)
	}
	return out.Bytes()
}

func (x *certifier) verified(bundle []byte) receipt.Report {
	x.Helper()
	r, err := receipt.Verify(bytes.NewReader(bundle), receipt.Options{Key: x.log.VerifierKey()})
	if err != nil {
		x.Fatal(err)
	}
	return r
}

// TestCertificationOffline: with the log's key alone, the bundle of a certification
// says what was certified, by whom it was approved, where the log has it, and what
// ended it; and has nothing of another one.
func TestCertificationOffline(t *testing.T) {
	x := newCertifier(t)
	first := x.certified("m-1", "ines")
	proposed := x.certified("m-2")
	r := x.verified(x.export(api.Export{Certification: first.ID}))
	if r.Header.Complete || len(r.Certifications) != 1 || len(r.Statements) != 2 || len(r.Approvals) != 1 || r.Records != 5 {
		t.Fatalf("got %d certifications, %d statements, %d approvals, %d records, complete %v", len(r.Certifications), len(r.Statements), len(r.Approvals), r.Records, r.Header.Complete)
	}
	c := r.Certifications[0]
	if c.ID != first.ID || c.Agent != "agent/helpdesk" || c.Boundary != string(first.Boundary) || len(c.Suites) != 2 || c.Suites[0].Name != "suite/core" || c.Suites[0].Digest != string(first.Suites[0].Digest) || c.Suites[1].Rates[0].Kind != certify.Attack ||
		c.Result != "PASSED" || c.Model != "scripted" || c.Stage != "production" || c.Author != "mara" || c.Expires != first.Expires.Format(time.RFC3339) ||
		len(c.Suites[0].Rates) != 1 || c.Suites[0].Rates[0].Passed != 4 || c.Suites[0].Rates[0].Lower == "" || !slices.Equal(c.Keys, []string{"certification/0 " + string(canon.Digest(x.certs.Public()))}) {
		t.Errorf("got %+v", c)
	}
	if !slices.Equal(c.Approved, []string{"ines"}) || c.Quorum != 1 || c.Issued < 0 || c.Issued >= r.Checkpoint.Size || c.Ended != -1 {
		t.Errorf("got %+v", c)
	}
	if c.Level != certify.Scripted || c.Verifier != "spiffe://acme.example/boundary" {
		t.Errorf("the verification summary says %q, by %q", c.Level, c.Verifier)
	}
	// One that nobody approved, and no record issued.
	c = x.verified(x.export(api.Export{Certification: proposed.ID})).Certifications[0]
	if c.ID != proposed.ID || len(c.Approved) != 0 || c.Issued != -1 || c.Ended != -1 {
		t.Errorf("proposed: got %+v", c)
	}
	// Another takes its place, and then lapses.
	second := x.certified("m-1", "ines", "felix")
	if err := x.certs.Lapse(t.Context(), "helpdesk", action.Production, certify.Lapse{Code: "drift", Why: "model.id: m-1 → m-3"}, nil); err != nil {
		t.Fatal(err)
	}
	third := x.certified("m-1", "felix")
	c = x.verified(x.export(api.Export{Certification: first.ID})).Certifications[0]
	if c.Ended <= c.Issued || c.Why != "replaced by "+second.ID {
		t.Errorf("replaced: got %+v", c)
	}
	c = x.verified(x.export(api.Export{Certification: second.ID})).Certifications[0]
	if c.Ended <= c.Issued || c.Why != "drift: model.id: m-1 → m-3" || !slices.Equal(c.Approved, []string{"felix", "ines"}) || c.Quorum != 2 {
		t.Errorf("lapsed: got %+v", c)
	}
	// The whole log says the same of all of them.
	r = x.verified(x.export(api.Export{}))
	if !r.Header.Complete || len(r.Certifications) != 4 {
		t.Fatalf("got %d certifications", len(r.Certifications))
	}
	for i, want := range map[int]string{0: "replaced by " + second.ID, 1: "", 2: "drift: model.id: m-1 → m-3", 3: ""} {
		if c := r.Certifications[i]; c.Why != want || (c.Issued < 0) != (c.ID == proposed.ID) {
			t.Errorf("%s: got %+v", c.ID, c)
		}
	}
	if r.Certifications[3].ID != third.ID {
		t.Errorf("got %s", r.Certifications[3].ID)
	}
	var none *server.Problem
	var out bytes.Buffer
	if err := api.WriteBundle(t.Context(), x.log, &out, api.Export{Certification: "c-9"}); !errors.As(err, &none) || none.Code != "no_such_certification" || out.Len() > 0 {
		t.Errorf("got %v and %d bytes", err, out.Len())
	}
}

// TestEveryByteOfAStatement: no byte of what is given to an auditor can be changed,
// left out or added, and another log's is refused.
//
// Threats: T53 (ledger); I1 (approval)
func TestEveryByteOfAStatement(t *testing.T) {
	x := newCertifier(t)
	b := x.export(api.Export{Certification: x.certified("m", "ines").ID})
	o := receipt.Options{Key: x.log.VerifierKey()}
	x.verified(b)
	refused := func(what string, b []byte, o receipt.Options) {
		t.Helper()
		if _, err := receipt.Verify(bytes.NewReader(b), o); !errors.Is(err, receipt.ErrBundle) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	for i := range b {
		old := b[i]
		b[i] ^= 1
		refused(fmt.Sprintf("byte %d of %d is %q", i, len(b), b[i]), b, o)
		b[i] = old
	}
	lines := bytes.SplitAfter(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	for i := range lines {
		rest := slices.Concat(slices.Concat(lines[:i]...), slices.Concat(lines[i+1:]...))
		refused(fmt.Sprintf("line %d is missing", i), append(rest, '\n'), o)
	}
	other := newCertifier(t)
	refused("another log's", other.export(api.Export{Certification: other.certified("m", "ines").ID}), o)
}
