package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

func TestMain(m *testing.M) {
	contain.Main()
	os.Exit(m.Run())
}

func TestQuantiles(t *testing.T) {
	var s samples
	for i := 100; i > 0; i-- {
		s = append(s, time.Duration(i))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := s.at(q); got != want {
			t.Errorf("quantile %v: got %d, want %d", q, got, want)
		}
	}
	if s[0] != 100 {
		t.Error("the samples were sorted in place")
	}
	if got := samples(nil).p99(); got != 0 {
		t.Errorf("of nothing: got %d", got)
	}
	if got := (samples{time.Millisecond, 3 * time.Millisecond}).rate(); got != 500 {
		t.Errorf("rate: got %v, want 500", got)
	}
	for _, tt := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(tt.in); got != tt.want {
			t.Errorf("median of %v: got %v, want %v", tt.in, got, tt.want)
		}
	}
}

// A round takes each side as often as it was asked, in turn, and ends with the
// first error.
func TestPairAlternates(t *testing.T) {
	var order strings.Builder
	side := func(name string, d time.Duration) func() (time.Duration, error) {
		return func() (time.Duration, error) { order.WriteString(name); return d, nil }
	}
	var p pair
	for range 3 {
		if err := p.each(60, side("o", 6), side("b", 2)); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.Repeat(strings.Repeat("b", 25)+strings.Repeat("o", 50)+strings.Repeat("b", 35)+strings.Repeat("o", 10), 3)
	if order.String() != want {
		t.Errorf("order: got %s, want %s", &order, want)
	}
	if len(p.own) != 3 || len(p.own[2]) != 60 || len(p.base[0]) != 60 || p.ratio() != 3 || p.added() != 4 {
		t.Errorf("got %d rounds, ratio %v, added %d", len(p.own), p.ratio(), p.added())
	}
	bad := errors.New("bad")
	if err := p.each(5, side("o", 1), func() (time.Duration, error) { return 0, bad }); !errors.Is(err, bad) || len(p.own) != 3 {
		t.Errorf("got %v and %d rounds", err, len(p.own))
	}
}

func TestPageSaysWhatIsOver(t *testing.T) {
	b := &bench{}
	b.fact("Kernel", "Linux")
	b.add(row{"a", "1 µs", "2 µs", "0.50x", "under 2x", true}, row{"b", "9 ms", "1 ms", "9.00x", "under 2x", false}, row{"c", "1", "", "", "", false})
	b.note("How %s is measured.", "a")
	page := b.page()
	for _, want := range []string{header, "- Kernel: Linux\n", "| a    | 1 µs  | 2 µs     | 0.50x | under 2x | ok   |\n",
		"| b    | 9 ms  | 1 ms     | 9.00x | under 2x | over |\n", "| c    | 1     |          |       |          |      |\n", "- How a is measured.\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{1234: "1.23 µs", 45678: "46 µs", 1234567: "1.23 ms", 45678901: "45.7 ms", -45678: "-46 µs"} {
		if got := short(d); got != want {
			t.Errorf("%d: got %q, want %q", d, got, want)
		}
	}
}

// What is compared must be what it says: a let-through read leaves a decision
// and an outcome, a refusal one record, and a number of guardrails is that number.
func TestDecisionsAreWhatTheyAreCalled(t *testing.T) {
	s, err := plainSample()
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDisk(t.Context(), filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	guardrails, err := s.guardrails(policies, scoped)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(guardrails.IDs()); got != policies {
		t.Errorf("got %d guardrails, want %d", got, policies)
	}
	g := newGate()
	if err := s.admit(g, d, guardrails, taskName); err != nil {
		t.Fatal(err)
	}
	yes, err := s.read(origin0)
	if err != nil {
		t.Fatal(err)
	}
	no, err := s.write(origin0)
	if err != nil {
		t.Fatal(err)
	}
	first, all, err := act(t.Context(), g, yes)
	if err != nil || first <= 0 || first > all {
		t.Errorf("read: to dispatch %v of %v: %v", first, all, err)
	}
	if _, err := refuse(t.Context(), g, no); err != nil {
		t.Error(err)
	}
	if _, _, err := act(t.Context(), g, no); err == nil {
		t.Error("a refused write counted as let through")
	}
	if _, err := refuse(t.Context(), g, yes); err == nil {
		t.Error("a read that was let through counted as refused")
	}
	var types []string
	if err := d.log.Entries(t.Context(), 0, func(e record.Entry) error { types = append(types, e.Type); return nil }); err != nil {
		t.Fatal(err)
	}
	want := "action.decided action.outcome action.decided action.decided action.decided action.outcome"
	if got := strings.Join(types, " "); got != want {
		t.Errorf("records: got %s, want %s", got, want)
	}
	if err := g.End(t.Context(), func(gate.Admission) bool { return true }, "closed", "over"); err != nil {
		t.Error(err)
	}
}

// One session of the memory measurement passes both doors and leaves nothing
// that the gate still knows.
func TestSessionIsWhole(t *testing.T) {
	r, err := newRig(t.Context(), filepath.Join(t.TempDir(), "rig"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	engine := newEngine(r)
	if err := r.session(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	var types []string
	if err := r.disk.log.Entries(context.Background(), 0, func(e record.Entry) error { types = append(types, e.Type); return nil }); err != nil {
		t.Fatal(err)
	}
	want := "task.opened task.active action.decided action.outcome action.decided action.outcome task.closing task.closed"
	if got := strings.Join(types, " "); got != want {
		t.Errorf("records: got %s, want %s", got, want)
	}
}
