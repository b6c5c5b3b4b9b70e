package ledger_test

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/store"
	"github.com/sallyport-dev/sallyport/receipt"
)

const tampered = 300 // records: more than a page and than a tile

// stopped makes the folder of a stopped server, and returns two checkpoints
// that an auditor kept: one of the middle, one of the end.
func stopped(t *testing.T) (dir string, middle, last []byte) {
	t.Helper()
	dir = t.TempDir()
	s, err := store.OpenSQLite(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), s, ledgertest.Root(t))
	if err != nil {
		t.Fatal(err)
	}
	log, err := l.Create(t.Context(), tenant, "acme.example/log")
	if err != nil {
		t.Fatal(err)
	}
	for i := range tampered {
		d := record.Draft{Type: "test.made", Task: "t1", Actor: "person:jo", Body: map[string]int{"i": i}}
		if i == 5 {
			d.Blobs = []record.Blob{{Name: "screenshot", Type: "image/png", Data: []byte("pixels")}}
		}
		if _, err := log.Append(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if i == 199 {
			if middle, err = log.CheckpointNow(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if last, err = log.CheckpointNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	return dir, middle, last
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// verify opens the folder as the auditor's tool does.
func verify(t *testing.T, dir string, kept ...[]byte) (ledger.Report, error) {
	t.Helper()
	s, err := store.OpenSQLiteReadOnly(dir)
	if err != nil {
		return ledger.Report{}, err
	}
	defer s.Close()
	l, err := ledger.OpenReadOnly(t.Context(), s, ledgertest.Root(t))
	if err != nil {
		return ledger.Report{}, err
	}
	defer l.Close()
	log, err := l.Tenant(t.Context(), tenant)
	if err != nil {
		return ledger.Report{}, err
	}
	if _, err := log.Append(t.Context(), record.Draft{Type: "x"}); !errors.Is(err, ledger.ErrReadOnly) {
		t.Errorf("append to a read-only ledger: got %v", err)
	}
	return log.Verify(t.Context(), kept...)
}

// at is the place of record seq of the first tenant of a store.
func at(seq int64) int64 { return 1<<40 + seq }

const edit = `UPDATE records SET raw = CAST(replace(CAST(raw AS TEXT), '"person:jo"', '"person:al"') AS BLOB) WHERE place = ?`

// TestTamperingIsNamed changes the database file as somebody with write access
// to it could, and wants the record named.
//
// Threats: T53 (ledger)
func TestTamperingIsNamed(t *testing.T) {
	dir, middle, last := stopped(t)
	rep, err := verify(t, copyDir(t, dir), middle, last)
	if err != nil || !rep.OK() || rep.Size != tampered || rep.Signed != tampered || rep.Payloads != 1 {
		t.Fatalf("untouched: got %+v, %v", rep, err)
	}
	// rehash gives record n the leaf hash of its new bytes, as a more careful
	// attacker would.
	rehash := func(t *testing.T, db *sql.DB, n int64) {
		var raw []byte
		if err := db.QueryRow(`SELECT raw FROM records WHERE place = ?`, at(n)).Scan(&raw); err != nil {
			t.Fatal(err)
		}
		setHash(t, db, tlog.StoredHashIndex(0, n), tlog.RecordHash(raw))
	}
	for _, c := range []struct {
		name string
		seq  int64 // a problem must name it, alone or in a range
		what string
		do   func(t *testing.T, db *sql.DB)
	}{
		{"edit", 42, "changed", func(t *testing.T, db *sql.DB) { mustExec(t, db, edit, at(42)) }},
		{"edit_and_leaf_hash", 42, "changed", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, edit, at(42))
			rehash(t, db, 42)
		}},
		{"edit_and_all_hashes", 42, "changed", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, edit, at(42))
			rebuild(t, db)
		}},
		{"drop", 42, "missing", func(t *testing.T, db *sql.DB) { mustExec(t, db, `DELETE FROM records WHERE place = ?`, at(42)) }},
		{"drop_first", 0, "missing", func(t *testing.T, db *sql.DB) { mustExec(t, db, `DELETE FROM records WHERE place = ?`, at(0)) }},
		{"drop_what_completes_much", 255, "missing", func(t *testing.T, db *sql.DB) { mustExec(t, db, `DELETE FROM records WHERE place = ?`, at(255)) }},
		{"drop_and_edit_what_follows", 260, "hash", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `DELETE FROM records WHERE place = ?`, at(255))
			mustExec(t, db, edit, at(260))
			rehash(t, db, 260)
		}},
		{"drop_and_edit_its_neighbour", 43, "hash", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `DELETE FROM records WHERE place = ?`, at(42))
			mustExec(t, db, edit, at(43))
			rehash(t, db, 43)
		}},
		{"drop_and_renumber", 42, "reordered", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `DELETE FROM records WHERE place = ?`, at(42))
			for i := int64(43); i < tampered; i++ {
				mustExec(t, db, `UPDATE records SET place = ? WHERE place = ?`, at(i-1), at(i))
			}
			mustExec(t, db, `UPDATE tenants SET size = size - 1`)
		}},
		{"reorder", 42, "reordered", func(t *testing.T, db *sql.DB) { swap(t, db, 42, 43) }},
		{"reorder_with_as_many_hashes", 44, "reordered", func(t *testing.T, db *sql.DB) { swap(t, db, 44, 46) }},
		{"reorder_without_hashes", 42, "reordered", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `UPDATE records SET raw = o.raw FROM records AS o WHERE records.place IN (?, ?) AND o.place = ? - records.place`, at(42), at(43), at(42)+at(43))
		}},
		{"duplicate", 42, "duplicate", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `UPDATE records SET raw = (SELECT raw FROM records WHERE place = ?) WHERE place = ?`, at(41), at(42))
		}},
		{"duplicate_with_hashes", 44, "duplicate", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `UPDATE records SET (hashes, raw) = (SELECT hashes, raw FROM records WHERE place = ?) WHERE place = ?`, at(42), at(44))
		}},
		{"truncate", 299, "missing", func(t *testing.T, db *sql.DB) { mustExec(t, db, `DELETE FROM records WHERE place = ?`, at(299)) }},
		{"truncate_and_head", 299, "missing", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `DELETE FROM records WHERE place = ?`, at(299))
			mustExec(t, db, `UPDATE tenants SET size = 299, time = (SELECT json_extract(CAST(raw AS TEXT), '$.time') FROM records WHERE place = ?)`, at(298))
		}},
		{"truncate_and_head_and_checkpoint", 299, "missing", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `DELETE FROM records WHERE place = ?`, at(299))
			mustExec(t, db, `DELETE FROM checkpoints WHERE size = 300`)
			mustExec(t, db, `UPDATE tenants SET size = 299, time = (SELECT json_extract(CAST(raw AS TEXT), '$.time') FROM records WHERE place = ?)`, at(298))
		}},
		{"append_beyond_the_head", 300, "extra", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `INSERT INTO records SELECT ?, type, task, agent, first, hashes, raw FROM records WHERE place = ?`, at(300), at(299))
		}},
		{"index", 42, "index", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `UPDATE records SET task = 't2' WHERE place = ?`, at(42))
		}},
		{"out_of_the_index", 0, "index", func(t *testing.T, db *sql.DB) { mustExec(t, db, `UPDATE records SET first = 0`) }},
		{"leaf_hash", 42, "changed", func(t *testing.T, db *sql.DB) {
			setHash(t, db, tlog.StoredHashIndex(0, 42), tlog.Hash{})
		}},
		{"no_leaf_hash", 42, "hash", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `UPDATE records SET hashes = x'' WHERE place = ?`, at(42))
		}},
		{"torn_hashes", 43, "hash", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `UPDATE records SET hashes = substr(hashes, 1, 64) WHERE place = ?`, at(43))
		}},
		{"inner_hash", 42, "changed", func(t *testing.T, db *sql.DB) {
			setHash(t, db, tlog.StoredHashIndex(2, 10), tlog.Hash{})
		}},
		{"blob", 5, "payload", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `UPDATE blobs SET sealed = CAST(sealed || x'00' AS BLOB)`)
		}},
		{"no_blob", 5, "payload", func(t *testing.T, db *sql.DB) { mustExec(t, db, `DELETE FROM blobs`) }},
		{"checkpoint", 199, "checkpoint", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `UPDATE checkpoints SET note = CAST(replace(CAST(note AS TEXT), char(10)||'200'||char(10), char(10)||'201'||char(10)) AS BLOB) WHERE size = 200`)
		}},
		{"checkpoint_of_another_size", 199, "checkpoint", func(t *testing.T, db *sql.DB) {
			mustExec(t, db, `UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 300) WHERE size = 200`)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDir(t, dir)
			db, err := sql.Open("sqlite", filepath.Join(dir, store.DatabaseName))
			if err != nil {
				t.Fatal(err)
			}
			c.do(t, db)
			db.Close()
			rep, err := verify(t, dir, middle, last)
			if err != nil || rep.OK() {
				t.Fatalf("got %+v, %v; want a problem", rep, err)
			}
			for _, p := range rep.Problems {
				if p.What == c.what && p.Seq <= c.seq && c.seq <= p.To {
					return
				}
			}
			t.Errorf("got %v, want record %d %s", rep.Problems, c.seq, c.what)
		})
	}
}

