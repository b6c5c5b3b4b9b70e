package canon_test

import (
	"math"
	"testing"
	"time"

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
