package receipt

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// ErrBundle is wrapped by every refusal of a bundle: some byte of it is not
// what was sealed, or it says something that is not so.
var ErrBundle = errors.New("bundle is not valid")

// maxLine bounds a line of a bundle, in bytes.
const maxLine = 64 << 20

// Options of Verify. The zero value is legal, and proves least.
type Options struct {
	// Key is the verifier key of the log the reader expects, from a source
	// they trust. Another log's bundle is refused.
	Key string
	// Kept are checkpoints of this log that the reader stored before. A
	// complete bundle must extend them all; a selection cannot show that, and
	// is refused.
	Kept [][]byte
	// Approvals says what the keys of approvers must show.
	Approvals SSHPolicy
	// Each is called with every record, in order, before the seal is known to
	// be good: keep what it sees until Verify returns nil. Its error is
	// returned.
	Each func(Record) error
}

// Report is what a valid bundle proves.
type Report struct {
	Header     Header
	Checkpoint Checkpoint
	// Pinned reports whether Options.Key was given. If not, somebody's log
	// vouches for the file, and whose it is remains to be found out.
	Pinned      bool
	Records     int64
	First, Last string // times of the first and last record
	Approvals   []SignedApproval
	// Pictures counts the approvals that name the picture which the agent saw last,
	// and Seen those of them whose picture is among the records. In a complete
	// bundle all are.
	Pictures, Seen int
	Statements     []SignedStatement
	// Certifications are those of the statements that certify an agent.
	Certifications []Certification
	Documents      []Document
}

// SignedApproval is an approval and who signed it.
type SignedApproval struct {
	Approval
	Signer Signer
}

// SignedStatement is a DSSE statement and the names of the keys that signed.
type SignedStatement struct {
	Name string
	Statement
	Keys []string
}

// Verify reads a bundle to its end and verifies all of it. Every byte counts:
// there is no part of a bundle that can be changed, added or left out.
func Verify(r io.Reader, o Options) (Report, error) {
	v := &verifier{o: o, sum: sha256.New(), last: place{rank: -1}, people: map[string][]string{}, shown: pictures{}, lives: newLives(), inputs: map[string][]byte{}, at: map[int64][]Checkpoint{}}
	if err := v.run(r); err != nil {
		return Report{}, fmt.Errorf("%w: line %d: %w", ErrBundle, v.line, err)
	}
	return v.rep, nil
}

type verifier struct {
	o    Options
	rep  Report
	line int
	sum  hash.Hash
	last place
	key  ed25519.PublicKey

	next   int64       // seq that follows the last record
	hashes []tlog.Hash // stored hashes of a complete bundle
	at     map[int64][]Checkpoint
	people map[string][]string
	shown  pictures
	lives  lives
	inputs map[string][]byte // canonical envelopes of certifications, by certification
	keys   []crypto.PublicKey
	names  []string // of keys
}

func (v *verifier) run(r io.Reader) error {
	in := bufio.NewReaderSize(r, 1<<16)
	for v.last.rank != rankSeal {
		v.line++
		b, err := readLine(in)
		if err != nil {
			return err
		}
		var l line
		if err := unmarshal(b, &l); err != nil {
			return err
		}
		p, err := l.of()
		if err != nil {
			return err
		}
		if !p.after(v.last) {
			return errors.New("out of order")
		}
		if p.rank > rankRecord && v.last.rank <= rankRecord {
			if err := v.recordsEnd(); err != nil {
				return err
			}
		}
		v.last = p
		if err := v.take(p.rank, &l); err != nil {
			return err
		}
		v.sum.Write(b)
		v.sum.Write([]byte{'\n'})
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return errors.Join(errors.New("data after the seal"), err)
	}
	return nil
}

// readLine returns the next line without its line feed, which must be there.
func readLine(in *bufio.Reader) ([]byte, error) {
	var b []byte
	for {
		part, err := in.ReadSlice('\n')
		b = append(b, part...)
		if len(b) > maxLine {
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		}
		switch err {
		case nil:
			return b[:len(b)-1], nil
		case bufio.ErrBufferFull:
		case io.EOF:
			return nil, errors.New("the file is cut off")
		default:
			return nil, err
		}
	}
}

func (v *verifier) take(rank int, l *line) error {
	switch rank {
	case rankHeader:
		return v.header(*l.Header)
	case rankRecord:
		return v.record(l.Record, l.Proof)
	case rankPerson:
		for _, k := range l.Person.Keys {
			if _, err := ParseApprovalKey(k); err != nil {
				return err
			}
		}
		v.people[l.Person.Name] = l.Person.Keys
	case rankKey:
		k, err := x509.ParsePKIXPublicKey(l.Key.Public)
		if err != nil {
			return err
		}
		v.keys, v.names = append(v.keys, k), append(v.names, l.Key.Name)
	case rankApproval:
		a := *l.Approval
		who, err := VerifyApproval(a.Statement, a.Signature, v.people[a.Person], v.o.Approvals)
		if err != nil {
			return fmt.Errorf("approval %s by %s: %w", a.Name, a.Person, err)
		}
		found, named, err := v.shown.check(a.Statement, v.rep.Header.Complete)
		if err != nil {
			return fmt.Errorf("approval %s by %s: %w", a.Name, a.Person, err)
		}
		if named {
			v.rep.Pictures++
		}
		if found {
			v.rep.Seen++
		}
		v.rep.Approvals = append(v.rep.Approvals, SignedApproval{a, who})
	case rankStatement:
		return v.statement(*l.Statement)
	case rankDocument:
		if got := digest(l.Document.Data); got != l.Document.Digest {
			return fmt.Errorf("document %s: digest is %s, said %s", l.Document.Name, got, l.Document.Digest)
		}
		v.rep.Documents = append(v.rep.Documents, *l.Document)
	case rankSeal:
		if !ed25519.Verify(v.key, sealText(v.rep.Header.Origin, v.sum.Sum(nil)), l.Seal) {
			return fmt.Errorf("seal: %w", ErrSignature)
		}
	}
	return nil
}