func mustExec(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	res, err := db.Exec(query, args...)
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := res.RowsAffected(); n == 0 {
		t.Fatalf("%s: no row was changed", query)
	}
}

// swap puts two rows in each other's place.
func swap(t *testing.T, db *sql.DB, a, b int64) {
	t.Helper()
	const move = `UPDATE records SET place = ? WHERE place = ?`
	mustExec(t, db, move, -1, at(a))
	mustExec(t, db, move, at(a), at(b))
	mustExec(t, db, move, at(b), -1)
}

// setHash changes one stored hash, which lies with the record that completes it.
func setHash(t *testing.T, db *sql.DB, index int64, h tlog.Hash) {
	t.Helper()
	level, n := tlog.SplitStoredHashIndex(index)
	seq := (n+1)<<level - 1
	var b []byte
	if err := db.QueryRow(`SELECT hashes FROM records WHERE place = ?`, at(seq)).Scan(&b); err != nil {
		t.Fatal(err)
	}
	copy(b[level*tlog.HashSize:], h[:])
	mustExec(t, db, `UPDATE records SET hashes = ? WHERE place = ?`, b, at(seq))
}

// rebuild makes all hashes anew from the records, as an attacker who knows the
// format would.
func rebuild(t *testing.T, db *sql.DB) {
	t.Helper()
	var hashes []tlog.Hash
	r := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, x := range idx {
			out[i] = hashes[x]
		}
		return out, nil
	})
	for seq := range int64(tampered) {
		var raw []byte
		if err := db.QueryRow(`SELECT raw FROM records WHERE place = ?`, at(seq)).Scan(&raw); err != nil {
			t.Fatal(err)
		}
		hs, err := tlog.StoredHashes(seq, raw, r)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, hs...)
	}
	for i, h := range hashes {
		setHash(t, db, int64(i), h)
	}
}

