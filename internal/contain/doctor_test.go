package contain_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

func TestDoctorIsHonest(t *testing.T) {
	r := contain.Doctor(t.Context())
	for _, c := range r.Checks {
		t.Logf("%+v", c)
		if !c.OK && c.Do == "" {
			t.Errorf("%s: not OK and nothing to do", c.Name)
		}
		if c.Needed && !c.OK && r.Grade == contain.Contained {
			t.Errorf("graded contained without %s", c.Name)
		}
	}
	for _, f := range r.Findings {
		if !f.Stopped && r.Grade != contain.None {
			t.Errorf("%s got through, graded %s", f.Name, r.Grade)
		}
	}
	if r.Grade != contain.Contained {
		t.Errorf("this machine, where the other tests pass, is graded %s", r.Grade)
	}
}

func TestDoctorMissesBrowser(t *testing.T) {
	t.Setenv("SALLYPORT_CHROMIUM", "/nonexistent/chromium")
	if r := contain.Doctor(t.Context()); r.Grade != contain.Partial {
		t.Errorf("without a browser: got %s, want %s", r.Grade, contain.Partial)
	}
}
