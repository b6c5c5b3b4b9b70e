package receipt_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/receipt"
)

// testLog is a small log made with nothing but x/mod.
type testLog struct {
	priv    ed25519.PrivateKey
	key     string
	records [][]byte
	hashes  []tlog.Hash
}

const origin = "acme.example/log"

func newLog(t *testing.T, n int) *testLog {
	t.Helper()
	l := &testLog{priv: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{3}, 32))}
	var err error
	if l.key, err = note.NewEd25519VerifierKey(origin, l.priv.Public().(ed25519.PublicKey)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		raw := fmt.Appendf(nil, `{"body":{"n":%d},"id":"%032d","seq":%d,"tenant":"acme","time":"2026-01-02T03:04:05.%09dZ","type":"t","v":1}`, i, i, i, i)
		l.add(t, raw)
	}
	return l
}

func (l *testLog) add(t *testing.T, raw []byte) {
	t.Helper()
	hs, err := tlog.StoredHashes(int64(len(l.records)), raw, l)
	if err != nil {
		t.Fatal(err)
	}
	l.records, l.hashes = append(l.records, raw), append(l.hashes, hs...)
}

func (l *testLog) ReadHashes(idx []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range idx {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *testLog) Name() string { return origin }
func (l *testLog) KeyHash() uint32 {
	v, _ := note.NewVerifier(l.key)
	return v.KeyHash()
}
func (l *testLog) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(l.priv, msg), nil }

