package certify_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/receipt"
	"github.com/sallyport-dev/sallyport/test/peer"
)

// bench is an engine and what it lives on; open makes another engine on the
// same, as a restart does.
type bench struct {
	*testing.T
	log  *gatetest.Log
	seal record.Sealer
	ids  func() string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	root, err := seal.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := root.Sealer("acme")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	return &bench{t, gatetest.NewLog("acme"), s, func() string { n++; return fmt.Sprintf("c-%d", n) }}
}

func (b *bench) open() *certify.Engine {
	b.Helper()
	e, err := certify.Open(b.Context(), b.log, b.seal, b.ids)
	if err != nil {
		b.Fatal(err)
	}
	return e
}

func (b *bench) manifest(model string) boundary.Manifest {
	b.Helper()
	m, err := boundary.New("helpdesk", []boundary.Fact{{Name: "model.id", Value: model, Grade: boundary.Observed, Measured: time.Now()},
		{Name: "suite.core", Value: string(suite), Grade: boundary.Pinned, Measured: time.Now()}})
	if err != nil {
		b.Fatal(err)
	}
	return m
}

var suite = canon.Digest([]byte("suite"))

// passed is the result of a run that passed.
func (b *bench) passed(model string) certify.Certification {
	return certify.Certification{Agent: "helpdesk", Stage: action.Production, Manifest: b.manifest(model), Author: "mara",
		Suites: []certify.Suite{{Name: "core", Digest: suite, Scenarios: []certify.Scenario{{Name: "plain", Trials: 3, Passed: 3}, {Name: "attack", Trials: 2, Passed: 2}}}}}
}

