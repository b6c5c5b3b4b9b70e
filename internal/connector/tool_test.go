package connector_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
)

// tools is a connector with an MCP server beside its requests.
func tools(change func(*connector.Spec)) *connector.Spec {
	s := spec()
	s.MCP = &connector.MCP{Path: "/mcp", Server: "directory"}
	s.Fold = []string{"user"}
	s.Operations = append(s.Operations,
		connector.Operation{Name: "iam.note.add", Kind: connector.KindTool, Tool: "add_note", Effect: action.Write, Labels: []string{"untrusted-content"},
			Arguments: map[string]connector.Field{"user": {Param: "user"}, "text": {Param: "text"}, "stars": {Param: "stars", Type: connector.TypeInteger, Optional: true},
				"tags": {Param: "tags", Type: connector.TypeJSON, Optional: true}, "mode": {Const: text("plain"), Optional: true}}},
		connector.Operation{Name: "iam.note.list", Kind: connector.KindTool, Tool: "list-notes", Effect: action.Read})
	if change != nil {
		change(s)
	}
	return s
}

// TestTools: what a call of a tool means, and that nothing beside what is declared means
// anything.
//
// Threats: T19, T21 (form)
func TestTools(t *testing.T) {
	set, err := connector.NewSet(map[string]*connector.Spec{"iam": tools(nil)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		arguments, code string
		params          map[string]string
	}{
		{`{"text":"hi","user":"Jo"}`, "", map[string]string{"user": "jo", "text": "hi"}},
		{`{"mode":"plain","stars":3,"tags":["a",{"b":1}],"text":"","user":"jo"}`, "", map[string]string{"user": "jo", "text": "", "stars": "3", "tags": `["a",{"b":1}]`}},
		{`{"user":"jo"}`, "missing_field", nil},
		{`{"bcc":"eve","text":"hi","user":"jo"}`, "unknown_field", nil},
		{`{"Text":"hi","text":"hi","user":"jo"}`, "unknown_field", nil},
		{`{"text":["hi"],"user":"jo"}`, "field_type", nil},
		{`{"stars":3.5,"text":"hi","user":"jo"}`, "field_type", nil},
		{`{"mode":"html","text":"hi","user":"jo"}`, "field_value", nil},
		{`{"text":"hi","user":"j\u00f6"}`, "value_form", nil},
		{`{"text":"a","text":"b","user":"jo"}`, "json", nil},
		{`["jo"]`, "json", nil},
	} {
		m, err := set.RecognizeTool("iam", "add_note", []byte(tc.arguments))
		if err != nil || m.Code != tc.code || m.Matched != (tc.code == "") || !maps.Equal(m.Params, tc.params) || m.Operation != "iam.note.add" || m.Effect != action.Write {
			t.Errorf("%s: got %+v, %v", tc.arguments, m, err)
		}
	}
	if _, err := set.RecognizeTool("iam", "add_Note", []byte(`{}`)); err == nil {
		t.Error("a tool of another case was recognised")
	}
	got, ok := set.Tools(action.Production, "iam")
	if !ok || got.URL != here+"/mcp" || got.Server != "directory" || strings.Join(got.Tools, " ") != "add_note list-notes" {
		t.Errorf("got %+v", got)
	}
	// No request of a page or harness goes to the server of tools.
	for _, path := range []string{"/mcp", "/mcp/", "/MCP"} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			r, b := request(method, path, "", "")
			if m, err := set.Recognize(action.Production, r, b); err != nil || m.Matched || m.Code != "mcp_endpoint" || m.Effect != action.Write {
				t.Errorf("%s %s: got %+v, %v", method, path, m, err)
			}
		}
	}
	all, required := tools(nil).Operations[len(spec().Operations)].Params()
	if strings.Join(all, " ") != "stars tags text user" || strings.Join(required, " ") != "text user" {
		t.Errorf("parameters: %v, %v", all, required)
	}
}

func TestToolErrors(t *testing.T) {
	last := func(change func(*connector.Operation)) func(*connector.Spec) {
		return func(s *connector.Spec) { change(&s.Operations[len(s.Operations)-1]) }
	}
	take := func(as connector.TakeAs, operations ...string) func(*connector.Spec) {
		return func(s *connector.Spec) {
			s.Takes = []connector.Take{{Source: "key", As: as, Operations: operations}}
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*connector.Spec)
		want   string
	}{
		{"no_server", func(s *connector.Spec) { s.MCP = nil }, "say where the server"},
		{"no_tool", func(s *connector.Spec) { s.Operations = s.Operations[:3] }, "no operation is of kind: tool"},
		{"server_path", func(s *connector.Spec) { s.MCP.Path = "/{x}" }, "mcp.path"},
		{"server_origin", func(s *connector.Spec) { s.MCP.Origin = "other" }, "there is no origin"},
		{"name", last(func(o *connector.Operation) { o.Tool = "list\u0430" }), "want the name of a tool"},
		{"twice", last(func(o *connector.Operation) { o.Tool = "Add-Note" }), "are of one tool"},
		{"method", last(func(o *connector.Operation) { o.Method = "POST" }), "has neither"},
		{"arguments_of_a_request", operation(func(o *connector.Operation) { o.Tool = "x" }), "kind: tool"},
		{"ignored", last(func(o *connector.Operation) { o.Arguments = map[string]connector.Field{"a": {Ignored: true}} }), "every argument is decided"},
		{"secret", last(func(o *connector.Operation) { o.Arguments = map[string]connector.Field{"a": {Secret: "key"}} }), "every argument is decided"},
		{"file", last(func(o *connector.Operation) {
			o.Arguments = map[string]connector.Field{"a": {Param: "a", Type: connector.TypeFile}}
		}), "multipart"},
		{"json_in_a_body", operation(func(o *connector.Operation) {
			o.Body = &connector.Body{Type: connector.BodyJSON, Fields: map[string]connector.Field{"a": {Param: "a", Type: connector.TypeJSON}}}
		}), "of type json"},
		{"certificate", take(connector.AsCertificate), "header field"},
		{"one_tool_with_a_credential", take(connector.AsBearer, "iam.note.list"), "leave operations out"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := connector.NewSet(map[string]*connector.Spec{"iam": tools(tc.change)})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}
