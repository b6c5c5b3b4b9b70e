package canon_test

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

func TestDurationIsNanoseconds(t *testing.T) {
	b, err := canon.Marshal(action.Outcome{State: action.Done, Took: 5 * time.Second})
	if got, want := string(b), `{"state":"done","tookNanos":5000000000}`; got != want || err != nil {
		t.Fatalf("got %s, %v; want %s", got, err, want)
	}
	var o action.Outcome
	if err := canon.Unmarshal(b, 1000, &o); err != nil || o.Took != 5*time.Second {
		t.Fatalf("got %v, %v", o.Took, err)
	}
}

func TestIntegersBeyondDoubleAreRefused(t *testing.T) {
	for _, n := range []int64{math.MaxInt64, math.MinInt64, canon.MaxInteger + 1, -canon.MaxInteger - 1} {
		if b, err := canon.Marshal(map[string]any{"n": n}); err == nil {
			t.Errorf("%d: got %s, want an error", n, b)
		}
	}
	for _, n := range []int64{0, -1, canon.MaxInteger, -canon.MaxInteger} {
		b, err := canon.Marshal(map[string]any{`a"1\`: []int64{n}})
		if err != nil {
			t.Errorf("%d: %v", n, err)
		}
		var v map[string][]int64
		if err := canon.Unmarshal(b, 100, &v); err != nil || v[`a"1\`][0] != n {
			t.Errorf("%d: got %v, %v", n, v, err)
		}
	}
	var v map[string]int64
	if err := canon.Unmarshal([]byte(`{"n":9007199254740993}`), 100, &v); err == nil {
		t.Errorf("got %v, want an error", v)
	}
}

// TestRFC8785Vectors are the examples of RFC 8785: section 3.2.3 (sorting),
// section 3.2.2 (strings, literals) and appendix B (numbers).
func TestRFC8785Vectors(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`},
		{`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}"},
		{`[-0.0,5e-324,-5e-324,1.7976931348623157e308,1e21,1e-7,1.0]`,
			`[0,5e-324,-5e-324,1.7976931348623157e+308,1e+21,1e-7,1]`},
	} {
		got, err := canon.Marshal(canon.Value(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("got  %s, %v\nwant %s", got, err, c.want)
		}
	}
}

