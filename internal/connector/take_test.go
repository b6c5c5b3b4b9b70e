package connector_test

import (
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
)

func TestTakesAreChecked(t *testing.T) {
	for name, tt := range map[string]struct {
		takes []connector.Take
		http  bool
		want  string // of the error; "" is none
	}{
		"plain":             {takes: []connector.Take{{Source: "a", As: connector.AsBearer}, {Source: "b", As: connector.AsHeader, Header: "X-Api-Key"}}},
		"one_of_two":        {takes: []connector.Take{{Source: "a", As: connector.AsBearer}, {Source: "b", As: connector.AsBearer}}},
		"source":            {takes: []connector.Take{{Source: "A b", As: connector.AsBearer}}, want: "takes[0].source"},
		"origin":            {takes: []connector.Take{{Source: "a", As: connector.AsBearer, Origin: "other"}}, want: "takes[0].origin"},
		"no_header":         {takes: []connector.Take{{Source: "a", As: connector.AsHeader}}, want: "takes[0].header: want the name"},
		"header_of_bearer":  {takes: []connector.Take{{Source: "a", As: connector.AsBearer, Header: "X-A"}}, want: "takes[0].header: is of as: header"},
		"host":              {takes: []connector.Take{{Source: "a", As: connector.AsHeader, Header: "host"}}, want: "is no field for a credential"},
		"cookie":            {takes: []connector.Take{{Source: "a", As: connector.AsHeader, Header: "Cookie"}}, want: "is no field for a credential"},
		"transfer_encoding": {takes: []connector.Take{{Source: "a", As: connector.AsHeader, Header: "transfer-encoding"}}, want: "is no field for a credential"},
		"mcp_session":       {takes: []connector.Take{{Source: "a", As: connector.AsHeader, Header: "mcp-session-id"}}, want: "is no field for a credential"},
		"two_lines":         {takes: []connector.Take{{Source: "a", As: connector.AsHeader, Header: "X-A\r\nHost"}}, want: "takes[0].header: want the name"},
		"operation":         {takes: []connector.Take{{Source: "a", As: connector.AsBearer, Operations: []string{"iam.nothing"}}}, want: "takes[0].operations[0]"},
		"twice":             {takes: []connector.Take{{Source: "a", As: connector.AsBearer}, {Source: "a", As: connector.AsBasic}}, want: "is taken in the same place before"},
		"certificate":       {takes: []connector.Take{{Source: "a", As: connector.AsCertificate}}, http: true, want: "needs TLS"},
	} {
		u := "https://api.example"
		if tt.http {
			u = "http://127.0.0.1:8080"
		}
		spec := &connector.Spec{Stages: map[action.Stage]connector.Stage{action.Sandbox: {Origins: []connector.Origin{{Name: "main", URL: u, Local: tt.http}}}}, Takes: tt.takes}
		_, err := connector.NewSet(map[string]*connector.Spec{"iam": spec})
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

// What cannot be sent as it is, is refused without a word of it.
func TestCredentialThatNoFieldCarries(t *testing.T) {
	for _, tt := range []struct {
		as    connector.TakeAs
		value string
		fits  bool
	}{
		{connector.AsBearer, "abcDEF-._~+/123=", true}, {connector.AsBearer, "2short", false}, {connector.AsBearer, "line-break\n", false},
		{connector.AsBearer, "two words here", false}, {connector.AsBearer, "ünïcode-token", false}, {connector.AsBearer, "injected\r\nHost: evil", false},
		{connector.AsBasic, "user:pass word", true}, {connector.AsBasic, "no-user-name", false}, {connector.AsBasic, "user:line\nbreak", false},
		{connector.AsHeader, "any thing, really", true}, {connector.AsHeader, " blank-first", false}, {connector.AsHeader, "null\x00byte", false},
	} {
		k := connector.Take{Source: "a", As: tt.as, Header: "X-A"}
		if err := k.Check(tt.value); (err == nil) != tt.fits || err != nil && strings.Contains(err.Error(), tt.value) {
			t.Errorf("%s %q: %v", tt.as, tt.value, err)
		}
	}
}
