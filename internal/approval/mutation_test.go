package approval_test

import (
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/receipt"
)

// Ten thousand approvals of which one byte or one field is not what was signed:
// of the statement, of an SSH key's signature, of a passkey's assertion. None is
// worth anything, to the engine or to who verifies offline, since both read them
// by the same function.
//
// Threats: T50, I1, I2 (approval)
func TestTenThousandMutationsReleaseNothing(t *testing.T) {
	f := newFixture(t)
	ssh, edwards, curve := newKey(t), newPasskey(t, "EdDSA"), newPasskey(t, "ES256")
	f.holder("jo", line(ssh), edwards.line(), curve.line())
	keys := []string{line(ssh), edwards.line(), curve.line()}
	type signed struct {
		statement []byte
		signature string
	}
	var good []signed
	for i, sign := range []func(approval.Statement) []byte{func(s approval.Statement) []byte { return f.sign(s, ssh) }, edwards.approve, curve.approve} {
		d := draft()
		d.Statement.Details = map[string]string{"request": "POST https://iam.example/reset"}
		d.Statement.Subject = fmt.Sprint("attempt ", i)
		s := f.request(d)
		a, err := f.eng.Grant(t.Context(), s.Nonce, "jo", sign(s), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := s.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		good = append(good, signed{b, a.Signatures[0].Signature})
	}
	verify := func(x signed) error {
		_, err := receipt.VerifyApproval(x.statement, x.signature, keys, receipt.SSHPolicy{})
		return err
	}
	for i, g := range good {
		if err := verify(g); err != nil {
			t.Fatalf("approval %d as it is: %v", i, err)
		}
	}
	r := mrand.New(mrand.NewPCG(1, 2))
	flip := func(b []byte) []byte {
		out := append([]byte{}, b...)
		out[r.IntN(len(out))] ^= byte(1 << r.IntN(8))
		return out
	}
	tried := map[string]int{}
	for n := range 10000 {
		x := good[n%len(good)]
		var kind string
		switch n / len(good) % 4 {
		case 0:
			kind, x.statement = "statement byte", flip(x.statement)
		case 1:
			kind, x.signature = "signature byte", string(flip([]byte(x.signature)))
		case 2:
			kind, x.statement = "statement field", changeField(t, r, x.statement)
		case 3:
			kind, x.statement = "another statement", good[(n+1)%len(good)].statement
		}
		if tried[kind]++; verify(x) == nil {
			t.Fatalf("%d: a changed %s was accepted:\n%s\n%s", n, kind, x.statement, x.signature)
		}
	}
	t.Log(tried)
}

// changeField gives one member of a statement another value, or takes it away.
func changeField(t *testing.T, r *mrand.Rand, statement []byte) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(statement, &m); err != nil {
		t.Fatal(err)
	}
	names := sortedNames(m)
	name := names[r.IntN(len(names))]
	switch v := m[name].(type) {
	case string:
		m[name] = v + fmt.Sprint(r.IntN(10))
	case float64:
		m[name] = v + 1 + float64(r.IntN(5))
	default:
		delete(m, name)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sortedNames(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
