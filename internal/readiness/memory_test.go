package readiness_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// rec is one record of the passing story, open to be broken.
type rec struct {
	record.Entry
	body map[string]any
	// as keeps the position that an outcome names; otherwise it follows its
	// decision when records are taken out or put in.
	as bool
}

// broken is the passing story in memory: everything in it may be changed before
// it is hashed and signed, so that what is signed is a consistent lie; the fields
// below spoil it after that.
type broken struct {
	testing.TB
	s    *story
	w    readiness.World
	recs []rec
	now  time.Time

	entries    []record.Entry
	checkpoint func(signed []byte) ([]byte, error)
	signed     int // records under the checkpoint; -1: all
	key        string
	problems   []string
	verifyErr  error
	entriesErr error
}

// breakable copies the story into memory.
func breakable(t testing.TB, s *story) *broken {
	t.Helper()
	b := &broken{TB: t, s: s, w: s.world(), signed: -1}
	// Deep, so that one variant does not reach into another.
	raw := must(json.Marshal(b.w))(t)
	b.w = readiness.World{}
	if err := json.Unmarshal(raw, &b.w); err != nil {
		t.Fatal(err)
	}
	if err := s.log.Entries(t.Context(), 0, func(e record.Entry) error {
		r := rec{Entry: e}
		b.recs = append(b.recs, r)
		return json.Unmarshal(e.Body, &b.recs[len(b.recs)-1].body)
	}); err != nil {
		t.Fatal(err)
	}
	return b
}

