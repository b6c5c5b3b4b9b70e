package receipt

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"

	"golang.org/x/mod/sumdb/tlog"
)

// BundleFormat names the format of bundles.
const BundleFormat = "sallyport/bundle@v1"

// Header is the first line of a bundle.
type Header struct {
	Format     string `json:"format"` // BundleFormat
	Tenant     string `json:"tenant"`
	Origin     string `json:"origin"`     // of the log
	Key        string `json:"key"`        // the log's verifier key (C2SP signed-note)
	Checkpoint string `json:"checkpoint"` // signed note
	Complete   bool   `json:"complete"`   // all records are here
	Made       string `json:"made"`       // RFC 3339, by the exporter's clock
}

// Record is a record of the log as an auditor reads it. Evidence and Body are
// canonical JSON.
type Record struct {
	V        int             `json:"v"`
	Tenant   string          `json:"tenant"`
	Seq      int64           `json:"seq"`
	Time     string          `json:"time"` // RFC 3339, nine digits, UTC
	Clamped  bool            `json:"clamped,omitempty"`
	Type     string          `json:"type"`
	Task     string          `json:"task,omitempty"`
	Agent    string          `json:"agent,omitempty"`
	Actor    string          `json:"actor,omitempty"`
	ID       string          `json:"id"`
	Evidence json.RawMessage `json:"evidence,omitempty"`
	Body     json.RawMessage `json:"body"`
}

// Person lists the keys a person approves with.
type Person struct {
	Name string   `json:"name"`
	Keys []string `json:"keys"` // as ParseApprovalKey returns them
}

// Key is a public key that signs statements.
type Key struct {
	Name   string `json:"name"`
	Public []byte `json:"public"` // PKIX, DER
}

// Approval is a statement that a person signed (VerifyApproval).
type Approval struct {
	Name      string `json:"name"`
	Person    string `json:"person"`
	Statement []byte `json:"statement"`
	Signature string `json:"signature"` // armored SSHSIG, or Assertion.String
}

// Envelope is a DSSE envelope.
type Envelope struct {
	Name     string `json:"name"`
	Envelope []byte `json:"envelope"`
}

// Document is a file that the log's key vouches for, such as readiness.json.
type Document struct {
	Name   string `json:"name"`
	Type   string `json:"type"`   // media type
	Digest string `json:"digest"` // "sha256:" and hex
	Data   []byte `json:"data"`
}

// line is any line of a bundle; one member is set (two with Proof).
type line struct {
	Header    *Header         `json:"header,omitempty"`
	Proof     []tlog.Hash     `json:"proof,omitempty"`
	Record    json.RawMessage `json:"record,omitempty"`
	Person    *Person         `json:"person,omitempty"`
	Key       *Key            `json:"key,omitempty"`
	Approval  *Approval       `json:"approval,omitempty"`
	Statement *Envelope       `json:"statement,omitempty"`
	Document  *Document       `json:"document,omitempty"`
	Seal      []byte          `json:"seal,omitempty"`
}

// Ranks of the kinds, in their order in the file.
const (
	rankHeader = iota
	rankRecord
	rankPerson
	rankKey
	rankApproval
	rankStatement
	rankDocument
	rankSeal
)

// place is where a line may stand: ranks never fall, names rise within a rank.
type place struct {
	rank int
	name string
}

// of returns the rank and name of a line, and an error if it has not exactly
// one kind.
func (l *line) of() (place, error) {
	var p place
	n := 0
	is := func(set bool, rank int, name func() string) {
		if set {
			n++
			p = place{rank, name()}
		}
	}
	none := func() string { return "" }
	is(l.Header != nil, rankHeader, none)
	is(l.Record != nil, rankRecord, none)
	is(l.Person != nil, rankPerson, func() string { return l.Person.Name })
	is(l.Key != nil, rankKey, func() string { return l.Key.Name })
	is(l.Approval != nil, rankApproval, func() string { return l.Approval.Name })
	is(l.Statement != nil, rankStatement, func() string { return l.Statement.Name })
	is(l.Document != nil, rankDocument, func() string { return l.Document.Name })
	is(l.Seal != nil, rankSeal, none)
	if n != 1 || l.Proof != nil && l.Record == nil {
		return p, fmt.Errorf("line has %d kinds, want 1", n)
	}
	return p, nil
}

// after reports whether p may follow q.
func (p place) after(q place) bool {
	switch p.rank {
	case rankHeader:
		return q.rank < rankHeader
	case rankRecord:
		return q.rank == rankHeader || q.rank == rankRecord
	case rankSeal:
		return q.rank >= rankHeader && q.rank < rankSeal
	}
	return q.rank >= rankHeader && (p.rank > q.rank && p.name != "" || p.rank == q.rank && p.name > q.name)
}

func sealText(origin string, sum []byte) []byte {
	return fmt.Appendf(nil, "%s\n%s\n%s\n", BundleFormat, origin, hex.EncodeToString(sum))
}

// Writer writes a bundle. Its methods are called in the order of the kinds; a
// call out of order is an error. Nothing is a bundle before Close.
type Writer struct {
	w    io.Writer
	sum  hash.Hash
	sign func(message []byte) ([]byte, error)
	head Header
	last place
	err  error
}

// NewWriter starts a bundle. sign makes an Ed25519 signature with the log's key.
func NewWriter(w io.Writer, h Header, sign func(message []byte) ([]byte, error)) (*Writer, error) {
	h.Format = BundleFormat
	b := &Writer{w: w, sum: sha256.New(), sign: sign, head: h, last: place{rank: -1}}
	return b, b.put(line{Header: &h})
}

// Record writes a record, with its proof in a selection, without in a complete
// bundle. A proof may be empty, in a log of one record.
func (b *Writer) Record(raw []byte, proof []tlog.Hash) error {
	return b.put(line{Record: raw, Proof: proof})
}

// Person writes a person.
func (b *Writer) Person(p Person) error { return b.put(line{Person: &p}) }

// Key writes a key.
func (b *Writer) Key(k Key) error { return b.put(line{Key: &k}) }

// Approval writes an approval.
func (b *Writer) Approval(a Approval) error { return b.put(line{Approval: &a}) }

// Statement writes a DSSE envelope.
func (b *Writer) Statement(e Envelope) error { return b.put(line{Statement: &e}) }

// Document writes a document, and its digest.
func (b *Writer) Document(name, mediaType string, data []byte) error {
	return b.put(line{Document: &Document{Name: name, Type: mediaType, Digest: digest(data), Data: data}})
}

// Close seals the bundle. It does not close the underlying writer.
func (b *Writer) Close() error {
	if b.err != nil {
		return b.err
	}
	sig, err := b.sign(sealText(b.head.Origin, b.sum.Sum(nil)))
	if err != nil {
		b.err = fmt.Errorf("seal bundle: %w", err)
		return b.err
	}
	return b.put(line{Seal: sig})
}

func (b *Writer) put(l line) error {
	if b.err != nil {
		return b.err
	}
	b.err = b.write(l)
	return b.err
}

func (b *Writer) write(l line) error {
	p, err := l.of()
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	if !p.after(b.last) {
		return fmt.Errorf("write bundle: %q is out of order", p.name)
	}
	out, err := marshal(l)
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	if len(out) >= maxLine {
		return fmt.Errorf("write bundle: %q has %d bytes, limit %d", p.name, len(out), maxLine)
	}
	b.last = p
	out = append(out, '\n')
	b.sum.Write(out)
	_, err = b.w.Write(out)
	return err
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}
