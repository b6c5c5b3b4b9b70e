package prefer_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/prefer"
)

func TestWait(t *testing.T) {
	for _, x := range []struct {
		in   []string
		want time.Duration
		ok   bool
		rest string
	}{
		{nil, 0, false, ""},
		{[]string{"wait=0"}, 0, true, ""},
		{[]string{"Wait = \"10\""}, 10 * time.Second, true, ""},
		{[]string{"return=minimal, wait=10; x=y", "respond-async"}, 10 * time.Second, true, "return=minimal, respond-async"},
		{[]string{"wait=1,wait=2"}, time.Second, true, ""},
		{[]string{`foo="a, wait=7", wait=3`}, 3 * time.Second, true, `foo="a, wait=7"`},
		{[]string{`foo="a\", wait=7"`}, 0, false, `foo="a\", wait=7"`},
		{[]string{`foo="a\`}, 0, false, `foo="a\`},
		{[]string{"wait=-1"}, 0, false, ""},
		{[]string{"wait=1.5"}, 0, false, ""},
		{[]string{"wait"}, 0, false, ""},
		{[]string{"waiting=1"}, 0, false, "waiting=1"},
		{[]string{"wait=99999999999999999999"}, prefer.Longest, true, ""},
		{[]string{"return=representation"}, 0, false, "return=representation"},
	} {
		h := http.Header{"Prefer": x.in}
		got, ok := prefer.Wait(h)
		if got != x.want || ok != x.ok {
			t.Errorf("%q: got %v %v, want %v %v", x.in, got, ok, x.want, x.ok)
		}
		prefer.Without(h)
		if rest := h.Get("Prefer"); rest != x.rest {
			t.Errorf("%q: left %q, want %q", x.in, rest, x.rest)
		}
	}
}
