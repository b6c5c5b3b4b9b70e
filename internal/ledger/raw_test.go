package ledger

import (
	"bytes"
	"testing"

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
		r := raw{V: 1, Tenant: draw("tenant"), Seq: rapid.Int64Range(0, canon.MaxInteger).Draw(t, "seq"), Time: draw("time"), Clamped: rapid.Bool().Draw(t, "clamped"),
			Type: draw("type"), Task: draw("task"), Agent: draw("agent"), Actor: draw("actor"), ID: draw("id")}
		for range rapid.IntRange(0, 2).Draw(t, "evidence") {
			r.Evidence = append(r.Evidence, action.Evidence{Name: draw("name"), Blob: draw("blob"), Type: draw("media"), Size: rapid.Int64Range(0, 1<<40).Draw(t, "size")})
		}
		body, err := canon.Marshal(map[string]any{draw("key"): draw("value"), "n": rapid.Int32().Draw(t, "n")})
		if err != nil {
			body = []byte("{}")
		}
		r.Body = body
		got, gotErr := r.encode()
		want, wantErr := canon.Marshal(&r)
		if (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("got error %v, canon says %v", gotErr, wantErr)
		}
		if gotErr == nil && !bytes.Equal(got, want) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}

func TestRecordPositionOutOfRange(t *testing.T) {
	for _, seq := range []int64{-1, canon.MaxInteger + 1} {
		if b, err := (&raw{V: 1, Seq: seq, Body: canon.Value("{}")}).encode(); err == nil {
			t.Errorf("position %d: got %s", seq, b)
		}
	}
}
