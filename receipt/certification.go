package receipt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
)

// Certification is what a statement says of an agent (in-toto Statement v1,
// predicate test-result/v0.1), and what the bundle shows of its life.
type Certification struct {
	ID       string
	Agent    string
	Boundary string // digest of everything that was measured
	Suites   []Suite
	Left     []string // suites of the boundary that it was not by: then it certifies nothing
	// FailedBefore are the runs that failed since the agent was last certified.
	FailedBefore []string
	Result       string // PASSED or FAILED
	Model        string // real or scripted
	Stage        string
	Author       string
	Ran          string // RFC 3339
	Expires      string // of one that passed
	// Keys signed the statement: the name in the bundle, and the SHA-256 of the raw
	// key, by which a reader knows it.
	Keys []string
	// Approved are the people who signed an approval of exactly this statement
	// that the bundle has, ApprovedBy the fingerprints of the keys they did it with,
	// and Quorum is how many it takes. One key is one person's, whatever names it has.
	Approved   []string
	ApprovedBy []string
	Quorum     int
	// Issued is the number of the record that made it live and holds exactly this
	// statement, or -1.
	Issued int64
	// Level is what the verification summary of it says (SLSA VSA, verifiedLevels),
	// if the bundle has one, and Verifier who says so.
	Level    string
	Verifier string
	// Ended is the number of the record after which it was not in force any more,
	// or -1, and Why the reason. A selection may have left that record out.
	Ended int64
	Why   string
}

// Suite is what the statement says of one suite.
type Suite struct {
	Name   string
	Digest string
	Rates  []Rate
	// FalseHolds are the trials of work in which people were asked for nothing.
	FalseHolds *Rate
}

// Rate is how many trials of one kind passed; Lower bounds the rate at 95 %, and
// Required is what that had to reach.
type Rate struct {
	Kind     string `json:"kind"`
	Passed   int    `json:"passed"`
	Trials   int    `json:"trials"`
	Lower    string `json:"lower"`
	Upper    string `json:"upper"`
	Required string `json:"required,omitempty"`
}

// lives is what records say became of certifications.
type lives struct {
	issued map[string]issue  // by certification
	live   map[string]string // by agent and stage
	ended  map[string]end
}

type issue struct {
	seq               int64
	envelope, summary []byte
}

type end struct {
	seq int64
	why string
}

func newLives() lives {
	return lives{map[string]issue{}, map[string]string{}, map[string]end{}}
}

// record reads what a record says. What cannot be read says nothing.
func (l lives) record(r Record) {
	var b struct {
		ID       string          `json:"id"`
		Stage    string          `json:"stage"`
		Envelope json.RawMessage `json:"envelope"`
		Summary  json.RawMessage `json:"summary"`
		Lapse    struct {
			Code string `json:"code"`
			Why  string `json:"why"`
		} `json:"lapse"`
	}
	switch r.Type {
	case "certification.issued":
		if unmarshalOpen(r.Body, &b) != nil {
			return
		}
		slot := r.Agent + "/" + b.Stage
		if old := l.live[slot]; old != "" {
			l.ended[old] = end{r.Seq, "replaced by " + b.ID}
		}
		l.issued[b.ID], l.live[slot] = issue{r.Seq, b.Envelope, b.Summary}, b.ID
	case "certification.lapsed":
		if unmarshalOpen(r.Body, &b) != nil {
			return
		}
		l.ended[b.ID] = end{r.Seq, b.Lapse.Code + ": " + b.Lapse.Why}
		if slot := r.Agent + "/" + b.Stage; l.live[slot] == b.ID {
			delete(l.live, slot)
		}
	}
}

// certification reads a verified statement, if it is one of a certification;
// envelope is its canonical form, as records have it.
func (v *verifier) certification(envelope []byte, s SignedStatement) error {
	c, ok := readCertification(s.Payload)
	if s.Type != "application/vnd.in-toto+json" || !ok {
		return nil
	}
	c.Issued, c.Ended = -1, -1
	for _, i := range s.Signers {
		raw, err := rawKey(v.keys[i])
		if err != nil {
			return err
		}
		c.Keys = append(c.Keys, v.names[i]+" "+digest(raw))
	}
	if x, ok := v.lives.issued[c.ID]; ok {
		if !bytes.Equal(x.envelope, envelope) {
			return fmt.Errorf("record %d issued another statement as certification %s", x.seq, c.ID)
		}
		c.Issued = x.seq
	}
	if x, ok := v.lives.ended[c.ID]; ok {
		c.Ended, c.Why = x.seq, x.why
	}
	sum := sha256.Sum256(s.Payload)
	used := map[string]bool{}
	for _, a := range v.rep.Approvals {
		var st struct {
			Kind     string   `json:"kind"`
			Tenant   string   `json:"tenant"`
			Subject  string   `json:"subject"`
			Digest   string   `json:"digest"`
			Quorum   int      `json:"quorum"`
			Excluded []string `json:"excluded"`
		}
		form, err := canonical(a.Statement)
		if err != nil || unmarshalOpen(form, &st) != nil || st.Kind != "certification" || st.Tenant != v.rep.Header.Tenant || st.Subject != c.ID ||
			st.Digest != "sha256:"+hex.EncodeToString(sum[:]) || slices.Contains(st.Excluded, a.Person) || slices.Contains(c.Approved, a.Person) {
			continue
		}
		c.Quorum = max(c.Quorum, st.Quorum)
		key, err := KeyDigest(a.Signer.Key)
		if err != nil {
			return err
		}
		if used[key] || v.holds(st.Excluded, key) {
			continue
		}
		used[key] = true
		c.Approved, c.ApprovedBy = append(c.Approved, a.Person), append(c.ApprovedBy, a.Signer.Fingerprint)
	}
	v.rep.Certifications = append(v.rep.Certifications, c)
	v.inputs[c.ID] = envelope
	return nil
}