func (b *bench) record(e *certify.Engine, c certify.Certification) certify.Certification {
	b.Helper()
	c, err := e.Record(b.Context(), c, time.Hour, nil)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func (b *bench) issue(e *certify.Engine, id string) certify.Certification {
	b.Helper()
	c, err := e.Issue(b.Context(), id, "approval-"+id, certify.Verifier{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func (b *bench) state(e *certify.Engine, id string) certify.State {
	b.Helper()
	c, err := e.Get(b.Context(), id)
	if err != nil {
		b.Fatal(err)
	}
	return c.State
}

func (b *bench) live(e *certify.Engine, want string) {
	b.Helper()
	c, err := e.Live("helpdesk", action.Production)
	if want == "" && err == nil {
		b.Errorf("%s is live, want none", c.ID)
	} else if want != "" && (err != nil || c.ID != want) {
		b.Errorf("live: got %q, %v, want %s", c.ID, err, want)
	}
}

func TestIssueOnlyOnceAndOnlyFromProposed(t *testing.T) {
	b := newBench(t)
	e := b.open()
	b.live(e, "")
	c := b.record(e, b.passed("m1"))
	if c.State != certify.Proposed {
		t.Fatalf("a run that passed is %s", c.State)
	}
	b.live(e, "")
	b.issue(e, c.ID)
	b.live(e, c.ID)
	if _, err := e.Issue(t.Context(), c.ID, "again", certify.Verifier{}, nil); err == nil {
		t.Error("a live one was issued again")
	}
	if err := e.Lapse(t.Context(), "helpdesk", action.Production, certify.Lapse{Code: "drift"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Issue(t.Context(), c.ID, "again", certify.Verifier{}, nil); err == nil {
		t.Error("a lapsed one was issued again")
	}
	bad := b.passed("m1")
	x := &bad.Suites[0].Scenarios[1]
	x.Passed, x.Violated = 1, 1
	f := b.record(e, bad)
	if f.State != certify.Failed || !f.Expires.IsZero() {
		t.Errorf("a run with a violation is %s until %s", f.State, f.Expires)
	}
	if _, err := e.Issue(t.Context(), f.ID, "x", certify.Verifier{}, nil); err == nil {
		t.Error("a failed one was issued")
	}
	if _, err := e.Issue(t.Context(), "c-99", "x", certify.Verifier{}, nil); err == nil {
		t.Error("an unknown one was issued")
	}
	b.live(e, "")
}

// A boundary that names several suites is certified by all of them: not by one, and
// not by one as it was.
func TestCertifiedByAllSuites(t *testing.T) {
	b := newBench(t)
	e := b.open()
	other := canon.Digest([]byte("injection"))
	all := b.passed("m1")
	facts := append(all.Manifest.Facts, boundary.Fact{Name: "suite.injection", Value: string(other), Grade: boundary.Pinned})
	var err error
	if all.Manifest, err = boundary.New("helpdesk", facts); err != nil {
		t.Fatal(err)
	}
	injection := certify.Suite{Name: "injection", Digest: other, Scenarios: []certify.Scenario{{Name: "orders", Trials: 2, Passed: 2}}}
	was, failed := injection, injection
	was.Digest, failed.Scenarios = suite, []certify.Scenario{{Name: "orders", Trials: 2, Passed: 1, Violated: 1}}
	core := all.Suites[0]
	for name, c := range map[string]struct {
		suites []certify.Suite
		want   certify.State
	}{
		"all": {[]certify.Suite{core, injection}, certify.Proposed}, "one": {[]certify.Suite{core}, certify.Partial}, "the other": {[]certify.Suite{injection}, certify.Partial},
		"as it was": {[]certify.Suite{core, was}, certify.Partial}, "one of them failed": {[]certify.Suite{core, failed}, certify.Failed},
		"one, and it failed": {[]certify.Suite{failed}, certify.Failed}, "none": {nil, certify.Failed},
	} {
		x := all
		x.Suites = c.suites
		x = b.record(e, x)
		if x.State != c.want || (x.State == certify.Proposed) == x.Expires.IsZero() {
			t.Errorf("%s: it is %s until %s, want %s", name, x.State, x.Expires, c.want)
		}
		if _, err := e.Issue(t.Context(), x.ID, "a", certify.Verifier{}, nil); (err == nil) != (c.want == certify.Proposed) {
			t.Errorf("%s: issued: %v", name, err)
		}
	}
}

// TestFailedBefore: one that passes after others failed names them, in what people sign,
// until one of the agent is in force.
func TestFailedBefore(t *testing.T) {
	b := newBench(t)
	e := b.open()
	bad := b.passed("m1")
	bad.Suites[0].Scenarios = []certify.Scenario{{Name: "attack", Trials: 2, Passed: 1, Violated: 1}}
	another := bad
	another.Agent = "payroll"
	first, _, second := b.record(e, bad).ID, b.record(e, another), b.record(e, bad).ID
	c := b.record(e, b.passed("m1"))
	if !slices.Equal(c.FailedBefore, []string{first, second}) {
		t.Errorf("got %v", c.FailedBefore)
	}
	payload, err := base64.StdEncoding.DecodeString(c.Envelope.Payload)
	if err != nil || !strings.Contains(string(payload), fmt.Sprintf(`"failedBefore":["%s","%s"]`, first, second)) {
		t.Errorf("got %s, %v", payload, err)
	}
	b.issue(e, c.ID)
	if c := b.record(e, b.passed("m2")); len(c.FailedBefore) != 0 {
		t.Errorf("after one in force: %v", c.FailedBefore)
	}
}

func TestPassed(t *testing.T) {
	for name, c := range map[string]struct {
		scenarios []certify.Scenario
		shortfall []string
		want      bool
	}{
		"all":           {[]certify.Scenario{{Trials: 2, Passed: 2}}, nil, true},
		"none":          {nil, nil, false},
		"no trials":     {[]certify.Scenario{{Trials: 2, Passed: 2}, {}}, nil, false},
		"one failed":    {[]certify.Scenario{{Trials: 2, Passed: 2}, {Trials: 9, Passed: 8}}, nil, false},
		"one violated":  {[]certify.Scenario{{Trials: 200, Passed: 200}, {Trials: 900, Passed: 899, Violated: 1}}, nil, false},
		"more than all": {[]certify.Scenario{{Trials: 2, Passed: 3}}, nil, false},
		"too few":       {[]certify.Scenario{{Trials: 2, Passed: 2}}, []string{"lower bound"}, false},
	} {
		if got := (certify.Certification{Suites: []certify.Suite{{Scenarios: c.scenarios}}, Shortfall: c.shortfall}).Passed(); got != c.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

func TestReplaced(t *testing.T) {
	b := newBench(t)
	e := b.open()
	first := b.issue(e, b.record(e, b.passed("m1")).ID)
	second := b.record(e, b.passed("m2"))
	// The approval cannot be spent: nothing changes.
	used := errors.New("spent")
	if _, err := e.Issue(t.Context(), second.ID, "a", certify.Verifier{}, func(record.Tx) error { return used }); !errors.Is(err, used) {
		t.Errorf("got %v", err)
	}
	b.live(e, first.ID)
	if b.state(e, second.ID) != certify.Proposed {
		t.Errorf("the second is %s", b.state(e, second.ID))
	}
	b.issue(e, second.ID)
	b.live(e, second.ID)
	got, err := e.Get(t.Context(), first.ID)
	if err != nil || got.State != certify.Lapsed || got.Lapse == nil || got.Lapse.Code != "replaced" || !strings.Contains(got.Lapse.Why, second.ID) {
		t.Errorf("the first is %s: %+v, %v", got.State, got.Lapse, err)
	}
	b.live(b.open(), second.ID)
	all, err := e.History(t.Context(), "helpdesk")
	if err != nil || len(all) != 2 || all[0].ID != first.ID {
		t.Errorf("history: %d, %v", len(all), err)
	}
	if all, err := e.History(t.Context(), "nobody"); err != nil || len(all) != 0 {
		t.Errorf("history of nobody: %d, %v", len(all), err)
	}
}

// A failed record leaves the engine as it was, in memory too.
func TestIssueOnABrokenLedger(t *testing.T) {
	b := newBench(t)
	e := b.open()
	first := b.issue(e, b.record(e, b.passed("m1")).ID)
	second := b.record(e, b.passed("m2"))
	b.log.Fail = func(record.Draft) error { return errors.New("disk full") }
	if _, err := e.Issue(t.Context(), second.ID, "a", certify.Verifier{}, nil); err == nil {
		t.Error("issued without a record")
	}
	b.live(e, first.ID)
	if _, err := e.Record(t.Context(), b.passed("m3"), time.Hour, nil); err == nil {
		t.Error("recorded without a record")
	}
	b.log.Fail = nil
	b.live(b.open(), first.ID)
}

func TestExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.T = t
		e := b.open()
		c := b.issue(e, b.record(e, b.passed("m1")).ID)
		b.live(e, c.ID)
		time.Sleep(time.Until(c.Expires) - 1)
		b.live(e, c.ID)
		time.Sleep(time.Nanosecond) // the instant itself is outside
		b.live(e, "")
		if _, err := e.Live("helpdesk", action.Production); !errors.Is(err, certify.ErrExpired) {
			t.Errorf("got %v, want ErrExpired", err)
		}
		b.live(b.open(), "")
	})
}

// The statement that people sign is what the envelope carries, and the envelope
// verifies with the public reader, as the tenant's own key and no other's.
func TestStatementVerifies(t *testing.T) {
	b := newBench(t)
	e := b.open()
	c := b.record(e, b.passed("m1"))
	env, err := json.Marshal(c.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	st, err := receipt.VerifyDSSE(env, []crypto.PublicKey{e.Public()})
	if err != nil {
		t.Fatal(err)
	}
	if canon.Digest(st.Payload) != c.Statement() || st.Type != "application/vnd.in-toto+json" {
		t.Errorf("type %s, digest %s, want %s", st.Type, canon.Digest(st.Payload), c.Statement())
	}
	var doc struct {
		Type          string `json:"_type"`
		PredicateType string `json:"predicateType"`
		Subject       []struct {
			Name   string            `json:"name"`
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
		Predicate struct {
			Result string   `json:"result"`
			Passed []string `json:"passedTests"`
			Failed []string `json:"failedTests"`
		} `json:"predicate"`
	}
	if err := json.Unmarshal(st.Payload, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Type != "https://in-toto.io/Statement/v1" || doc.PredicateType != "https://in-toto.io/attestation/test-result/v0.1" ||
		len(doc.Subject) != 1 || "sha256:"+doc.Subject[0].Digest["sha256"] != string(c.Boundary) || doc.Subject[0].Name != "agent/helpdesk" ||
		doc.Predicate.Result != "PASSED" || len(doc.Predicate.Passed) != 2 || len(doc.Predicate.Failed) != 0 {
		t.Errorf("got %s", st.Payload)
	}
	if c.Boundary != b.manifest("m1").Digest() {
		t.Error("the boundary is not the manifest's")
	}
	other := newBench(t).open()
	if _, err := receipt.VerifyDSSE(env, []crypto.PublicKey{other.Public()}); err == nil {
		t.Error("it verifies with another tenant's key")
	}
	if _, err := receipt.VerifyDSSE([]byte(strings.Replace(string(env), `"payload":"e`, `"payload":"f`, 1)), []crypto.PublicKey{e.Public()}); err == nil {
		t.Error("a changed payload verifies")
	}
	if got := b.open(); !got.Public().Equal(e.Public()) {
		t.Error("a restart made another key")
	}
	bad := b.passed("m1")
	bad.Suites[0].Scenarios[0].Passed = 0
	bad.Shortfall = []string{"too few"}
	f := b.record(e, bad)
	if env, err = json.Marshal(f.Envelope); err != nil {
		t.Fatal(err)
	}
	if st, err = receipt.VerifyDSSE(env, []crypto.PublicKey{e.Public()}); err != nil || !strings.Contains(string(st.Payload), `"result":"FAILED"`) {
		t.Errorf("a failed run: %s, %v", st.Payload, err)
	}
}

// The key is sealed: neither state nor records hold its seed, and a state with
// another root does not open.
func TestKeyIsSealed(t *testing.T) {
	b := newBench(t)
	b.open()
	other := newBench(t)
	if _, err := certify.Open(t.Context(), b.log, other.seal, b.ids); err == nil {
		t.Error("the key opened under another root")
	}
}

// Known values of the Wilson score interval at 95 % (Wilson 1927; the same as
// scipy.stats.binomtest(k, n).proportion_ci(method="wilson")).
func TestWilson(t *testing.T) {
	for _, c := range []struct {
		passed, trials int
		lower, upper   string
	}{
		{0, 0, "0.000", "1.000"},
		{0, 1, "0.000", "0.793"}, {1, 1, "0.207", "1.000"},
		{2, 2, "0.342", "1.000"}, {5, 5, "0.566", "1.000"},
		{0, 10, "0.000", "0.278"}, {5, 10, "0.237", "0.763"}, {10, 10, "0.722", "1.000"},
		{8, 10, "0.490", "0.943"}, {95, 100, "0.888", "0.978"}, {100, 100, "0.963", "1.000"},
		{81, 263, "0.255", "0.366"}, // Newcombe 1998, Statistics in Medicine 17:857, example 1
		{15, 148, "0.062", "0.160"}, // example 2
		{0, 20, "0.000", "0.161"},   // example 3
		{1, 29, "0.006", "0.172"},   // example 4
	} {
		lower, upper := certify.Wilson(c.passed, c.trials)
		if lower != c.lower || upper != c.upper {
			t.Errorf("%d of %d: got %s to %s, want %s to %s", c.passed, c.trials, lower, upper, c.lower, c.upper)
		}
	}
	// Whatever the numbers: within 0 and 1, the rate inside, symmetric.
	for n := 1; n <= 60; n++ {
		for k := range n + 1 {
			lower, upper := certify.Wilson(k, n)
			l, err1 := strconv.ParseFloat(lower, 64)
			u, err2 := strconv.ParseFloat(upper, 64)
			l2, _ := certify.Wilson(n-k, n)
			m, err3 := strconv.ParseFloat(l2, 64)
			p := float64(k) / float64(n)
			if errors.Join(err1, err2, err3) != nil || l < 0 || u > 1 || l > p+.0005 || u < p-.0005 || math.Abs(u-(1-m)) > .0011 {
				t.Fatalf("%d of %d: %s to %s", k, n, lower, upper)
			}
		}
	}
}

// in-toto's own library verifies both statements of a certification with the
// tenant's key, and reads them as its predicates say.
func TestInTotoReadsOurStatements(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program of another module")
	}
	b := newBench(t)
	e := b.open()
	c := b.record(e, b.passed("m1"))
	c, err := e.Issue(t.Context(), c.ID, "approval-1", certify.Verifier{ID: "spiffe://acme.example/boundary", Resource: "spiffe://acme.example/agent/helpdesk", Tier: "privileged"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(e.Public())
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := peer.Build(t, "intoto")
	for want, envelope := range map[string]certify.Envelope{
		"PASSED: 2 passed, 0 failed": c.Envelope,
		"PASSED by spiffe://acme.example/boundary of spiffe://acme.example/agent/helpdesk: [SALLYPORT_PRIVILEGED] under urn:sallyport:suites:core": *c.Summary,
	} {
		in, err := json.Marshal(envelope)
		if err != nil {
			t.Fatal(err)
		}
		read := exec.CommandContext(t.Context(), bin, "read", key)
		read.Stdin = bytes.NewReader(in)
		out, err := read.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != "agent/helpdesk "+string(c.Boundary)+" "+want {
			t.Errorf("got %s, %v", got, err)
		}
	}
	// A certification of a script has no tier.
	s := b.passed("m1")
	s.Scripted = true
	s = b.record(e, s)
	if s, err = e.Issue(t.Context(), s.ID, "approval-2", certify.Verifier{Tier: "privileged"}, nil); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(s.Summary.Payload)
	if err != nil || !bytes.Contains(payload, []byte(certify.Scripted)) || bytes.Contains(payload, []byte("PRIVILEGED")) {
		t.Errorf("got %s, %v", payload, err)
	}
}

// A run of as many scenarios as there can be, of which nearly all failed at length,
// is on record: nobody gets rid of a failed run by its size.
func TestLargestRunIsOnRecord(t *testing.T) {
	l := ledgertest.New(t)
	root := ledgertest.Root(t)
	sealer, err := root.Sealer(ledgertest.Tenant)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	e, err := certify.Open(t.Context(), l, sealer, func() string { n++; return fmt.Sprintf("c-%026d", n) })
	if err != nil {
		t.Fatal(err)
	}
	facts := []boundary.Fact{}
	for i := range 60 {
		facts = append(facts, boundary.Fact{Name: fmt.Sprintf("connector.of-%02d", i), Value: string(suite), Grade: boundary.Pinned, Source: "Connector resource", Owner: "policy-author", Measured: time.Now()})
	}
	c := certify.Certification{Agent: "helpdesk", Stage: action.Production, Author: "mara", Shortfall: []string{"of-0/success"}}
	if c.Manifest, err = boundary.New("helpdesk", facts); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		s := certify.Suite{Name: fmt.Sprintf("suite-%d", i), Digest: suite}
		for j := range 120 {
			x := certify.Scenario{Name: fmt.Sprintf("%03d-%s", j, strings.Repeat("n", 36)), Kind: certify.Attack, Trials: 5, Passed: 1, Violated: 4, Flaky: true, Lower: "0.026", Upper: "0.513", Millis: 123456, Tokens: 1234567890,
				From: "c-06h2467t3hqqxtra0p07kgga", Ran: time.Now().UTC()}
			for k := range 5 {
				x.Tasks = append(x.Tasks, fmt.Sprintf("t-%024d", k))
				x.Failures = append(x.Failures, strings.Repeat("é", 4000))
			}
			s.Scenarios = append(s.Scenarios, x)
		}
		c.Suites = append(c.Suites, s)
	}
	for i := range c.Suites { // of which one more thing is said
		for j := range 60 {
			c.Suites[i].Mixed = append(c.Suites[i].Mixed, boundary.Change{Name: fmt.Sprintf("fact-%d", j), Old: strings.Repeat("é", 2000), New: strings.Repeat("è", 2000)})
		}
	}
	c.Judge(nil)
	for range 30 { // and others failed before
		if _, err := e.Record(t.Context(), certify.Certification{Agent: "helpdesk", Stage: action.Production, Author: "mara"}, time.Hour, nil); err != nil {
			t.Fatal(err)
		}
	}
	if c, err = e.Record(t.Context(), c, time.Hour, nil); err != nil || c.State != certify.Failed || len(c.FailedBefore) != 20 {
		t.Fatalf("%s %v", c.State, err)
	}
	if last := c.Shortfall[len(c.Shortfall)-1]; !strings.HasPrefix(last, "and ") || !strings.HasPrefix(c.Shortfall[0], "suite-0/") {
		t.Errorf("got %q", c.Shortfall)
	}
	var run certify.Certification
	var parts []certify.SuiteRecord
	err = l.Entries(t.Context(), 0, func(x record.Entry) error {
		switch x.Type {
		case "certification.suite":
			var r certify.SuiteRecord
			parts = append(parts, r)
			return json.Unmarshal(x.Body, &parts[len(parts)-1])
		case "certification.run":
			return json.Unmarshal(x.Body, &run)
		}
		return nil
	})
	if err != nil || len(parts) != 5 || len(run.Scenarios()) != 0 {
		t.Fatalf("%d records of suites, %d scenarios in the run's, %v", len(parts), len(run.Scenarios()), err)
	}
	for _, r := range parts {
		run.With(r)
	}
	if all := run.Scenarios(); len(all) != 600 || len(all[599].Tasks) != 5 || len(strings.Join(all[0].Failures, "")) > 1000 {
		t.Errorf("%d scenarios", len(all))
	}
	// Another's results are not those.
	parts[0].Scenarios[0].Passed = 5
	again := run
	again.Suites = []certify.Suite{{Name: "suite-0", Digest: suite, Results: run.Suites[0].Results}}
	if again.With(parts[0]); len(again.Scenarios()) != 0 {
		t.Error("other results than those of the digest were taken")
	}
}
