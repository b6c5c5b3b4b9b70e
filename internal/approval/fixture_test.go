package approval_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// directory keeps people as objects of the log, as the product does.
type directory struct{}

func (directory) People(tx record.Tx) (out []approval.Person, err error) {
	err = tx.List("person", func(_ string, raw []byte) error {
		var p approval.Person
		if err := json.Unmarshal(raw, &p); err != nil {
			return err
		}
		out = append(out, p)
		return nil
	})
	return out, err
}

// faultyLog fails Append while it is down.
type faultyLog struct {
	record.Log
	down atomic.Bool
}

func (l *faultyLog) Append(ctx context.Context, d record.Draft) (record.Entry, error) {
	if l.down.Load() {
		return record.Entry{}, errors.New("disk is full")
	}
	return l.Log.Append(ctx, d)
}

type fixture struct {
	*testing.T
	log *faultyLog
	eng *approval.Engine
	now atomic.Int64 // unix nanoseconds
}

func newFixture(t *testing.T) *fixture {
	return fixtureOn(t, ledgertest.New(t))
}

func fixtureOn(t *testing.T, log record.Log) *fixture {
	f := &fixture{T: t, log: &faultyLog{Log: log}}
	f.now.Store(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).UnixNano())
	f.eng = f.engine()
	return f
}

// engine is another engine on the same log: another node.
func (f *fixture) engine() *approval.Engine {
	return approval.New(f.log, directory{}, func() time.Time { return time.Unix(0, f.now.Load()) })
}

func (f *fixture) pass(d time.Duration) { f.now.Add(int64(d)) }

// person puts a person into the directory, with the role approver.
func (f *fixture) person(name string, keys ...ssh.Signer) {
	f.Helper()
	p := approval.Person{Name: name, Roles: []string{"approver"}}
	for _, k := range keys {
		p.Keys = append(p.Keys, line(k))
	}
	f.put(p)
}

func (f *fixture) put(p approval.Person) {
	f.Helper()
	if _, err := f.log.Append(f.Context(), record.Draft{Type: "resource.applied", Change: func(tx record.Tx) error {
		return tx.Put("person", p.Name, p)
	}}); err != nil {
		f.Fatal(err)
	}
}

func line(k ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.PublicKey())))
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// draft asks for the approval of resetting one user's second factor.
func draft() approval.Draft {
	return approval.Draft{
		Statement: approval.Statement{
			Kind: approval.Action, Subject: "reset second factor of mira", Digest: canon.Digest([]byte("request")),
			Task: "t-1", Agent: "helpdesk", Operation: "iam.user.mfa.reset", Params: map[string]string{"user": "mira"},
			Role: "approver",
		},
		Valid: time.Hour, Requester: "rob", Hold: true,
	}
}

func (f *fixture) request(d approval.Draft) approval.Statement {
	f.Helper()
	s, err := f.eng.Request(f.Context(), d)
	if err != nil {
		f.Fatal(err)
	}
	return s
}

func (f *fixture) sign(s approval.Statement, k ssh.Signer) []byte {
	f.Helper()
	sig, err := approval.Sign(s, k)
	if err != nil {
		f.Fatal(err)
	}
	return sig
}

func (f *fixture) grant(s approval.Statement, person string, k ssh.Signer) (approval.Approval, error) {
	f.Helper()
	return f.eng.Grant(f.Context(), s.Nonce, person, f.sign(s, k), nil)
}

func (f *fixture) want(err error, code string) {
	f.Helper()
	r, ok := errors.AsType[*approval.Refusal](err)
	if !ok || r.Code != code {
		f.Errorf("got %v, want refusal %s", err, code)
	}
}

func (f *fixture) wantState(id string, want approval.State) {
	f.Helper()
	a, err := f.eng.Get(f.Context(), id)
	if err != nil || a.State != want {
		f.Errorf("state: got %s, %v, want %s", a.State, err, want)
	}
}

// entries returns the bodies of the records of a type.
func (f *fixture) entries(typ string) (out []map[string]any) {
	f.Helper()
	err := f.log.Entries(f.Context(), 0, func(e record.Entry) error {
		if e.Type != typ {
			return nil
		}
		var m map[string]any
		if err := json.Unmarshal(e.Body, &m); err != nil {
			return err
		}
		out = append(out, m)
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	return out
}

// use consumes an approval as a door would.
func (f *fixture) use(id string, d action.Digest) error {
	_, err := f.eng.Use(f.Context(), id, d, record.Draft{Type: "action.decided", Body: map[string]string{"approval": id}})
	return err
}

// securityKey is a FIDO key in software (OpenSSH PROTOCOL.u2f): it signs over
// the application, its flags and its counter as well.
type securityKey struct {
	key     ed25519.PrivateKey
	flags   byte
	counter uint32
}

func newSecurityKey(t *testing.T, flags byte) *securityKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &securityKey{k, flags, 41}
}

func (k *securityKey) PublicKey() ssh.PublicKey {
	p, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Name, Key, App string
	}{ssh.KeyAlgoSKED25519, string(k.key.Public().(ed25519.PublicKey)), "ssh:"}))
	if err != nil {
		panic(err)
	}
	return p
}

func (k *securityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	k.counter++
	app, msg := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	rest := ssh.Marshal(struct {
		Flags   byte
		Counter uint32
	}{k.flags, k.counter})
	blob := append(append(app[:], rest...), msg[:]...)
	return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(k.key, blob), Rest: rest}, nil
}
