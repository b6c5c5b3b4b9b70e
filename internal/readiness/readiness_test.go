package readiness_test

import (
	"bytes"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/readiness"
)

func evaluate(t *testing.T, src readiness.Source, o readiness.Options) *readiness.Report {
	t.Helper()
	return must(readiness.Evaluate(t.Context(), src, agent, o))(t)
}

func TestReady(t *testing.T) {
	s := newStory(t)
	s.tell()
	s.run(action.Shadow, nil) // has no certification and needs none
	r := evaluate(t, source{s, s.world()}, readiness.Options{})
	var b bytes.Buffer
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	if !r.Ready || r.Decision != readiness.Ready {
		t.Fatalf("not ready:\n%s", &b)
	}
}
