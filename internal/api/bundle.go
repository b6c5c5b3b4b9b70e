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

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/receipt"
)

// WriteBundle writes a bundle of a log with what is needed to check it offline:
// every approval with the keys of who signed it, and every certification with
// the key of the tenant. All of that is read from the log itself, so that it
// works on a stopped server's folder too. A bundle of one task has the approvals
// of that task, and those of nothing in particular.
func WriteBundle(ctx context.Context, log *ledger.Log, w io.Writer, in Export) error {
	return log.Export(ctx, w, ledger.Filter{Task: in.Task, From: in.From, To: in.To}, func(b *receipt.Writer) error {
		x := extras{people: map[string][]string{}, approvals: map[string]receipt.Approval{}, keys: map[string]ed25519.PublicKey{}, statements: map[string][]byte{}}
		err := log.Entries(ctx, 0, func(e record.Entry) error {
			if in.Task != "" && e.Task != "" && e.Task != in.Task {
				return nil
			}
			if err := x.read(e); err != nil {
				return fmt.Errorf("record %d: %w", e.Seq, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return x.write(b)
	})
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