// TestRollbackIsNoticed puts the whole store back to an older state, which is
// whole in itself. Only a checkpoint kept elsewhere can show it.
//
// Threats: T53 (ledger)
func TestRollbackIsNoticed(t *testing.T) {
	dir, _, old := stopped(t)
	snapshot := copyDir(t, dir)
	s, err := store.OpenSQLite(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), s, ledgertest.Root(t))
	if err != nil {
		t.Fatal(err)
	}
	log, err := l.Tenant(t.Context(), tenant)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), record.Draft{Type: "task.revoked"}); err != nil {
		t.Fatal(err)
	}
	kept, err := log.CheckpointNow(t.Context())
	if err := errors.Join(err, l.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if rep, err := verify(t, snapshot, old); err != nil || !rep.OK() {
		t.Fatalf("snapshot with the old checkpoint: got %v, %v", rep.Problems, err)
	}
	rep, err := verify(t, snapshot, kept)
	if err != nil || rep.OK() || rep.Problems[0].Seq != tampered || rep.Problems[0].What != "missing" {
		t.Errorf("got %v, %v; want record %d missing", rep.Problems, err, tampered)
	}
}

// TestForkIsNoticed: whoever holds root key and machine goes back to an old copy
// of the whole store and lives on from there, longer than before and properly
// signed. Alone the second history is whole; to whoever kept a checkpoint of the
// first it is another log, in either direction.
//
// Threats: T53 (ledger)
func TestForkIsNoticed(t *testing.T) {
	dir, _, old := stopped(t)
	second := copyDir(t, dir)
	live := func(dir string, records ...string) []byte {
		t.Helper()
		s, err := store.OpenSQLite(dir)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.Open(t.Context(), s, ledgertest.Root(t))
		if err != nil {
			t.Fatal(err)
		}
		log, err := l.Tenant(t.Context(), tenant)
		if err != nil {
			t.Fatal(err)
		}
		for _, typ := range records {
			if _, err := log.Append(t.Context(), record.Draft{Type: typ}); err != nil {
				t.Fatal(err)
			}
		}
		cp, err := log.CheckpointNow(t.Context())
		if err := errors.Join(err, l.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		return cp
	}
	first, other := live(dir, "task.revoked", "task.closed"), live(second, "task.closed", "task.closed", "task.closed")
	for name, tt := range map[string]struct {
		dir  string
		kept []byte
		ok   bool
	}{
		"first_by_its_own": {dir, first, true}, "first_by_the_common_past": {dir, old, true}, "second_by_its_own": {second, other, true}, "second_by_the_common_past": {second, old, true},
		"second_by_the_first": {second, first, false}, "first_by_the_second": {dir, other, false},
	} {
		rep, err := verify(t, tt.dir, tt.kept)
		if err != nil || rep.OK() != tt.ok {
			t.Errorf("%s: got %v, %v; want ok %v", name, rep.Problems, err, tt.ok)
		}
	}
}

// TestForeignCheckpointIsRefused: another log's checkpoint proves nothing here.
//
// Threats: T53 (ledger)
func TestForeignCheckpointIsRefused(t *testing.T) {
	l, _ := ledgertest.NewLedger(t)
	a, err := l.Create(t.Context(), "a", "same.example/log")
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Create(t.Context(), "b", "same.example/log")
	if err != nil {
		t.Fatal(err)
	}
	cp, err := b.CheckpointNow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Verify(t.Context(), cp); err == nil {
		t.Error("got no error")
	}
}

// TestServerRefusesTamperedLog: a server does not sign on after a change, and
// does not start on one that its signed root shows.
//
// Threats: T53 (ledger)
func TestServerRefusesTamperedLog(t *testing.T) {
	dir, _, _ := stopped(t)
	db, err := sql.Open("sqlite", filepath.Join(dir, store.DatabaseName))
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, db, edit, at(42))
	rebuild(t, db)
	db.Close()
	s, err := store.OpenSQLite(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := ledger.Open(t.Context(), s, ledgertest.Root(t)); err == nil || !strings.Contains(err.Error(), "signed root") {
		t.Errorf("got %v", err)
	}
}

// TestLiveTamperingStopsTheSigner changes an unsigned record under a running
// server: it must not sign it.
//
// Threats: T53 (ledger)
func TestLiveTamperingStopsTheSigner(t *testing.T) {
	dir, _, last := stopped(t)
	s, err := store.OpenSQLite(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	root := ledgertest.Root(t)
	// In one step, so that the signer cannot come between.
	err = s.Update(t.Context(), func(tx ledger.WriteTx) error {
		h, err := tx.Lock(tenant)
		if err != nil {
			return err
		}
		return tx.Append(tenant, ledger.Head{Size: h.Size + 1, Time: h.Time},
			[]ledger.Row{{Seq: h.Size, Raw: []byte("{}")}}, tlog.StoredHashCount(h.Size), make([]tlog.Hash, 1))
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), s, root)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log, err := l.Tenant(t.Context(), tenant)
	if err != nil {
		t.Fatal(err)
	}
	if cp, err := log.CheckpointNow(t.Context()); err == nil {
		t.Errorf("signed %s", cp)
	}
	for end := time.Now().Add(30 * time.Second); l.Err() == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the signer did not stop the ledger")
		}
	}
	if _, err := log.Append(t.Context(), record.Draft{Type: "x"}); !errors.Is(err, ledger.ErrStopped) {
		t.Errorf("got %v, want %v", err, ledger.ErrStopped)
	}
	if cp, err := log.Checkpoint(t.Context()); err != nil || !bytes.Equal(cp, last) {
		t.Errorf("got %s, %v; want the last good checkpoint", cp, err)
	}
}

