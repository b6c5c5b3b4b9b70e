package boundary_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/boundary"
)

func fact(name, value string, g boundary.Grade) boundary.Fact {
	return boundary.Fact{Name: name, Value: value, Grade: g, Measured: time.Unix(1, 0)}
}

func manifest(t *testing.T, facts ...boundary.Fact) boundary.Manifest {
	t.Helper()
	m, err := boundary.New("helpdesk", facts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDigestIsOfValuesOnly(t *testing.T) {
	a := manifest(t, fact("model.id", "m-1", boundary.Declared), fact("tools", "sha256:1", boundary.Observed))
	b := manifest(t, fact("tools", "sha256:1", boundary.Pinned), fact("model.id", "m-1", boundary.Observed))
	if a.Digest() != b.Digest() {
		t.Error("order or grade changed the digest")
	}
	for _, other := range []boundary.Manifest{
		manifest(t, fact("model.id", "m-2", boundary.Declared), fact("tools", "sha256:1", boundary.Observed)),
		manifest(t, fact("model.id", "m-1", boundary.Declared)),
		manifest(t, fact("model.idm-1", "", boundary.Declared), fact("tools", "sha256:1", boundary.Observed)),
	} {
		if other.Digest() == a.Digest() {
			t.Errorf("%v has the digest of another boundary", other.Facts)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, facts := range map[string][]boundary.Fact{
		"twice":    {fact("a", "1", boundary.Declared), fact("a", "2", boundary.Declared)},
		"no_name":  {fact("", "1", boundary.Declared)},
		"no_grade": {fact("a", "1", "")},
		"nonsense": {fact("a", "1", "certain")},
	} {
		if _, err := boundary.New("x", facts); err == nil {
			t.Errorf("%s: got a manifest", name)
		}
	}
}

func TestDriftAndDiff(t *testing.T) {
	m := manifest(t, fact("model.id", "m-1", boundary.Observed), fact("tools", "d", boundary.Observed))
	if d := m.Drift(boundary.Measure{"model.id": "m-1"}); len(d) != 0 {
		t.Errorf("got %v, want none", d)
	}
	d := m.Drift(boundary.Measure{"model.id": "m-2", "tools.extra": "x"})
	if len(d) != 2 || d[0].String() != "model.id: m-1 → m-2" || d[1].String() != "tools.extra: (none) → x" {
		t.Errorf("got %v", d)
	}
	now := manifest(t, fact("model.id", "m-1", boundary.Observed))
	if d := boundary.Diff(m, now); len(d) != 1 || d[0] != (boundary.Change{Name: "tools", Old: "d"}) {
		t.Errorf("got %v", d)
	}
}

// What a harness or provider wrote has room in a record, whatever it is and however much.
func TestBriefChanges(t *testing.T) {
	if got := boundary.Brief([]boundary.Change{{Name: "model.location", Old: "Genève", New: "\u202eevil"}}); got[0].Old != "Genève" || !strings.HasPrefix(got[0].New, "sha256:") {
		t.Errorf("got %v", got)
	}
	many := make([]boundary.Change, 1000)
	for i := range many {
		many[i] = boundary.Change{Name: "connector." + strings.Repeat("n", 63), Old: strings.Repeat(`"`, 200), New: strings.Repeat("x", 1<<20)}
	}
	b, err := json.Marshal(boundary.Brief(many))
	if err != nil || len(b) > 1<<15 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if len(many[0].New) != 1<<20 {
		t.Error("the changes themselves were cut")
	}
}

func TestUnknownGradeIsBelowAll(t *testing.T) {
	if boundary.Grade("").AtLeast(boundary.Declared) || boundary.Grade("x").AtLeast("x") {
		t.Error("an unknown grade counted")
	}
	m := manifest(t, fact("model.id", "1", boundary.Observed), fact("model.location", "eu", boundary.Declared))
	if w, ok := m.Weakest("model."); !ok || w.Name != "model.location" {
		t.Errorf("got %v %v", w, ok)
	}
}
