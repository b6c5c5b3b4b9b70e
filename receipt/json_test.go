package receipt

import (
	"bytes"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// FuzzCanonical compares our canonical form with the server's, which is made
// by another library: what one side writes the other must read as the same.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{}`, `{"b":[1,-0.0,1.5e300,"\u0000\u2028\u007f</>&"],"a":{"é":"😀","\ufb33":1}}`, `1e-7`, `9007199254740993`,
		`{"a":1,"a":2}`, `"\ud800"`, `"\udc00\ud800"`, `"\\ud800\ud83d\ude00"`, `[[[[]]]]`, "\"\xff\"", `1e21`, `0.000001`, `{} `, `{}{}`, `-0`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, err := canonical(in)
		theirs, terr := canon.Marshal(canon.Value(in))
		if terr == nil && canon.Check(in, 1<<20) == nil && (err != nil || string(ours) != string(theirs)) {
			t.Fatalf("%q: got %s, %v; the server makes %s", in, ours, err, theirs)
		}
		if err == nil && terr != nil && bytes.Contains(bytes.ToLower(in), []byte(`\ud`)) {
			t.Fatalf("%q: got %s; the server refuses it: %v", in, ours, terr)
		}
		if err != nil {
			return
		}
		again, err := canonical(ours)
		if err != nil && terr == nil || err == nil && string(again) != string(ours) {
			t.Fatalf("%q: %s becomes %s, %v", in, ours, again, err)
		}
	})
}
