package ledger

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// TestRecordBytesAreCanonical holds the record written out by hand against the
// canonical form that canon makes of it, for any text, and their refusals too.
func TestRecordBytesAreCanonical(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "<&>\u2028\u2029", "\x00\x1f\b\f\n\r\t\"\\/", "\xff", "\xed\xa0\x80", "é😀", "\ufffd"}))
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) string { return text.Draw(t, name) }
		r := raw{V: 1, Tenant: draw("tenant"), Seq: rapid.Int64Range(0, canon.MaxInteger).Draw(t, "seq"), Time: time.Unix(rapid.Int64Range(0, 1<<37).Draw(t, "seconds"), rapid.Int64Range(0, 999999999).Draw(t, "nanos")).UTC().Format(timeForm), Clamped: rapid.Bool().Draw(t, "clamped"),
			Type: draw("type"), Task: draw("task"), Agent: draw("agent"), Actor: draw("actor"), ID: draw("id")}
		for range rapid.IntRange(0, 2).Draw(t, "evidence") {
			r.Evidence = append(r.Evidence, action.Evidence{Name: draw("name"), Blob: draw("blob"), Type: draw("media"), Size: rapid.Int64Range(0, 1<<40).Draw(t, "size")})
		}
		body, err := canon.Marshal(map[string]any{draw("key"): draw("value"), "n": rapid.Int32().Draw(t, "n")})
		if err != nil {
			body = []byte("{}")
		}
		r.Body = body
		var got, inner []byte
		f, gotErr := r.encode()
		if gotErr == nil {
			got, inner, gotErr = f.at(r.Seq, r.Clamped, r.Time)
		}
		want, wantErr := canon.Marshal(&r)
		if (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("got error %v, canon says %v", gotErr, wantErr)
		}
		if gotErr == nil && (!bytes.Equal(got, want) || !bytes.Equal(inner, body)) {
			t.Fatalf("got  %s\nwant %s\nbody %s", got, want, inner)
		}
		if len(got) > len(f.b)+maxAdded {
			t.Fatalf("%d bytes were added, more than %d", len(got)-len(f.b), maxAdded)
		}
	})
}

func TestRecordPositionOutOfRange(t *testing.T) {
	for _, seq := range []int64{-1, canon.MaxInteger + 1} {
		f, err := (&raw{V: 1, Body: canon.Value("{}")}).encode()
		if err != nil {
			t.Fatal(err)
		}
		if b, _, err := f.at(seq, false, timeForm); err == nil {
			t.Errorf("position %d: got %s", seq, b)
		}
	}
}