// all returns the records of a type; of a task, if one is given.
func (b *broken) all(typ string, match ...func(*rec) bool) (out []*rec) {
	b.Helper()
	for i := range b.recs {
		r := &b.recs[i]
		if r.Type == typ && !slices.ContainsFunc(match, func(m func(*rec) bool) bool { return !m(r) }) {
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		b.Fatalf("there is no %s in the story", typ)
	}
	return out
}

// last is the last record of a type: that of the task in production.
func (b *broken) last(typ string, match ...func(*rec) bool) *rec {
	b.Helper()
	all := b.all(typ, match...)
	return all[len(all)-1]
}

func op(name string) func(*rec) bool {
	return func(r *rec) bool { return r.body["action"].(map[string]any)["operation"] == name }
}

func about(kind string) func(*rec) bool {
	return func(r *rec) bool { return r.body["statement"].(map[string]any)["kind"] == kind }
}

func (b *broken) drop(match func(*rec) bool) {
	n := len(b.recs)
	b.recs = slices.DeleteFunc(b.recs, func(r rec) bool { return match(&r) })
	if len(b.recs) == n {
		b.Fatal("nothing was dropped")
	}
}

func (b *broken) dropType(types ...string) {
	b.drop(func(r *rec) bool { return slices.Contains(types, r.Type) })
}

// dropAt takes out one record.
func (b *broken) dropAt(x *rec) {
	at := b.at(x)
	b.recs = slices.Delete(b.recs, at, at+1)
}

func (b *broken) at(x *rec) int {
	for i := range b.recs {
		if &b.recs[i] == x {
			return i
		}
	}
	b.Fatal("no such record")
	return -1
}

// add appends a record as it happens after everything.
func (b *broken) add(typ, task, who, actor string, body any) {
	var m map[string]any
	if err := json.Unmarshal(must(json.Marshal(body))(b), &m); err != nil {
		b.Fatal(err)
	}
	last := b.recs[len(b.recs)-1].Time
	b.recs = append(b.recs, rec{Entry: record.Entry{Time: last.Add(time.Millisecond), Type: typ, Tenant: tenant, Task: task, Agent: who, Actor: actor}, body: m, as: true})
}

// again appends a copy of a record, changed.
func (b *broken) again(x *rec, change func(map[string]any)) {
	c := *x
	raw := must(json.Marshal(c.body))(b)
	c.body = nil
	if err := json.Unmarshal(raw, &c.body); err != nil {
		b.Fatal(err)
	}
	c.Time = b.recs[len(b.recs)-1].Time.Add(time.Millisecond)
	change(c.body)
	b.recs = append(b.recs, c)
}

// token puts in a token that was exchanged for the last identity, as change
// leaves it.
func (b *broken) token(change func(map[string]any)) {
	x := b.last("identity.issued")
	b.again(x, func(m map[string]any) {
		m["kind"], m["attestedBy"], m["selectors"] = "access", "exchange", []string{"exchange:jwt-svid", "launch:task:" + x.Task}
		change(m)
	})
	c := b.recs[len(b.recs)-1]
	b.recs = b.recs[:len(b.recs)-1]
	at := b.at(b.last("identity.issued"))
	c.Time = b.recs[at].Time
	b.recs = slices.Insert(b.recs, at+1, c)
}

// sign makes the record one that a person signed, over the statement as change
// leaves it.
func (b *broken) sign(x *rec, person string, change func(*approval.Statement)) {
	b.Helper()
	var st approval.Statement
	if err := json.Unmarshal(must(json.Marshal(x.body["statement"]))(b), &st); err != nil {
		b.Fatal(err)
	}
	change(&st)
	sig := must(approval.Sign(st, b.s.keys[person]))(b)
	var m map[string]any
	if err := json.Unmarshal(must(json.Marshal(st))(b), &m); err != nil {
		b.Fatal(err)
	}
	i := slices.IndexFunc(b.s.people, func(p approval.Person) bool { return p.Name == person })
	x.body["statement"], x.body["signature"], x.body["person"], x.body["key"] = m, string(sig), person, b.s.people[i].Keys[0]
	x.Actor = "person:" + person
}

// close hashes the records in the form of package ledger.
func (b *broken) close() {
	b.Helper()
	seqs := map[string]int64{}
	b.entries = nil
	for i, r := range b.recs {
		if a, ok := r.body["action"].(map[string]any); ok && r.Type == "action.decided" {
			id, _ := a["id"].(string)
			seqs[id] = int64(i)
		}
		if r.Type == "action.outcome" && !r.as {
			id, _ := r.body["action"].(string)
			if s, ok := seqs[id]; ok {
				r.body["decided"] = s
			}
		}
		e := r.Entry
		e.Seq = int64(i)
		e.Body = must(canon.Marshal(r.body))(b)
		e.Raw = must(canon.Marshal(map[string]any{"v": 1, "tenant": e.Tenant, "seq": e.Seq, "time": e.Time.UTC().Format("2006-01-02T15:04:05.000000000Z"), "type": e.Type,
			"task": e.Task, "agent": e.Agent, "actor": e.Actor, "id": fmt.Sprint(i), "body": r.body}))(b)
		b.entries = append(b.entries, e)
	}
}

func (b *broken) World(context.Context, string) (readiness.World, error) { return b.w, nil }

func (b *broken) Entries(_ context.Context, from int64, f func(record.Entry) error) error {
	for i, e := range b.entries {
		if b.entriesErr != nil && i == len(b.entries)/2 {
			return b.entriesErr
		}
		if int64(i) >= from {
			if err := f(e); err != nil {
				return err
			}
		}
	}
	return nil
}

const origin = "acme.example/log"

// Checkpoint signs the root as golang.org/x/mod/sumdb/tlog makes it from all
// stored hashes: another way than the one under test.
func (b *broken) Checkpoint(context.Context) (readiness.Checkpoint, error) {
	priv := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
	vkey := must(note.NewEd25519VerifierKey(origin, priv.Public().(ed25519.PublicKey)))(b)
	var stored hashes
	size := b.signed
	if size < 0 {
		size = len(b.entries)
	}
	for i, e := range b.entries[:size] {
		stored = append(stored, must(tlog.StoredHashes(int64(i), e.Raw, stored))(b)...)
	}
	root := must(tlog.TreeHash(int64(size), stored))(b)
	v := must(note.NewVerifier(vkey))(b)
	skey := fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", origin, v.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{1}, priv.Seed()...)))
	s := must(note.NewSigner(skey))(b)
	signed := must(note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, size, root)}, s))(b)
	if b.key != "" {
		vkey = b.key
	}
	if b.checkpoint != nil {
		var err error
		if signed, err = b.checkpoint(signed); err != nil {
			return readiness.Checkpoint{}, err
		}
	}
	return readiness.Checkpoint{Signed: signed, Key: vkey}, nil
}

func (b *broken) Verify(context.Context) ([]string, error) { return b.problems, b.verifyErr }

type hashes []tlog.Hash

func (h hashes) ReadHashes(idx []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range idx {
		if i >= int64(len(h)) {
			return nil, errors.New("no such hash")
		}
		out = append(out, h[i])
	}
	return out, nil
}
