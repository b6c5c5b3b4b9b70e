package cli

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// A server knows a resource by kind and name; its user knows a file and a line.
func TestLocated(t *testing.T) {
	all := []resource.Resource{
		{Kind: "Capability", Metadata: resource.Metadata{Name: "reset"}, File: "a.yaml", Line: 4},
		{Kind: "Capability", Metadata: resource.Metadata{Name: "reset-mfa"}, File: "b.yaml", Line: 9},
	}
	err := located(&client.Refusal{Status: 400, Problem: server.Problem{Code: "invalid_resources",
		Reason: "Capability/reset-mfa: spec.reads[0]: no\nAgent/other: spec: no"}}, all, nil)
	want := "b.yaml:9: spec.reads[0]: no\nAgent/other: spec: no"
	if got := err.(*client.Refusal).Reason; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What a harness prints cannot drive a terminal, however it is cut.
func TestHarmless(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\r\n":      "plain\ttext\r\n",
		"\x1b]0;title\x07":     "^[]0;title^G",
		"\x7f\x00":             "^?^@",
		"Zürich 漢字":            "Zürich 漢字",
		"csi as one: \u009b2J": "csi as one: ¤2J",
	} {
		for cut := range len(in) + 1 {
			var got writes
			h := &harmless{w: &got}
			h.Write([]byte(in[:cut]))
			h.Write([]byte(in[cut:]))
			if string(got) != want {
				t.Errorf("%q cut at %d: got %q, want %q", in, cut, string(got), want)
			}
		}
	}
}

type writes []byte

func (w *writes) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }

// Names from files and records are shown, not obeyed.
func TestPlain(t *testing.T) {
	if got, want := plain("a\x1b[31m\u202eb\nc"), `a\u{001b}[31m\u{202e}b\u{000a}c`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
