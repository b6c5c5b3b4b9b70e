// Package gatetest gives tests a real gate with one admitted task over a ledger
// in memory. The gate and its permits are the real ones; policy is the test's own.
package gatetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Names of the one admitted task.
const (
	Tenant = "acme"
	Task   = "t-1"
	Agent  = "helper"
)

// Policy is a function as a gate.Policy.
type Policy func(gate.Facts) action.Decision

// Decide calls p.
func (p Policy) Decide(f gate.Facts) action.Decision { return p(f) }

// AllowAll lets everything through.
func AllowAll(gate.Facts) action.Decision {
	return action.Decision{Verdict: action.Allow, Layer: action.LayerGrant, Code: "test_allow", Policies: []string{"test"}}
}

// Kit is a gate with one admitted task.
type Kit struct {
	*gate.Gate
	Log *Log
}

// New admits a task under p (nil: AllowAll). edit may change the admission.
func New(t testing.TB, p Policy, edit ...func(*gate.Admission)) *Kit {
	t.Helper()
	if p == nil {
		p = AllowAll
	}
	var mu sync.Mutex
	n := 0
	g := gate.New(func() string { mu.Lock(); defer mu.Unlock(); n++; return fmt.Sprintf("a-%d", n) })
	k := &Kit{Gate: g, Log: NewLog(Tenant)}
	a := gate.Admission{Tenant: Tenant, Task: Task, Agent: Agent, Stage: action.Sandbox, Tier: "standard",
		Policy: p, Holds: NoHolds{}, Log: k.Log, Deadline: time.Now().Add(time.Hour), MaxActions: 1 << 30,
		HoldLimit: time.Minute, Certified: func() error { return nil }}
	for _, e := range edit {
		e(&a)
	}
	if err := g.Admit(a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := g.End(ctx, func(gate.Admission) bool { return true }, "test_over", "the test is over"); err != nil {
			t.Error(err)
		}
	})
	return k
}

// NoHolds refuses to ask anybody.
type NoHolds struct{}

// Open fails.
func (NoHolds) Open(context.Context, action.Action, action.Decision) (gate.Hold, error) {
	return nil, errors.New("nobody can be asked")
}

// Log is a record.Log in memory. Fail, when set, is asked before each append.
type Log struct {
	mu      sync.Mutex
	tenant  string
	entries []record.Entry
	objects map[string][]byte
	blobs   map[string][]byte
	Fail    func(record.Draft) error
}

// NewLog makes an empty log.
func NewLog(tenant string) *Log {
	return &Log{tenant: tenant, objects: map[string][]byte{}, blobs: map[string][]byte{}}
}

// Tenant is the tenant's name.
func (l *Log) Tenant() string { return l.tenant }

// Append keeps the draft, or nothing of it.
func (l *Log) Append(ctx context.Context, d record.Draft) (record.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return record.Entry{}, err
	}
	if l.Fail != nil {
		if err := l.Fail(d); err != nil {
			return record.Entry{}, err
		}
	}
	body, err := canon.Marshal(d.Body)
	if err != nil {
		return record.Entry{}, err
	}
	if len(body) > 65_000 { // as a ledger with its 65,535 bytes of a record
		return record.Entry{}, record.ErrTooLarge
	}
	tx := &tx{objects: map[string][]byte{}}
	for k, v := range l.objects {
		tx.objects[k] = v
	}
	if d.Change != nil {
		if err := d.Change(tx); err != nil {
			return record.Entry{}, err
		}
	}
	e := record.Entry{Seq: int64(len(l.entries)), Time: time.Now(), Type: d.Type, Tenant: l.tenant, Task: d.Task, Agent: d.Agent, Actor: d.Actor, Body: body, Raw: body}
	for i, b := range d.Blobs {
		id := fmt.Sprintf("b-%d-%d", e.Seq, i)
		l.blobs[id] = slices.Clone(b.Data)
		e.Evidence = append(e.Evidence, action.Evidence{Name: b.Name, Blob: id, Type: b.Type, Size: int64(len(b.Data)), Commitment: canon.Digest(b.Data)})
	}
	l.objects = tx.objects
	l.entries = append(l.entries, e)
	return e, nil
}

// View reads the state.
func (l *Log) View(_ context.Context, f func(record.Tx) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f(&tx{objects: l.objects})
}

// Entries reads the records from seq on.
func (l *Log) Entries(_ context.Context, from int64, f func(record.Entry) error) error {
	for _, e := range l.All() {
		if e.Seq >= from {
			if err := f(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// Payload returns the bytes of a blob.
func (l *Log) Payload(_ context.Context, e action.Evidence) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.blobs[e.Blob]
	if !ok {
		return nil, record.ErrNotFound
	}
	return b, nil
}

// All returns the records so far.
func (l *Log) All() []record.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

// Decisions returns the action.decided records so far.
func (l *Log) Decisions(t testing.TB) []gate.Decided {
	t.Helper()
	var out []gate.Decided
	for _, e := range l.All() {
		if e.Type == "action.decided" {
			var d gate.Decided
			if err := json.Unmarshal(e.Body, &d); err != nil {
				t.Fatal(err)
			}
			out = append(out, d)
		}
	}
	return out
}

type tx struct{ objects map[string][]byte }

func (t *tx) Get(kind, id string, v any) error {
	b, ok := t.objects[kind+"\x00"+id]
	if !ok {
		return record.ErrNotFound
	}
	return json.Unmarshal(b, v)
}

func (t *tx) Put(kind, id string, v any) error {
	b, err := canon.Marshal(v)
	if err == nil {
		t.objects[kind+"\x00"+id] = b
	}
	return err
}

func (t *tx) Delete(kind, id string) error {
	delete(t.objects, kind+"\x00"+id)
	return nil
}

func (t *tx) List(kind string, f func(string, []byte) error) error {
	var ids []string
	for k := range t.objects {
		if len(k) > len(kind) && k[:len(kind)+1] == kind+"\x00" {
			ids = append(ids, k[len(kind)+1:])
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		if err := f(id, t.objects[kind+"\x00"+id]); err != nil {
			return err
		}
	}
	return nil
}
