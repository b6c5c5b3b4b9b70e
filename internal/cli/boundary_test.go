package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// certified shows a boundary, before and after it was certified, and when it has
// changed; and verifies the statement offline. The server was stopped.
func (u *user) certified() {
	u.r.Open(u.T)
	u.do("", "get", "boundary", "helpdesk").want(u.T, 0, "FACT", "connector.iam", "policy-author: noor", "secrets-administrator: sven", "owner: mara, tom", "never", "certified by  -")
	u.do("", "get", "boundary", "nobody").want(u.T, 1, "no_such_agent")
	u.do("", "get", "boundary", "helpdesk", "--against", "live").want(u.T, 1, "no_certification")
	u.do("", "get", "boundary", "helpdesk", "--against", "c-1").want(u.T, 1, "no_such_certification")
	u.do("", "certify", "helpdesk", "--statement").want(u.T, 1, "none in force")
	u.do("", "get", "behaviour", "helpdesk").want(u.T, 0, "not certified for production")
	u.do("", "get", "behaviour", "nobody").want(u.T, 1, "no_such_agent")
	u.do("", "canary", "helpdesk", "plain-reset", "--as", "mara").want(u.T, 1, "no_such_canary")
	var bill struct{ SpecVersion string }
	if err := json.Unmarshal([]byte(u.do("", "get", "boundary", "helpdesk", "-o", "cyclonedx").out), &bill); err != nil || bill.SpecVersion != "1.7" {
		u.Errorf("bill of materials: got %q, %v", bill.SpecVersion, err)
	}

	now, err := u.r.As("lin").Boundary(u.Context(), "helpdesk", "")
	if err != nil {
		u.Fatal(err)
	}
	c := u.proposed(now)
	u.do("", "approve", u.ids()[0], "--yes", "--key", u.file("keys/ines")).want(u.T, 0, "signed as ines")
	u.do("", "get", "boundary", "helpdesk", "--against", "live").want(u.T, 0, "is the one that was certified as "+c.ID+" (live)")
	u.do("", "get", "behaviour", "helpdesk").want(u.T, 0, "certified by "+c.ID, "no canaries are declared", "no task ended in production")
	u.do("", "get", "boundary", "helpdesk").want(u.T, 0, "Chromium 141", "inference response", "operator: ada", string(c.Boundary))
	v, err := u.r.As("lin").VerifyLedger(u.Context())
	if err != nil {
		u.Fatal(err)
	}
	u.singleCommands(c.ID, v.Key)
	file := filepath.Join(u.TempDir(), "statement.sallyport")
	u.do("", "certify", "helpdesk", "--statement", "-f", file).want(u.T, 0, "is written")
	u.do("", "verify", file, "--key", v.Key).want(u.T, 0, "is valid", "yes, it is the one given", c.ID, "agent/helpdesk", string(c.Boundary), "benign 20/20", "scripted: this says nothing",
		"production", "ines with SHA256:", "; 1 of 1", "issued by record", "the file has no record of it")
	b, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(b), `"production"`, `"productiom"`, 1)), 0o600)
	}
	if err != nil {
		u.Fatal(err)
	}
	u.do("", "verify", file).want(u.T, 1, "is not valid")
	// What the file says does nothing to the terminal of who checks it.
	records, approval, _ := strings.Cut(string(b), "\n{\"approval\":")
	approval = strings.Replace(approval, `"person":"ines"`, `"person":"\u001b[2Jines"`, 1)
	if err := os.WriteFile(file, []byte(records+"\n{\"approval\":"+approval), 0o600); err != nil {
		u.Fatal(err)
	}
	no := u.do("", "verify", file)
	no.want(u.T, 1, "by \\u{001b}[2Jines")
	if strings.Contains(no.out+no.err, "\x1b") {
		u.Errorf("it wrote an escape: %q", no.out+no.err)
	}

	// The model answered as another one, and the company's policy is another too.
	u.stopped(func(s *rig.Stopped) error {
		return s.Certs.Lapse(u.Context(), "helpdesk", action.Production, certify.Lapse{Code: "drift", Why: "model.id: scripted-1 → scripted-2",
			Changes: []boundary.Change{{Name: "model.id", Old: "scripted-1", New: "scripted-2"}}}, nil)
	})
	u.do("", "get", "boundary", "helpdesk").want(u.T, 0, "measured otherwise: model.id: scripted-1 → scripted-2", "certified by  -")
	policy := u.file("policies/company.cedar")
	b, err = os.ReadFile(policy)
	if err == nil {
		err = os.WriteFile(policy, append(b, "// changed\n"...), 0o600)
	}
	if err != nil {
		u.Fatal(err)
	}
	u.do("", "apply", "-f", u.r.Files, "--as", "noor").want(u.T, 0, "PolicySet")
	u.do("", "get", "boundary", "helpdesk", "--against", c.ID).want(u.T, 1, "policy.company", "model.id", "scripted-2", "is not the one that was certified as "+c.ID+" (lapsed)")
	var seen server.Boundary
	res := u.do("", "get", "boundary", "helpdesk", "--against", c.ID, "-o", "json")
	if err := json.Unmarshal([]byte(res.out), &seen); err != nil || res.exit != 1 || len(seen.Against.Changes) != 2 || seen.Boundary == c.Boundary {
		u.Errorf("exit %d: %v\n%s", res.exit, err, res.out)
	}
	u.do("", "certify", "helpdesk", "--statement").want(u.T, 1, "none in force")
	u.do("", "certify", "helpdesk", "--statement", c.ID, "-f", file).want(u.T, 0, "is written")
	u.do("", "verify", file).want(u.T, 0, "not checked", "by record", "drift: model.id: scripted-1 → scripted-2")
}

// proposed is a certification of the boundary that nothing ran for, with facts that
// a run would have measured.
func (u *user) proposed(now *server.Boundary) (c certify.Certification) {
	u.stopped(func(s *rig.Stopped) (err error) {
		c = rig.Passed(now)
		facts := slices.DeleteFunc(slices.Clone(c.Manifest.Facts), func(f boundary.Fact) bool { return f.Name == "model.id" })
		facts = append(facts, boundary.Fact{Name: "model.id", Value: "scripted-1", Grade: boundary.Observed, Source: "inference response", Owner: "owner", Measured: time.Now()},
			boundary.Fact{Name: "browser.version", Value: "Chromium 141", Grade: boundary.Pinned, Source: "launch", Owner: "operator", Measured: time.Now()})
		if c.Manifest, err = boundary.New("helpdesk", facts); err == nil {
			c, err = s.Propose(u.Context(), c, time.Hour)
		}
		return err
	})
	return c
}

// stopped changes the state while the server is down.
func (u *user) stopped(f func(*rig.Stopped) error) {
	u.Helper()
	u.r.Stop(u.T)
	err := rig.WithStopped(u.Context(), u.r.Data, u.r.Store, func(of func(string) (*rig.Stopped, error)) error {
		s, err := of("brightwell")
		if err != nil {
			return err
		}
		return f(s)
	})
	if err != nil {
		u.Fatal(err)
	}
	u.r.Open(u.T)
}
