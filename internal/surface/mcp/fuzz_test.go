package mcp

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// FuzzMessage: what is read as a call is one strict document, whose name and arguments
// another reader finds in it too.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":{"id":1},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a","reason":"r"}}`))
	f.Add([]byte(`[{"jsonrpc":"2.0","id":1,"method":"ping"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		q := &request{raw: b}
		if q.parse() != nil || q.Method != "tools/call" || q.Name == nil {
			return
		}
		var again struct {
			Method string `json:"method"`
			Params struct {
				Name      string      `json:"name"`
				Arguments canon.Value `json:"arguments"`
			} `json:"params"`
		}
		if err := canon.UnmarshalOpen(b, maxRequest, &again); err != nil || again.Method != q.Method || again.Params.Name != *q.Name || !bytes.Equal(again.Params.Arguments, q.Arguments) {
			t.Fatalf("%v: %+v and %+v", err, again, q)
		}
	})
}

// FuzzAnswer: whatever a server sends, what is passed on has no part but text and
// pictures, and no secret.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\ndata: \"result\":{\"content\":[{\"type\":\"text\",\"text\":\"secret\"}]}}\n\n"))
	f.Add([]byte("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"structuredContent\":{\"a\":1},\"content\":[{\"type\":\"resource_link\",\"uri\":\"x\"}]}}\r\n\r\n"))
	f.Add([]byte("data: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"sampling/createMessage\"}\n\n"))
	redact := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("secret"), []byte("-")) }
	f.Fuzz(func(t *testing.T, b []byte) {
		raw, err := events(bytes.NewReader(b), 1)
		if err != nil {
			return
		}
		result, _, err := pass(raw, redact)
		if err != nil {
			return
		}
		for _, part := range result["content"].([]any) {
			if kind := part.(map[string]any)["type"]; kind != "text" && kind != "image" {
				t.Fatalf("passed on: %v", part)
			}
		}
		if out, err := canon.Marshal(result); err == nil && strings.Contains(string(out), `"uri"`) && !strings.Contains(string(out), "structuredContent") {
			t.Fatalf("passed on: %s", out)
		}
	})
}

// FuzzDefinition: reading what a server says of a tool does not depend on anything but its
// bytes, and never panics.
func FuzzDefinition(f *testing.F) {
	f.Add([]byte(`{"name":"read","inputSchema":{"type":"object","properties":{"id":{"$ref":"#/$defs/a"}},"$defs":{"a":{"type":"integer"}}}}`), []byte(`{"id":1}`))
	f.Add([]byte(`{"name":"read","inputSchema":{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","patternProperties":{"(":{}}}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, b, arguments []byte) {
		read := func() (string, bool) {
			u := &upstream{Server: Server{App: "x", Tools: []string{"read"}}, redact: func(b []byte) []byte { return b }}
			s, err := u.sight([]canon.Value{b}, session{server: "s"})
			if err != nil {
				return err.Error(), false
			}
			d := s.tools["read"]
			return s.facts["mcp.x.tools"] + s.facts["mcp.x.tool.read.says"] + s.facts["mcp.x.tool.read.takes"], d != nil && d.schema.valid(arguments)
		}
		facts, valid := read()
		if f2, v2 := read(); f2 != facts || v2 != valid {
			t.Fatalf("two readings differ: %s %t, %s %t", facts, valid, f2, v2)
		}
		for _, r := range facts {
			if r < ' ' || r > '~' {
				t.Fatalf("a fact has what somebody wrote: %q", facts)
			}
		}
	})
}