// TestDestroyedKeyIsGoneFromTheFiles looks for the sealed key of an erased task
// in every byte of the folder.
func TestDestroyedKeyIsGoneFromTheFiles(t *testing.T) {
	dir := t.TempDir()
	s, err := store.OpenSQLite(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := ledger.Open(t.Context(), s, ledgertest.Root(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log, err := l.Create(t.Context(), tenant, "acme.example/log")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), record.Draft{Type: "x", Task: "t1", Blobs: []record.Blob{{Name: "b", Data: []byte("y")}}}); err != nil {
		t.Fatal(err)
	}
	var key []byte
	if err := s.View(t.Context(), func(tx ledger.ReadTx) (err error) { key, err = tx.Object(tenant, "ledger.taskkey", "t1"); return err }); err != nil {
		t.Fatal(err)
	}
	holds := func() (names []string) {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if b, err := os.ReadFile(filepath.Join(dir, f.Name())); err == nil && bytes.Contains(b, key[20:60]) {
				names = append(names, f.Name())
			}
		}
		return names
	}
	if holds() == nil {
		t.Fatal("the key is nowhere to be found before it is destroyed: the test looks for the wrong thing")
	}
	if _, err := log.DestroyKey(t.Context(), "t1", "person:jo"); err != nil {
		t.Fatal(err)
	}
	if names := holds(); names != nil {
		t.Errorf("the key is still in %v", names)
	}
}