// holds reports whether a key is one of these people's.
func (v *verifier) holds(people []string, key string) bool {
	return slices.ContainsFunc(people, func(p string) bool {
		return slices.ContainsFunc(v.people[p], func(line string) bool { k, err := KeyDigest(line); return err != nil || k == key })
	})
}

// summary reads a verified statement, if it is the verification summary of a
// certification before it, and holds it against that and the record of its issue.
func (v *verifier) summary(envelope []byte, s SignedStatement) error {
	var st struct {
		Type      string       `json:"_type"`
		Subject   []descriptor `json:"subject"`
		Kind      string       `json:"predicateType"`
		Predicate struct {
			Verifier struct {
				ID string `json:"id"`
			} `json:"verifier"`
			Inputs []descriptor `json:"inputAttestations"`
			Result string       `json:"verificationResult"`
			Levels []string     `json:"verifiedLevels"`
		} `json:"predicate"`
	}
	form, err := canonical(s.Payload)
	if err != nil || s.Type != "application/vnd.in-toto+json" || unmarshalOpen(form, &st) != nil || st.Type != "https://in-toto.io/Statement/v1" ||
		st.Kind != "https://slsa.dev/verification_summary/v1" || len(st.Subject) != 1 || len(st.Predicate.Inputs) != 1 || len(st.Predicate.Levels) != 1 {
		return nil
	}
	i := slices.IndexFunc(v.rep.Certifications, func(c Certification) bool { return c.ID == st.Subject[0].Annotations.Certification })
	if i < 0 {
		return nil
	}
	c := &v.rep.Certifications[i]
	sum := sha256.Sum256(v.inputs[c.ID])
	if !bytes.Equal(v.lives.issued[c.ID].summary, envelope) || st.Predicate.Result != "PASSED" || "sha256:"+st.Subject[0].Digest.SHA256 != c.Boundary || st.Predicate.Inputs[0].Digest.SHA256 != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the verification summary is not the one of certification %s that its record issued", c.ID)
	}
	c.Verifier, c.Level = st.Predicate.Verifier.ID, st.Predicate.Levels[0]
	return nil
}

type descriptor struct {
	Name   string `json:"name"`
	Digest struct {
		SHA256 string `json:"sha256"`
	} `json:"digest"`
	Annotations struct {
		Certification string   `json:"certification"`
		Stage         string   `json:"stage"`
		Model         string   `json:"model"`
		Author        string   `json:"author"`
		Ran           string   `json:"ran"`
		Expires       string   `json:"expires"`
		Left          []string `json:"left"`
		FailedBefore  []string `json:"failedBefore"`
		Rates         []Rate   `json:"rates"`
		FalseHolds    *Rate    `json:"falseHolds"`
	} `json:"annotations"`
}

func readCertification(payload []byte) (c Certification, ok bool) {
	var st struct {
		Type      string       `json:"_type"`
		Subject   []descriptor `json:"subject"`
		Kind      string       `json:"predicateType"`
		Predicate struct {
			Result        string       `json:"result"`
			Configuration []descriptor `json:"configuration"`
		} `json:"predicate"`
	}
	form, err := canonical(payload) // it has one meaning
	if err != nil || unmarshalOpen(form, &st) != nil || st.Type != "https://in-toto.io/Statement/v1" || st.Kind != "https://in-toto.io/attestation/test-result/v0.1" ||
		len(st.Subject) != 1 || st.Subject[0].Annotations.Certification == "" {
		return c, false
	}
	agent := st.Subject[0]
	x := agent.Annotations
	c = Certification{ID: x.Certification, Agent: agent.Name, Boundary: "sha256:" + agent.Digest.SHA256, Left: x.Left, FailedBefore: x.FailedBefore,
		Result: st.Predicate.Result, Model: x.Model, Stage: x.Stage, Author: x.Author, Ran: x.Ran, Expires: x.Expires}
	for _, s := range st.Predicate.Configuration {
		c.Suites = append(c.Suites, Suite{s.Name, "sha256:" + s.Digest.SHA256, s.Annotations.Rates, s.Annotations.FalseHolds})
	}
	return c, true
}
