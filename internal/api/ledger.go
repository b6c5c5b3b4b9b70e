package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/receipt"
)

// Limits of a page of records.
const (
	pageDefault = 100
	pageMax     = 1000
)

// Records is a page of a tenant's log.
type Records struct {
	Tenant  string        `json:"tenant"`
	Size    int64         `json:"size"` // of the whole log
	Records []canon.Value `json:"records"`
}

// Filter selects records of a page.
type Filter struct {
	From, Limit int64
	Last        bool // the last Limit records from From on, instead of the first
	Task        string
	Types       func(string) bool // nil is all
}

// Proof shows that a record is in the log.
type Proof struct {
	Seq        int64       `json:"seq"`
	Record     canon.Value `json:"record"`
	Proof      string      `json:"proof"` // C2SP tlog-proof, with the checkpoint
	Checkpoint string      `json:"checkpoint"`
	Key        string      `json:"key"` // the log's verifier key
}

// Verified is what reading the whole log again found.
type Verified struct {
	Tenant   string   `json:"tenant"`
	OK       bool     `json:"ok"`
	Size     int64    `json:"size"`
	Root     string   `json:"root"`
	Signed   int64    `json:"signed"`
	Payloads int      `json:"payloads"`
	Erased   int      `json:"erased"`
	Problems []string `json:"problems"`
	Key      string   `json:"key"`
}

// Export is the body of POST ledger/export. The zero value is the whole log.
type Export struct {
	Task string `json:"task,omitempty"`
	From int64  `json:"from,omitempty"`
	To   int64  `json:"to,omitempty"`
	// Certification names one: its statement, and the records of its run, issue,
	// approvals and end, are all that is wanted.
	Certification string `json:"certification,omitempty"`
}

func (a *api) ledgerRoutes(mux *http.ServeMux) {
	// with runs f over the log that the call means.
	with := func(f func(*call, *ledger.Log) (any, error)) func(*call) (any, error) {
		return func(c *call) (any, error) {
			log, err := a.s.Log(c.tenant)
			if err != nil {
				return nil, err
			}
			return f(c, log)
		}
	}
	a.handle(mux, "GET "+v1+"ledger", with(records), "from", "limit", "last", "task", "type")
	a.handle(mux, "GET "+v1+"ledger/{seq}", with(func(c *call, log *ledger.Log) (any, error) {
		seq, err := seqOf(c)
		if err != nil {
			return nil, err
		}
		return ReadRecord(c.Context(), log, seq)
	}))
	a.handle(mux, "GET "+v1+"ledger/verify", with(func(c *call, log *ledger.Log) (any, error) { return Verify(c.Context(), log) }))
	a.handle(mux, "GET "+v1+"ledger/proof/{seq}", with(func(c *call, log *ledger.Log) (any, error) {
		seq, err := seqOf(c)
		if err != nil {
			return nil, err
		}
		return Prove(c.Context(), log, seq)
	}))
	a.handle(mux, "POST "+v1+"ledger/export", with(export))
	a.handle(mux, "GET "+v1+"ledger/{seq}/payload/{n}", a.payload)
}

func seqOf(c *call) (int64, error) {
	seq, err := strconv.ParseInt(c.PathValue("seq"), 10, 64)
	if err != nil || seq < 0 {
		return 0, invalid("invalid_seq", "a record is named by its number, from 0 on", "see: sallyport ledger list")
	}
	return seq, nil
}

func records(c *call, log *ledger.Log) (any, error) {
	from, err := c.number("from", 0)
	if err != nil {
		return nil, err
	}
	limit, err := c.number("limit", pageDefault)
	if err != nil {
		return nil, err
	}
	q := c.URL.Query()
	f := Filter{From: from, Limit: min(limit, pageMax), Last: q.Get("last") == "true", Task: q.Get("task")}
	if t := q.Get("type"); t != "" {
		f.Types = func(s string) bool { return s == t }
	}
	return ReadRecords(c.Context(), log, f)
}

var errEnough = errors.New("enough")

