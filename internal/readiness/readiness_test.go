package readiness_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/readiness"
)

func evaluate(t *testing.T, src readiness.Source, o readiness.Options) *readiness.Report {
	t.Helper()
	return must(readiness.Evaluate(t.Context(), src, agent, o))(t)
}

func TestReady(t *testing.T) {
	s := newStory(t)
	s.tell()
	r := evaluate(t, source{s, s.world()}, readiness.Options{})
	var b bytes.Buffer
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	if !r.Ready || r.Decision != readiness.Ready {
		t.Fatalf("not ready:\n%s", &b)
	}
	t.Logf("\n%s", &b)
}

func TestLook(t *testing.T) {
	s := newStory(t)
	s.tell()
	w := s.world()
	w.Demo = true
	r := evaluate(t, source{s, w}, readiness.Options{Probe: true})
	w.Owner, w.Retention, w.Scripted = "", "", true
	w.Live = nil
	bad := evaluate(t, source{s, w}, readiness.Options{})
	for name, r := range map[string]*readiness.Report{"ready": r, "not": bad} {
		var b bytes.Buffer
		if err := r.HTML(&b); err != nil {
			t.Fatal(err)
		}
		os.WriteFile("/tmp/sp-readiness-"+name+".html", b.Bytes(), 0o644)
	}
}