func (v *verifier) statement(e Envelope) error {
	s, err := VerifyDSSE(e.Envelope, v.keys)
	if err != nil {
		return fmt.Errorf("statement %s: %w", e.Name, err)
	}
	out := SignedStatement{Name: e.Name, Statement: s}
	for _, i := range s.Signers {
		out.Keys = append(out.Keys, v.names[i])
	}
	v.rep.Statements = append(v.rep.Statements, out)
	form, err := canonical(e.Envelope) // as records are
	if err == nil {
		err = v.certification(form, out)
	}
	if err == nil {
		err = v.summary(form, out)
	}
	if err != nil {
		return fmt.Errorf("statement %s: %w", e.Name, err)
	}
	return nil
}

func (v *verifier) header(h Header) (err error) {
	if h.Format != BundleFormat {
		return fmt.Errorf("format %q is not known", h.Format)
	}
	if v.o.Key != "" && h.Key != v.o.Key {
		return fmt.Errorf("made by another log: its key is %q", h.Key)
	}
	if _, err := time.Parse(time.RFC3339, h.Made); err != nil {
		return fmt.Errorf("made: %w", err)
	}
	if v.rep.Checkpoint, err = ParseCheckpoint([]byte(h.Checkpoint), h.Key); err != nil {
		return err
	}
	if h.Origin != v.rep.Checkpoint.Origin {
		return fmt.Errorf("origin %q is not the checkpoint's", h.Origin)
	}
	if _, v.key, err = parseKey(h.Key); err != nil {
		return err
	}
	v.rep.Header, v.rep.Pinned = h, v.o.Key != ""
	for _, b := range v.o.Kept {
		c, err := ParseCheckpoint(b, h.Key)
		if err != nil {
			return fmt.Errorf("kept %w", err)
		}
		switch {
		case !h.Complete:
			return errors.New("a selection cannot be compared with a kept checkpoint: ask for a complete bundle")
		case c.Size > v.rep.Checkpoint.Size:
			return fmt.Errorf("%w: the kept checkpoint has %d records, the bundle %d", ErrProof, c.Size, v.rep.Checkpoint.Size)
		}
		v.at[c.Size] = append(v.at[c.Size], c)
	}
	if h.Complete {
		return v.checkRoot()
	}
	return nil
}

const timeForm = "2006-01-02T15:04:05.000000000Z"

func (v *verifier) record(raw []byte, proof []tlog.Hash) error {
	var r Record
	if err := unmarshal(raw, &r); err != nil {
		return err
	}
	h := v.rep.Header
	t, err := time.Parse(timeForm, r.Time)
	switch {
	case r.V != 1 || r.Tenant != h.Tenant || err != nil || t.Format(timeForm) != r.Time:
		return fmt.Errorf("record %d: version, tenant or time is not right", r.Seq)
	case r.Seq < v.next || h.Complete && r.Seq != v.next:
		return fmt.Errorf("record %d: want %d", r.Seq, v.next)
	case r.Time < v.rep.Last:
		return fmt.Errorf("record %d: its time is before the one before it", r.Seq)
	case h.Complete && proof != nil:
		return fmt.Errorf("record %d: has a proof in a complete bundle", r.Seq)
	}
	if h.Complete {
		err = v.extend(raw)
	} else {
		err = VerifyInclusion(v.rep.Checkpoint, r.Seq, raw, proof)
	}
	if err != nil {
		return err
	}
	if v.rep.Records == 0 {
		v.rep.First = r.Time
	}
	v.shown.record(r)
	v.lives.record(r)
	v.rep.Last, v.next = r.Time, r.Seq+1
	v.rep.Records++
	if v.o.Each != nil {
		return v.o.Each(r)
	}
	return nil
}

// extend adds a record to the tree of a complete bundle.
func (v *verifier) extend(raw []byte) error {
	hs, err := tlog.StoredHashes(v.next, raw, v.reader())
	if err != nil {
		return err
	}
	v.hashes = append(v.hashes, hs...)
	v.next++
	defer func() { v.next-- }()
	return v.checkRoot()
}

func (v *verifier) reader() tlog.HashReader {
	return tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, x := range idx {
			if x < 0 || x >= int64(len(v.hashes)) {
				return nil, fmt.Errorf("sallyport: internal error: hash %d is not made yet", x)
			}
			out[i] = v.hashes[x]
		}
		return out, nil
	})
}

// checkRoot compares the tree so far with the checkpoints of its size.
func (v *verifier) checkRoot() error {
	want := v.at[v.next]
	if v.next == v.rep.Checkpoint.Size {
		want = append(want, v.rep.Checkpoint)
	}
	if len(want) == 0 {
		return nil
	}
	root, err := tlog.TreeHash(v.next, v.reader())
	if err != nil {
		return err
	}
	for _, c := range want {
		if !bytes.Equal(c.Root[:], root[:]) {
			return fmt.Errorf("%w: the first %d records do not give the signed root", ErrProof, v.next)
		}
	}
	return nil
}

func (v *verifier) recordsEnd() error {
	if v.rep.Header.Complete && v.next != v.rep.Checkpoint.Size {
		return fmt.Errorf("it has %d records, the checkpoint %d", v.next, v.rep.Checkpoint.Size)
	}
	return nil
}