// ReadRecords reads a page of a log.
func ReadRecords(ctx context.Context, log *ledger.Log, f Filter) (Records, error) {
	out := Records{Tenant: log.Tenant(), Records: []canon.Value{}}
	head, err := log.Head(ctx)
	if err != nil {
		return out, err
	}
	out.Size = head.Size
	from := f.From
	if f.Last && f.Task == "" && f.Types == nil {
		from = max(from, head.Size-f.Limit)
	}
	visit := func(e record.Entry) error {
		if e.Seq < f.From || f.Types != nil && !f.Types(e.Type) {
			return nil
		}
		if int64(len(out.Records)) >= f.Limit {
			if !f.Last {
				return errEnough
			}
			if f.Limit == 0 {
				return nil
			}
			out.Records = out.Records[1:]
		}
		out.Records = append(out.Records, canon.Value(e.Raw))
		return nil
	}
	if f.Task != "" {
		err = log.TaskEntries(ctx, f.Task, visit)
	} else {
		err = log.Entries(ctx, from, visit)
	}
	if err == errEnough {
		err = nil
	}
	return out, err
}

// ReadRecord reads one record.
func ReadRecord(ctx context.Context, log *ledger.Log, seq int64) (canon.Value, error) {
	p, err := ReadRecords(ctx, log, Filter{From: seq, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(p.Records) == 0 {
		return nil, noRecord(seq)
	}
	return p.Records[0], nil
}

func noRecord(seq int64) error {
	return notFound("no_such_record", "the log has no record "+strconv.FormatInt(seq, 10), "see: sallyport ledger list")
}

// Verify reads the whole log again and says what it found.
func Verify(ctx context.Context, log *ledger.Log) (Verified, error) {
	r, err := log.Verify(ctx)
	if err != nil {
		return Verified{}, err
	}
	v := Verified{Tenant: log.Tenant(), OK: r.OK(), Size: r.Size, Root: r.Root.String(), Signed: r.Signed, Payloads: r.Payloads, Erased: r.Erased,
		Problems: []string{}, Key: log.VerifierKey()}
	for _, p := range r.Problems {
		v.Problems = append(v.Problems, p.String())
	}
	return v, nil
}

// Prove shows that one record is in the log.
func Prove(ctx context.Context, log *ledger.Log, seq int64) (Proof, error) {
	if h, err := log.Head(ctx); err != nil || seq >= h.Size {
		return Proof{}, errors.Join(err, noRecord(seq))
	}
	p, err := log.ProveInclusion(ctx, seq)
	if err != nil {
		return Proof{}, err
	}
	return Proof{Seq: seq, Record: canon.Value(p.Raw), Proof: string(receipt.FormatProof(seq, p.Proof, p.Checkpoint)),
		Checkpoint: string(p.Checkpoint), Key: log.VerifierKey()}, nil
}

// export streams a bundle. A bundle that was cut has no seal, so whoever gets
// half of one knows.
func export(c *call, log *ledger.Log) (any, error) {
	var in Export
	if err := c.read(maxRequest, &in); err != nil {
		return nil, err
	}
	if in.From < 0 || in.To < 0 || in.To > 0 && in.To <= in.From {
		return nil, invalid("invalid_range", "from and to do not name a range of records", "give from < to")
	}
	if in.Certification != "" && (Export{Certification: in.Certification}) != in {
		return nil, invalid("invalid_selection", "a certification is exported whole", "leave out task, from and to")
	}
	c.w.Header().Set("Content-Type", "application/vnd.sallyport.bundle")
	w := &begun{ResponseWriter: c.w}
	err := WriteBundle(c.Context(), log, w, in)
	if err != nil && w.any {
		panic(http.ErrAbortHandler) // the client sees a cut stream
	}
	return written, err
}

type begun struct {
	http.ResponseWriter
	any bool
}

func (b *begun) Write(p []byte) (int, error) {
	b.any = true
	return b.ResponseWriter.Write(p)
}

// payload sends evidence as a file: a browser that met it must not run it.
func (a *api) payload(c *call) (any, error) {
	seq, err := seqOf(c)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(c.PathValue("n"))
	if err != nil || n < 0 {
		return nil, invalid("invalid_payload", "a payload is named by its place in the record's evidence, from 0 on", "see: sallyport ledger show "+c.PathValue("seq"))
	}
	ev, b, err := a.s.Payload(c.Context(), c.tenant, c.caller, seq, n)
	if err != nil {
		return nil, err
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	meta, err := json.Marshal(ev)
	if err != nil {
		return nil, err
	}
	h.Set("Sallyport-Evidence", string(meta))
	c.w.Write(b)
	return written, nil
}
