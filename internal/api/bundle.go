package api

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/receipt"
)

// WriteBundle writes a bundle of a log with what is needed to check it offline:
// every approval with the keys of who signed it, and every certification with
// the key of the tenant. All of that is read from the log itself, so that it
// works on a stopped server's folder too, and before the records, so that what it
// speaks of is among them. A bundle of one task has the approvals
// of that task, and those of nothing in particular; one of a certification has what
// belongs to it alone.
func WriteBundle(ctx context.Context, log *ledger.Log, w io.Writer, in Export) error {
	x := extras{people: map[string][]string{}, approvals: map[string]receipt.Approval{}, keys: map[string]ed25519.PublicKey{}, statements: map[string][]byte{}}
	f := ledger.Filter{Task: in.Task, From: in.From, To: in.To}
	of := life{id: in.Certification, only: map[int64]bool{}}
	if of.id != "" {
		f.Only = of.only
	}
	err := log.Entries(ctx, 0, func(e record.Entry) error {
		if in.Task != "" && e.Task != "" && e.Task != in.Task {
			return nil
		}
		if of.id != "" {
			if is, err := of.has(e); err != nil || !is {
				return err
			}
		}
		if err := x.read(e); err != nil {
			return fmt.Errorf("record %d: %w", e.Seq, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if of.id != "" && x.statements[of.id] == nil {
		return notFound("no_such_certification", "there is no certification "+strconv.Quote(of.id), "see: sallyport certify AGENT --history")
	}
	return log.Export(ctx, w, f, x.write)
}

// life picks the records of one certification: the results of its suites, the record
// that made it live, or else that of its run, its approvals, its end, and the keys that sign statements.
type life struct {
	id   string
	only map[int64]bool
	run  int64
	slot string // agent and stage, while it is live
}

func (l *life) has(e record.Entry) (bool, error) {
	var b struct {
		ID, Stage, Certification string
		Statement                struct{ Kind, Subject string }
	}
	switch e.Type {
	case "certification.key":
	case "certification.suite", "certification.run", "certification.issued", "certification.lapsed", "approval.granted":
		if err := json.Unmarshal(e.Body, &b); err != nil {
			return false, fmt.Errorf("record %d: %w", e.Seq, err)
		}
	default:
		return false, nil
	}
	slot := e.Agent + "/" + b.Stage
	switch {
	case e.Type == "certification.key":
	case e.Type == "approval.granted" && b.Statement.Kind == "certification" && b.Statement.Subject == l.id:
	case e.Type == "certification.suite" && b.Certification == l.id:
	case e.Type == "certification.run" && b.ID == l.id:
		l.run = e.Seq
	case e.Type == "certification.issued" && b.ID == l.id:
		l.slot = slot
		delete(l.only, l.run) // this one says all of it again
	case e.Type == "certification.issued" && slot == l.slot, // takes its place
		e.Type == "certification.lapsed" && b.ID == l.id:
		l.slot = ""
	default:
		return false, nil
	}
	l.only[e.Seq] = true
	return true, nil
}

// extras are what a bundle has beside records, by name.
type extras struct {
	people     map[string][]string
	approvals  map[string]receipt.Approval
	keys       map[string]ed25519.PublicKey
	statements map[string][]byte
}

func (x *extras) read(e record.Entry) error {
	switch e.Type {
	case "approval.granted", "hold.approved":
		var g struct {
			ID, Person, Key, Signature string
			Statement                  canon.Value
		}
		if err := json.Unmarshal(e.Body, &g); err != nil {
			return err
		}
		x.people[g.Person] = append(x.people[g.Person], g.Key)
		// One approval may have the signatures of several people.
		name := g.ID + "/" + g.Person
		x.approvals[name] = receipt.Approval{Name: name, Person: g.Person, Statement: g.Statement, Signature: g.Signature}
	case "certification.key":
		var k struct{ Public string }
		if err := json.Unmarshal(e.Body, &k); err != nil {
			return err
		}
		pub, err := base64.StdEncoding.DecodeString(k.Public)
		if err != nil || len(pub) != ed25519.PublicKeySize {
			return fmt.Errorf("certification key: want %d bytes", ed25519.PublicKeySize)
		}
		x.keys[fmt.Sprintf("certification/%d", e.Seq)] = pub
	case "certification.run":
		var c struct {
			ID       string
			Envelope canon.Value
		}
		if err := json.Unmarshal(e.Body, &c); err != nil {
			return err
		}
		x.statements[c.ID] = c.Envelope
	case "certification.issued":
		var c struct {
			ID      string
			Summary canon.Value
		}
		if err := json.Unmarshal(e.Body, &c); err != nil {
			return err
		}
		if c.Summary != nil {
			x.statements[c.ID+"/summary"] = c.Summary
		}
	}
	return nil
}

func (x *extras) write(b *receipt.Writer) error {
	for _, n := range slices.Sorted(maps.Keys(x.people)) {
		keys := x.people[n]
		slices.Sort(keys)
		if err := b.Person(receipt.Person{Name: n, Keys: slices.Compact(keys)}); err != nil {
			return err
		}
	}
	for _, n := range slices.Sorted(maps.Keys(x.keys)) {
		der, err := x509.MarshalPKIXPublicKey(x.keys[n])
		if err != nil {
			return err
		}
		if err := b.Key(receipt.Key{Name: n, Public: der}); err != nil {
			return err
		}
	}
	for _, n := range slices.Sorted(maps.Keys(x.approvals)) {
		if err := b.Approval(x.approvals[n]); err != nil {
			return err
		}
	}
	for _, n := range slices.Sorted(maps.Keys(x.statements)) {
		if err := b.Statement(receipt.Envelope{Name: n, Envelope: x.statements[n]}); err != nil {
			return err
		}
	}
	return nil
}