// TestCrashedFolderIsReadable verifies and exports, read-only, what a server
// that did not stop cleanly left: a log of writes, and records nobody signed.
func TestCrashedFolderIsReadable(t *testing.T) {
	dir := t.TempDir()
	s, err := store.OpenSQLite(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := ledger.Open(t.Context(), s, ledgertest.Root(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	log, err := l.Create(t.Context(), tenant, "acme.example/log")
	if err != nil {
		t.Fatal(err)
	}
	appendN(t, log, 40)
	left := copyDir(t, dir) // as a crash would leave it: nothing is written meanwhile but by the signer
	if rep, err := verify(t, left); err != nil || !rep.OK() || rep.Size != 40 {
		t.Fatalf("got %+v, %v", rep, err)
	}
	r, err := store.OpenSQLiteReadOnly(left)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ro, err := ledger.OpenReadOnly(t.Context(), r, ledgertest.Root(t))
	if err != nil {
		t.Fatal(err)
	}
	g, err := ro.Tenant(t.Context(), tenant)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := g.Export(t.Context(), &out, ledger.Filter{}, nil); err != nil {
		t.Fatal(err)
	}
	if rep, err := receipt.Verify(&out, receipt.Options{Key: log.VerifierKey()}); err != nil || rep.Records != 40 {
		t.Errorf("got %+v, %v", rep, err)
	}
}