func (l *testLog) checkpoint(t *testing.T, size int64) []byte {
	t.Helper()
	root, err := tlog.TreeHash(size, l)
	if err != nil {
		t.Fatal(err)
	}
	b, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, size, root)}, l)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (l *testLog) writer(t *testing.T, out *bytes.Buffer, complete bool) *receipt.Writer {
	t.Helper()
	w, err := receipt.NewWriter(out, receipt.Header{Tenant: "acme", Origin: origin, Key: l.key, Complete: complete,
		Checkpoint: string(l.checkpoint(t, int64(len(l.records)))), Made: "2026-01-02T03:04:06Z"}, l.Sign)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// full is a complete bundle with one line of each kind.
func full(t *testing.T) (*testLog, []byte) {
	t.Helper()
	l := newLog(t, 3)
	var out bytes.Buffer
	w := l.writer(t, &out, true)
	for _, r := range l.records {
		must(t, w.Record(r, nil))
	}
	_, jo, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	stmt := []byte("release it")
	sshKey, sig := skSign(t, jo, stmt, 5)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	must(t, err)
	must(t, w.Person(receipt.Person{Name: "jo", Keys: []string{strings.TrimSpace(sshKey)}}),
		w.Key(receipt.Key{Name: "certify", Public: der}),
		w.Approval(receipt.Approval{Name: "a1", Person: "jo", Statement: stmt, Signature: string(sig)}),
		w.Statement(receipt.Envelope{Name: "s1", Envelope: dsse(t, ec, "application/vnd.in-toto+json", []byte(`{}`))}),
		w.Document("readiness.json", "application/json", []byte(`{"ready":false}`)),
		w.Close())
	return l, out.Bytes()
}

func dsse(t *testing.T, key *ecdsa.PrivateKey, typ string, payload []byte) []byte {
	t.Helper()
	h := sha256.Sum256(receipt.PAE(typ, payload))
	sig, err := ecdsa.SignASN1(rand.Reader, key, h[:])
	must(t, err)
	b, err := json.Marshal(map[string]any{"payload": base64.StdEncoding.EncodeToString(payload), "payloadType": typ,
		"signatures": []any{map[string]string{"keyid": "k", "sig": base64.StdEncoding.EncodeToString(sig)}}})
	must(t, err)
	return b
}

func TestBundle(t *testing.T) {
	l, b := full(t)
	seen := 0
	rep, err := receipt.Verify(bytes.NewReader(b), receipt.Options{Key: l.key, Kept: [][]byte{l.checkpoint(t, 0), l.checkpoint(t, 2)},
		Approvals: receipt.SSHPolicy{RequireVerification: true}, Each: func(receipt.Record) error { seen++; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Records != 3 || seen != 3 || !rep.Pinned || len(rep.Approvals) != 1 || !rep.Approvals[0].Signer.Verified ||
		len(rep.Statements) != 1 || rep.Statements[0].Keys[0] != "certify" || len(rep.Documents) != 1 {
		t.Errorf("got %+v", rep)
	}
	if rep, err := receipt.Verify(bytes.NewReader(b), receipt.Options{}); err != nil || rep.Pinned {
		t.Errorf("without a key: got pinned %v, %v", rep.Pinned, err)
	}
}

// TestEveryByteCounts changes each byte of a bundle in several ways, drops it,
// doubles it, and cuts the file there: none may verify.
//
// Threats: T53 (ledger)
func TestEveryByteCounts(t *testing.T) {
	l, b := full(t)
	o := receipt.Options{Key: l.key}
	refuse := func(b []byte, what string, i int) {
		t.Helper()
		if _, err := receipt.Verify(bytes.NewReader(b), o); !errors.Is(err, receipt.ErrBundle) {
			t.Fatalf("byte %d %s: got %v, want a refusal", i, what, err)
		}
	}
	for i := range b {
		for _, x := range []byte{1, ' ', 1 << (i % 8), 255} {
			c := bytes.Clone(b)
			c[i] ^= x
			refuse(c, fmt.Sprintf("xor %#x", x), i)
		}
		refuse(b[:i], "and all after it cut off", i)
		refuse(append(bytes.Clone(b[:i]), b[i+1:]...), "dropped", i)
		refuse(append(bytes.Clone(b[:i+1]), b[i:]...), "doubled", i)
	}
	refuse(append(bytes.Clone(b), '\n'), "after the end", len(b))
	// All other values of the end of the seal, whose base64 has slack bits.
	for i := len(b) - 8; i < len(b); i++ {
		for v := range 256 {
			if byte(v) != b[i] {
				c := bytes.Clone(b)
				c[i] = byte(v)
				refuse(c, fmt.Sprintf("set to %#x", v), i)
			}
		}
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	for i := range lines[:len(lines)-1] {
		refuse(bytes.Join(append(append([][]byte{}, lines[:i]...), lines[i+1:]...), nil), "line dropped", i)
		for j := range i {
			swapped := append([][]byte{}, lines...)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			refuse(bytes.Join(swapped, nil), "lines swapped", i)
		}
	}
}

// TestSealedLies are bundles that the holder of the log's key sealed, and which
// say something that is not so.
//
// Threats: T53 (ledger)
func TestSealedLies(t *testing.T) {
	l := newLog(t, 5)
	other := newLog(t, 4)
	for _, c := range []struct {
		name string
		make func(out *bytes.Buffer) error
		o    receipt.Options
	}{
		{"record_left_out", func(out *bytes.Buffer) error {
			w := l.writer(t, out, true)
			for _, r := range l.records[:4] {
				must(t, w.Record(r, nil))
			}
			return w.Close()
		}, receipt.Options{}},
		{"record_changed", func(out *bytes.Buffer) error {
			w := l.writer(t, out, true)
			for _, r := range l.records {
				must(t, w.Record(bytes.Replace(r, []byte(`"n":3`), []byte(`"n":4`), 1), nil))
			}
			return w.Close()
		}, receipt.Options{}},
		{"record_out_of_order", func(out *bytes.Buffer) error {
			w := l.writer(t, out, true)
			for _, i := range []int{0, 2, 1, 3, 4} {
				must(t, w.Record(l.records[i], nil))
			}
			return w.Close()
		}, receipt.Options{}},
		{"selected_with_proof_of_another", func(out *bytes.Buffer) error {
			w := l.writer(t, out, false)
			p, err := tlog.ProveRecord(5, 2, l)
			must(t, err, w.Record(l.records[3], p))
			return w.Close()
		}, receipt.Options{}},
		{"selected_twice", func(out *bytes.Buffer) error {
			w := l.writer(t, out, false)
			p, err := tlog.ProveRecord(5, 2, l)
			must(t, err, w.Record(l.records[2], p), w.Record(l.records[2], p))
			return w.Close()
		}, receipt.Options{}},
		{"rewritten_since_the_kept_checkpoint", func(out *bytes.Buffer) error {
			w := l.writer(t, out, true)
			for _, r := range l.records {
				must(t, w.Record(r, nil))
			}
			return w.Close()
		}, receipt.Options{Kept: [][]byte{forked(t, other)}}},
		{"older_than_the_kept_checkpoint", func(out *bytes.Buffer) error {
			w := other.writer(t, out, true)
			for _, r := range other.records {
				must(t, w.Record(r, nil))
			}
			return w.Close()
		}, receipt.Options{Kept: [][]byte{l.checkpoint(t, 5)}}},
		{"approval_by_nobody_listed", func(out *bytes.Buffer) error {
			l := newLog(t, 0)
			w := l.writer(t, out, true)
			_, jo, err := ed25519.GenerateKey(rand.Reader)
			key, sig := skSign(t, jo, []byte("x"), 1)
			must(t, err, w.Person(receipt.Person{Name: "jo", Keys: []string{key}}),
				w.Approval(receipt.Approval{Name: "a", Person: "al", Statement: []byte("x"), Signature: string(sig)}))
			return w.Close()
		}, receipt.Options{}},
		{"approval_without_user_verification", func(out *bytes.Buffer) error {
			l := newLog(t, 0)
			w := l.writer(t, out, true)
			_, jo, err := ed25519.GenerateKey(rand.Reader)
			key, sig := skSign(t, jo, []byte("x"), 1)
			must(t, err, w.Person(receipt.Person{Name: "jo", Keys: []string{key}}),
				w.Approval(receipt.Approval{Name: "a", Person: "jo", Statement: []byte("x"), Signature: string(sig)}))
			return w.Close()
		}, receipt.Options{Approvals: receipt.SSHPolicy{RequireVerification: true}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			must(t, c.make(&out))
			if rep, err := receipt.Verify(&out, c.o); !errors.Is(err, receipt.ErrBundle) {
				t.Errorf("got %+v, %v; want a refusal", rep, err)
			}
		})
	}
}

// forked is a checkpoint by the same key over other records.
func forked(t *testing.T, l *testLog) []byte {
	t.Helper()
	f := newLog(t, 0)
	for i, r := range l.records {
		f.add(t, bytes.Replace(r, fmt.Appendf(nil, `"n":%d`, i), []byte(`"n":9`), 1))
	}
	return f.checkpoint(t, 4)
}

func TestWriterKeepsOrder(t *testing.T) {
	l := newLog(t, 1)
	var out bytes.Buffer
	w := l.writer(t, &out, true)
	must(t, w.Document("b", "text/plain", nil))
	if err := w.Document("a", "text/plain", nil); err == nil {
		t.Error("names out of order: got no error")
	}
	if err := w.Close(); err == nil {
		t.Error("close after an error: got no error")
	}
}

func TestProofFile(t *testing.T) {
	l := newLog(t, 7)
	for seq := range int64(7) {
		p, err := tlog.ProveRecord(7, seq, l)
		must(t, err)
		b := receipt.FormatProof(seq, p, l.checkpoint(t, 7))
		got, c, err := receipt.VerifyProof(b, l.records[seq], l.key)
		if err != nil || got != seq || c.Size != 7 {
			t.Fatalf("got %d, %+v, %v", got, c, err)
		}
		if _, _, err := receipt.VerifyProof(b, l.records[(seq+1)%7], l.key); !errors.Is(err, receipt.ErrProof) {
			t.Errorf("another record: got %v", err)
		}
		// Everything before the checkpoint's signature counts. (A signed note
		// may carry signatures of others, which are not looked at.)
		end := bytes.Index(b, []byte("\n— "))
		for i := range b[:end] {
			c := bytes.Clone(b)
			c[i] ^= 1
			if _, _, err := receipt.VerifyProof(c, l.records[seq], l.key); err == nil {
				t.Fatalf("byte %d changed: got no error", i)
			}
		}
	}
	old, err := receipt.ParseCheckpoint(l.checkpoint(t, 3), l.key)
	must(t, err)
	now, err := receipt.ParseCheckpoint(l.checkpoint(t, 7), l.key)
	must(t, err)
	p, err := tlog.ProveTree(7, 3, l)
	must(t, err, receipt.VerifyConsistency(old, now, p))
	if err := receipt.VerifyConsistency(now, old, p); !errors.Is(err, receipt.ErrProof) {
		t.Errorf("backwards: got %v", err)
	}
}

// TestDSSEVector is the worked example of the DSSE specification (protocol.md,
// "Test Vectors"), as far as the encoding goes.
func TestDSSEVector(t *testing.T) {
	got := receipt.PAE("http://example.com/HelloWorld", []byte("hello world"))
	if want := "DSSEv1 29 http://example.com/HelloWorld 11 hello world"; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDSSE(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	keys := []crypto.PublicKey{pub, &key.PublicKey}
	env := dsse(t, key, "text/plain", []byte("hi"))
	s, err := receipt.VerifyDSSE(env, keys)
	if err != nil || string(s.Payload) != "hi" || len(s.Signers) != 1 || s.Signers[0] != 1 {
		t.Fatalf("got %+v, %v", s, err)
	}
	ed := fmt.Appendf(nil, `{"payloadType":"a","payload":"aGk=","signatures":[{"sig":"%s"}]}`,
		base64.URLEncoding.EncodeToString(ed25519.Sign(priv, receipt.PAE("a", []byte("hi")))))
	if s, err := receipt.VerifyDSSE(ed, keys); err != nil || s.Signers[0] != 0 {
		t.Errorf("Ed25519, URL-safe: got %+v, %v", s, err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	for name, b := range map[string]string{
		"type":      strings.Replace(string(env), "text/plain", "text/html", 1),
		"payload":   strings.Replace(string(env), "aGk=", "aGg=", 1),
		"slack":     strings.Replace(string(env), "aGk=", "aGl=", 1),
		"duplicate": strings.Replace(string(env), `"payload":`, `"payload":"aGk=","payload":`, 1),
		"case":      strings.Replace(string(env), `"payload":`, `"Payload":"aGg=","payload":`, 1),
		"unknown":   strings.Replace(string(env), `"payload":`, `"x":1,"payload":`, 1),
		"none":      `{"payload":"aGk=","payloadType":"text/plain","signatures":[]}`,
		"trailing":  string(env) + "{}",
	} {
		if s, err := receipt.VerifyDSSE([]byte(b), keys); err == nil {
			t.Errorf("%s: got %+v, want a refusal", name, s)
		}
	}
	if _, err := receipt.VerifyDSSE(env, []crypto.PublicKey{pub}); !errors.Is(err, receipt.ErrSignature) {
		t.Errorf("another key: got %v", err)
	}
	if _, err := receipt.VerifyDSSE(env, []crypto.PublicKey{&p384.PublicKey}); err == nil {
		t.Error("P-384: got no error")
	}
}

func FuzzVerify(f *testing.F) {
	// Without random parts: each fuzzing process makes the same one.
	t := &testing.T{}
	l := newLog(t, 2)
	var out bytes.Buffer
	w := l.writer(t, &out, true)
	must(t, w.Record(l.records[0], nil), w.Record(l.records[1], nil), w.Document("d", "text/plain", []byte("x")), w.Close())
	b := out.Bytes()
	f.Add(b)
	f.Add([]byte("{\"header\":{}}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, err := receipt.Verify(bytes.NewReader(in), receipt.Options{Key: l.key}); err == nil && !bytes.Equal(in, b) {
			t.Errorf("accepted %q", in)
		}
	})
}

// An approval names the picture that the agent saw last. It must be among the
// records of that task, as given to the agent, wherever all records are there.
func TestPictureOfAnApproval(t *testing.T) {
	_, jo, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	d := func(s string) string { sum := sha256.Sum256([]byte(s)); return fmt.Sprintf("sha256:%x", sum) }
	statement := func(task, picture string) []byte {
		return fmt.Appendf(nil, `{"kind":"action","screenshot":%q,"task":%q}`, picture, task)
	}
	decided := func(l *testLog, actor, verdict, name, picture string) {
		n := len(l.records)
		l.add(t, fmt.Appendf(nil, `{"actor":%q,"body":{"decision":{"verdict":%q}},"evidence":[{"commitment":%q,"name":%q}],"id":"%032d","seq":%d,"task":"t-1","tenant":"acme","time":"2026-01-02T03:04:05.%09dZ","type":"action.decided","v":1}`,
			actor, verdict, picture, name, n, n, n))
	}
	for name, tc := range map[string]struct {
		statement []byte
		found, ok bool
	}{
		"given":         {statement("t-1", d("given")), true, true},
		"none":          {[]byte(`{"kind":"action","task":"t-1"}`), false, true},
		"never":         {statement("t-1", d("never")), false, false},
		"refused":       {statement("t-1", d("refused")), false, false},
		"a_persons":     {statement("t-1", d("a person's")), false, false},
		"other_content": {statement("t-1", d("typed")), false, false},
		"other_task":    {statement("t-2", d("given")), false, false},
	} {
		for _, complete := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s_complete_%v", name, complete), func(t *testing.T) {
				l := newLog(t, 0)
				decided(l, "agent:helpdesk", "allow", "screenshot", d("given"))
				decided(l, "agent:helpdesk", "deny", "screenshot", d("refused"))
				decided(l, "person:ines", "allow", "screenshot", d("a person's"))
				decided(l, "agent:helpdesk", "allow", "typed-text", d("typed"))
				var out bytes.Buffer
				w := l.writer(t, &out, complete)
				for i, r := range l.records {
					if complete {
						must(t, w.Record(r, nil))
						continue
					}
					proof, err := tlog.ProveRecord(int64(len(l.records)), int64(i), l)
					must(t, err, w.Record(r, []tlog.Hash(proof)))
				}
				key, sig := skSign(t, jo, tc.statement, 5)
				must(t, w.Person(receipt.Person{Name: "jo", Keys: []string{strings.TrimSpace(key)}}),
					w.Approval(receipt.Approval{Name: "q/jo", Person: "jo", Statement: tc.statement, Signature: string(sig)}), w.Close())
				rep, err := receipt.Verify(&out, receipt.Options{})
				if want := tc.ok || !complete; (err == nil) != want {
					t.Fatalf("got %v", err)
				}
				if err == nil && (rep.Seen == 1) != tc.found {
					t.Errorf("got %d of %d", rep.Seen, rep.Pictures)
				}
			})
		}
	}
}