// Threats: T2, M1 (form)
func TestStrictReading(t *testing.T) {
	deep := strings.Repeat("[", canon.MaxDepth+1) + strings.Repeat("]", canon.MaxDepth+1)
	for name, in := range map[string]string{
		"empty": ``, "blank": ` `, "duplicate": `{"a":1,"a":2}`, "duplicate_escaped": `{"a":1,"\u0061":2}`, "nested_duplicate": `{"x":[{"a":1,"a":1}]}`,
		"trailing": `{} {}`, "trailing_junk": `{}x`, "cut_off": `{"a":`, "deep": deep, "invalid_utf8": "{\"a\":\"\xff\"}", "invalid_utf8_name": "{\"\xff\":1}",
		"lone_surrogate": `{"a":"\ud800"}`, "comment": `{}//x`, "single_quotes": `{'a':1}`, "trailing_comma": `[1,]`, "nan": `NaN`, "infinity": `-Infinity`,
		"leading_zero": `01`, "plus": `+1`, "hex": `0x1`, "bare_dot": `1.`, "bom": "\ufeff{}", "control": "\"\x01\"", "utf16": "{\x00}\x00", "nul": "{}\x00",
	} {
		if err := canon.Check([]byte(in), 1000); err == nil {
			t.Errorf("%s: got no error", name)
		}
		var v any
		if err := canon.Unmarshal([]byte(in), 1000, &v); err == nil {
			t.Errorf("%s: got %v", name, v)
		}
		if err := canon.UnmarshalOpen([]byte(in), 1000, &v); err == nil {
			t.Errorf("%s, open: got %v", name, v)
		}
	}
	ok := strings.Repeat("[", canon.MaxDepth) + strings.Repeat("]", canon.MaxDepth)
	if err := canon.Check([]byte(" "+ok+"\r\n\t"), 1000); err != nil {
		t.Error(err)
	}
	if err := canon.Check([]byte(`[1]`), 2); !errors.Is(err, canon.ErrTooLarge) {
		t.Errorf("got %v, want %v", err, canon.ErrTooLarge)
	}
	var v struct {
		A int `json:"a"`
	}
	if err := canon.Unmarshal([]byte(`{"a":1,"b":2}`), 100, &v); err == nil {
		t.Error("unknown member: got no error")
	}
	if err := canon.Unmarshal([]byte(`{"A":1}`), 100, &v); err == nil {
		t.Error("member in another case: got no error")
	}
	if err := canon.UnmarshalOpen([]byte(`{"a":1,"b":2}`), 100, &v); err != nil || v.A != 1 {
		t.Errorf("open: got %v, %v", v, err)
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, v := range map[string]any{"nan": math.NaN(), "infinity": math.Inf(1), "utf8": "\xff", "raw_duplicate": canon.Value(`{"a":1,"a":1}`),
		"raw_junk": canon.Value(`{}x`), "raw_huge": canon.Value(`1e999`), "raw_large": canon.Value(`10000000000000000.0`), "large": 1e20, "function": func() {}} {
		if b, err := canon.Marshal(v); err == nil {
			t.Errorf("%s: got %s", name, b)
		}
	}
}

// FuzzRoundTrip: what is read strictly has one canonical form, which reads the
// same and is its own canonical form.
func FuzzRoundTrip(f *testing.F) {
	for _, s := range []string{`{}`, `[1,-0,1.5,"\u0000\u2028"]`, `{"b":1,"a":{"é":"😀"}}`, `1e-7`, `9007199254740993`, `"\"\\"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if canon.Check(in, 1<<16) != nil {
			return
		}
		one, err := canon.Marshal(canon.Value(in))
		if err != nil {
			return // a number that a double cannot hold
		}
		two, err := canon.Marshal(canon.Value(one))
		if err != nil || string(one) != string(two) {
			t.Fatalf("%q: got %s, then %s, %v", in, one, two, err)
		}
		var v any
		if err := canon.Unmarshal(one, 1<<20, &v); err != nil {
			t.Fatalf("%s: %v", one, err)
		}
		three, err := canon.Marshal(v)
		if err != nil || string(three) != string(one) {
			t.Fatalf("%s: through values: %s, %v", one, three, err)
		}
	})
}

// FuzzAgainstTheLibrary holds the short way against the library's.
func FuzzAgainstTheLibrary(f *testing.F) {
	for _, s := range []string{`{}`, `[]`, `{"b":1,"a":{"d":[],"c":[{"z":null,"y":true},false]},"ab":"é"}`, `{"a":1,"":2}`, `-0`, `-1`, `[123456789012345,1234567890123456]`,
		`{"b":1.0,"a":2}`, `{"b":"\u0041","a":2}`, `{"\u0062":1,"a":2}`, `{"é":1,"a":2}`, `{"b":1, "a":2}`, `{"b":"\n"}`, "\"\x7f\"", `{"a":1,"a":2}`, `01`, `[1,]`, `{"a":1,}`,
		strings.Repeat("[", 70) + strings.Repeat("]", 70)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if jsontext.Value(in).IsValid() {
			got, err := canon.Marshal(canon.Value(in))
			want := jsontext.Value(bytes.Clone(in))
			if e := want.Canonicalize(); err == nil && (e != nil || string(got) != string(want)) {
				t.Fatalf("%q: got %s, want %s %v", in, got, want, e)
			}
		}
	})
}

func BenchmarkMarshal(b *testing.B) {
	v := map[string]any{"decision": action.Decision{Verdict: action.Allow, Layer: action.LayerGrant, Code: "permitted", Reason: "the task's capability covers it", Policies: []string{"grant/a/1"}},
		"action": action.Action{ID: "a-1", Tenant: "acme", Task: "t-1", Agent: "helpdesk", Operation: "iam.user.read", Request: &action.Request{Method: "GET", Origin: "https://iam"}}}
	for b.Loop() {
		if _, err := canon.Marshal(v); err != nil {
			b.Fatal(err)
		}
	}
}
