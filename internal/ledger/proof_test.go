package ledger_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/receipt"
)

// appendN appends n records. Many callers at once make few
// transactions.
func appendN(t *testing.T, log *ledger.Log, n int) {
	t.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() {
			_, err := log.Append(t.Context(), record.Draft{Type: "test.made", Task: fmt.Sprint("t", i%3), Body: map[string]int{"i": i}})
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

func rawRecords(t *testing.T, log *ledger.Log) (raws [][]byte) {
	t.Helper()
	err := log.Entries(t.Context(), 0, func(e record.Entry) error {
		raws = append(raws, e.Raw)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return raws
}

// TestProofsAgainstXMod compares the tree, every inclusion proof and many
// consistency proofs with x/mod's, made from the records alone.
func TestProofsAgainstXMod(t *testing.T) { both(t, proofsAgainstXMod) }

func proofsAgainstXMod(t *testing.T, _ *ledger.Ledger, log *ledger.Log) {
	const n = 70
	appendN(t, log, n)
	cp, err := log.CheckpointNow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := receipt.ParseCheckpoint(cp, log.VerifierKey())
	if err != nil || c.Size != n || c.Origin != log.Origin() {
		t.Fatalf("got %+v, %v", c, err)
	}
	raws := rawRecords(t, log)
	var hashes []tlog.Hash
	oracle := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range idx {
			out = append(out, hashes[i])
		}
		return out, nil
	})
	for i, raw := range raws {
		hs, err := tlog.StoredHashes(int64(i), raw, oracle)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, hs...)
	}
	if root, err := tlog.TreeHash(n, oracle); err != nil || root != c.Root {
		t.Fatalf("got root %v, want %v, %v", c.Root, root, err)
	}
	for seq := range int64(n) {
		p, err := log.ProveInclusion(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if err := receipt.VerifyInclusion(c, seq, raws[seq], p.Proof); err != nil || !bytes.Equal(p.Raw, raws[seq]) {
			t.Fatalf("record %d: %v", seq, err)
		}
		if err := receipt.VerifyInclusion(c, seq, raws[(seq+1)%n], p.Proof); err == nil {
			t.Fatalf("record %d: its proof is good for another record", seq)
		}
	}
	for from := int64(1); from <= n; from += 7 {
		root, err := tlog.TreeHash(from, oracle)
		if err != nil {
			t.Fatal(err)
		}
		p, err := log.Consistency(t.Context(), from, n)
		if err != nil {
			t.Fatal(err)
		}
		if err := receipt.VerifyConsistency(receipt.Checkpoint{Origin: c.Origin, Size: from, Root: root}, c, p); err != nil {
			t.Errorf("from %d: %v", from, err)
		}
	}
	for _, seq := range []int64{-1, n, 1 << 40} {
		if _, err := log.ProveInclusion(t.Context(), seq); !errors.Is(err, record.ErrNotFound) {
			t.Errorf("record %d: got %v", seq, err)
		}
	}
	for _, c := range [][2]int64{{0, 5}, {6, 5}, {1, n + 1}} {
		if _, err := log.Consistency(t.Context(), c[0], c[1]); err == nil {
			t.Errorf("sizes %v: got no error", c)
		}
	}
}

func TestTiles(t *testing.T) { both(t, tiles) }

func tiles(t *testing.T, l *ledger.Ledger, log *ledger.Log) {
	const n = 600 // two full tiles and a part
	appendN(t, log, n)
	cp, err := log.CheckpointNow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(l.TileHandler(tenant))
	defer srv.Close()
	get := func(path string) (int, []byte) {
		r, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		var b bytes.Buffer
		b.ReadFrom(r.Body)
		return r.StatusCode, b.Bytes()
	}
	if code, b := get("/checkpoint"); code != 200 || !bytes.Equal(b, cp) {
		t.Errorf("got %d %s, want %s", code, b, cp)
	}
	var raws [][]byte
	var leaves []byte
	for _, path := range []string{"/tile/entries/000", "/tile/entries/001", "/tile/entries/002.p/88"} {
		code, b := get(path)
		if code != 200 {
			t.Fatalf("%s: got %d", path, code)
		}
		for len(b) > 0 {
			size := int(binary.BigEndian.Uint16(b))
			raws, b = append(raws, b[2:2+size]), b[2+size:]
		}
	}
	for _, path := range []string{"/tile/0/000", "/tile/0/001", "/tile/0/002.p/88"} {
		_, b := get(path)
		leaves = append(leaves, b...)
	}
	if len(raws) != n || len(leaves) != n*tlog.HashSize {
		t.Fatalf("got %d records, %d bytes of leaves", len(raws), len(leaves))
	}
	for i, raw := range raws {
		if h := tlog.RecordHash(raw); !bytes.Equal(h[:], leaves[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
			t.Fatalf("leaf %d is not of its record", i)
		}
	}
	// A tile of level 1 holds the roots of the tiles of level 0.
	_, b := get("/tile/1/000.p/2")
	for i := range 2 {
		root := treeOf(leaves[i*256*32 : (i+1)*256*32])
		if len(b) != 64 || !bytes.Equal(b[i*32:(i+1)*32], root[:]) {
			t.Errorf("level 1, hash %d: got %x, want %x", i, b, root)
		}
	}
	for _, path := range []string{"/", "/tile/0/002", "/tile/0/002.p/89", "/tile/0/2", "/tile/0/0002", "/tile/0/x000/001", "/tile/00/000",
		"/tile/0/000.p/0", "/tile/0/000.p/256", "/tile/0/000.p/01", "/tile/0/-01", "/tile/2/000", "/tile/6/000", "/tile/entries/003",
		"/tile/0/x999/x999/x999/x999/999", "/tile/0/000/", "/tile//000", "/tile/entries/../0/000", "/checkpoint/"} {
		if code, b := get(path); code != 404 {
			t.Errorf("%s: got %d %.40q, want 404", path, code, b)
		}
	}
	if r, err := http.Post(srv.URL+"/checkpoint", "", nil); err != nil || r.StatusCode != 405 {
		t.Errorf("POST: got %v, %v", r.StatusCode, err)
	}
	rec := httptest.NewRecorder()
	l.TileHandler("other").ServeHTTP(rec, httptest.NewRequest("GET", "/checkpoint", nil))
	if rec.Code != 404 {
		t.Errorf("other tenant: got %d", rec.Code)
	}
}

// treeOf is the root of a full tile, the slow and obvious way.
func treeOf(leaves []byte) tlog.Hash {
	if len(leaves) == tlog.HashSize {
		return tlog.Hash(leaves)
	}
	half := len(leaves) / 2
	return tlog.NodeHash(treeOf(leaves[:half]), treeOf(leaves[half:]))
}

// TestCheckpointFollows: without anybody asking, a checkpoint over what was
// appended appears.
func TestCheckpointFollows(t *testing.T) {
	log := ledgertest.New(t).(*ledger.Log)
	appendN(t, log, 3)
	deadline := time.Now().Add(10 * time.Second) // the promise is 1 s; this machine may be busy
	for time.Now().Before(deadline) {
		b, err := log.Checkpoint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c, err := receipt.ParseCheckpoint(b, log.VerifierKey()); err == nil && c.Size == 3 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("no checkpoint over the 3 records")
}

func TestExport(t *testing.T) { both(t, export) }

func export(t *testing.T, _ *ledger.Ledger, log *ledger.Log) {
	appendN(t, log, 20)
	kept, err := log.CheckpointNow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	appendN(t, log, 13)
	var out bytes.Buffer
	err = log.Export(t.Context(), &out, ledger.Filter{}, func(w *receipt.Writer) error {
		return w.Document("readiness.json", "application/json", []byte("{}"))
	})
	if err != nil {
		t.Fatal(err)
	}
	raws := rawRecords(t, log)
	rep, err := receipt.Verify(bytes.NewReader(out.Bytes()), receipt.Options{Key: log.VerifierKey(), Kept: [][]byte{kept}})
	if err != nil || rep.Records != 33 || !rep.Header.Complete || len(rep.Documents) != 1 {
		t.Fatalf("got %+v, %v", rep, err)
	}
	for _, c := range []struct {
		f    ledger.Filter
		want int64
	}{{ledger.Filter{Task: "t1"}, 11}, {ledger.Filter{From: 30}, 3}, {ledger.Filter{From: 5, To: 9}, 4}, {ledger.Filter{Task: "none"}, 0}} {
		out.Reset()
		if err := log.Export(t.Context(), &out, c.f, nil); err != nil {
			t.Fatal(err)
		}
		rep, err := receipt.Verify(&out, receipt.Options{Key: log.VerifierKey(), Each: func(r receipt.Record) error {
			if c.f.Task != "" && r.Task != c.f.Task || !bytes.Contains(raws[r.Seq], []byte(r.ID)) {
				t.Errorf("%+v: got record %d of %s", c.f, r.Seq, r.Task)
			}
			return nil
		}})
		if err != nil || rep.Records != c.want || rep.Header.Complete {
			t.Errorf("%+v: got %d records, %v; want %d", c.f, rep.Records, err, c.want)
		}
	}
}

func TestErasure(t *testing.T) { both(t, erasure) }

func erasure(t *testing.T, _ *ledger.Ledger, log *ledger.Log) {
	draft := func(task string) record.Draft {
		return record.Draft{Type: "test.seen", Task: task, Blobs: []record.Blob{{Name: "screenshot", Type: "image/png", Data: []byte("secret " + task)}}}
	}
	a, err := log.Append(t.Context(), draft("a"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := log.Append(t.Context(), draft("b"))
	if err != nil {
		t.Fatal(err)
	}
	swapped := a.Evidence[0]
	swapped.Blob = b.Evidence[0].Blob
	if data, err := log.Payload(t.Context(), swapped); err == nil {
		t.Errorf("swapped blob: got %q", data)
	}
	e, err := log.DestroyKey(t.Context(), "a", "person:jo")
	if err != nil || e.Type != "evidence.erased" || e.Task != "a" {
		t.Fatalf("got %+v, %v", e, err)
	}
	if _, err := log.Payload(t.Context(), a.Evidence[0]); !errors.Is(err, ledger.ErrErased) {
		t.Errorf("got %v, want %v", err, ledger.ErrErased)
	}
	if data, err := log.Payload(t.Context(), b.Evidence[0]); err != nil || string(data) != "secret b" {
		t.Errorf("other task: got %q, %v", data, err)
	}
	if _, err := log.Append(t.Context(), draft("a")); !errors.Is(err, ledger.ErrErased) {
		t.Errorf("append to an erased task: got %v, want %v", err, ledger.ErrErased)
	}
	if _, err := log.ProveInclusion(t.Context(), a.Seq); err != nil {
		t.Errorf("proof after erasure: %v", err)
	}
	rep, err := log.Verify(t.Context())
	if err != nil || !rep.OK() || rep.Erased != 1 || rep.Payloads != 1 {
		t.Errorf("got %+v, %v", rep, err)
	}
}

func TestLimits(t *testing.T) { both(t, limits) }

func limits(t *testing.T, l *ledger.Ledger, log *ledger.Log) {
	for name, d := range map[string]record.Draft{
		"too_large":     {Type: "x", Body: strings.Repeat("a", ledger.MaxRecord)},
		"no_type":       {},
		"nul":           {Type: "x", Task: "a\x00b"},
		"invalid_utf8":  {Type: "x", Actor: "a\xff"},
		"body_utf8":     {Type: "x", Body: "a\xff"},
		"body_channel":  {Type: "x", Body: make(chan int)},
		"body_integer":  {Type: "x", Body: int64(1) << 60},
		"blob_large":    {Type: "x", Blobs: []record.Blob{{Data: make([]byte, ledger.MaxBlob+1)}}},
		"reserved_kind": {Type: "x", Change: func(tx record.Tx) error { return tx.Put("ledger.key", "log", 1) }},
		"reserved_read": {Type: "x", Change: func(tx record.Tx) error { return tx.Get("ledger.key", "log", new(any)) }},
		"nul_id":        {Type: "x", Change: func(tx record.Tx) error { return tx.Put("k", "\x00", 1) }},
	} {
		if e, err := log.Append(t.Context(), d); err == nil {
			t.Errorf("%s: got record %d, want an error", name, e.Seq)
		} else if name == "too_large" && !errors.Is(err, record.ErrTooLarge) {
			t.Errorf("got %v, want %v", err, record.ErrTooLarge)
		}
	}
	if h, err := log.Head(t.Context()); err != nil || h.Size != 0 {
		t.Errorf("got %d records, %v; want none", h.Size, err)
	}
	// As large as it may be, with the longest seq and time.
	fit := ledger.MaxRecord - 300
	if _, err := log.Append(t.Context(), record.Draft{Type: "x", Body: strings.Repeat("a", fit)}); err != nil {
		t.Error(err)
	}
	err := log.View(t.Context(), func(tx record.Tx) error { return tx.Put("k", "a", 1) })
	if err == nil {
		t.Error("write in a view: got no error")
	}
	if _, err := l.Create(t.Context(), tenant, "x/log"); err == nil {
		t.Error("second log of a tenant: got no error")
	}
	for _, bad := range []string{"", "A", "a/b", "..", "-a", "a b", strings.Repeat("a", 64)} {
		if _, err := l.Create(t.Context(), bad, "x/log"); err == nil {
			t.Errorf("tenant %q: got no error", bad)
		}
	}
	for _, bad := range []string{"", "a b", "a\nb", "a+b", "sallyport/bundle@v1", "sallyport/x"} {
		if _, err := l.Create(t.Context(), "other", bad); err == nil {
			t.Errorf("origin %q: got no error", bad)
		}
	}
}

// TestClockGoesBack: the record's time does not, and it says so.
//
// Threats: T53 (ledger)
func TestClockGoesBack(t *testing.T) {
	l, _ := ledgertest.NewLedger(t)
	log, err := l.Create(t.Context(), tenant, "acme.example/log")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	var want []time.Time
	for _, c := range []struct{ clock, want time.Duration }{{0, 0}, {time.Hour, time.Hour}, {-48 * time.Hour, time.Hour}, {2 * time.Hour, 2 * time.Hour}} {
		l.SetClock(func() time.Time { return start.Add(c.clock) })
		e, err := log.Append(t.Context(), record.Draft{Type: "x"})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, start.Add(c.want))
		if !e.Time.Equal(start.Add(c.want)) || bytes.Contains(e.Raw, []byte(`"clamped":true`)) != (c.clock < 0) {
			t.Errorf("got %s at %v", e.Raw, c.clock)
		}
	}
	i := 0
	log.Entries(t.Context(), 0, func(e record.Entry) error {
		if !e.Time.Equal(want[i]) {
			t.Errorf("record %d: got %v, want %v", i, e.Time, want[i])
		}
		i++
		return nil
	})
	ledgertest.Check(t, log)
}

// TestTenantsAreApart: same names in two tenants are two things.
func TestTenantsAreApart(t *testing.T) { both(t, tenantsAreApart) }

func tenantsAreApart(t *testing.T, l *ledger.Ledger, a *ledger.Log) {
	b, err := l.Create(t.Context(), "b", "b.example/log")
	if err != nil {
		t.Fatal(err)
	}
	e, err := a.Append(t.Context(), record.Draft{Type: "x", Task: "t", Change: bump("n"), Blobs: []record.Blob{{Name: "s", Data: []byte("a's")}}})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := b.Payload(t.Context(), e.Evidence[0]); err == nil {
		t.Errorf("payload of another tenant: got %q", data)
	}
	if err := b.View(t.Context(), func(tx record.Tx) error { return tx.Get("counter", "n", new(counter)) }); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("state of another tenant: got %v", err)
	}
	if e, err := b.Append(t.Context(), record.Draft{Type: "x"}); err != nil || e.Seq != 0 {
		t.Errorf("got seq %d, %v; want 0", e.Seq, err)
	}
	if _, err := l.Tenant(t.Context(), "c"); !errors.Is(err, record.ErrNotFound) {
		t.Errorf("unknown tenant: got %v", err)
	}
	names, err := l.Tenants(t.Context())
	if err != nil || strings.Join(names, " ") != "acme b" {
		t.Errorf("got %v, %v", names, err)
	}
	ledgertest.Check(t, b)
}
